"""What studies leave in a run's folder, ``x.json`` and ``figures/x.png``, as W&B's figures and tables."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

from lightning_adv2.files import read_json
from lightning_adv2.files.text import visible
from lightning_adv2.report.harmless import harmless
from lightning_adv2.report.wandb.files import FILE
from lightning_adv2.report.wandb.pieces import Piece, digest_of

MAX_ROWS = 1000
_REPORT = ("results.json", "stamp.json", "manifest.json", FILE)
_REPORT_FIGURES = ("agreement", "overview", "gallery", "convergence")  # see results.write_figures

Table = list[dict[str, Any]]


def study_pieces(folder: Path, stage: str) -> list[Piece]:
    """One piece per study, named after its files, with the keys ``studies/{stage}/{name}/...``.

    Args:
        folder: of the run.
        stage: ``test`` or ``val``.
    """
    found: dict[str, list[Path]] = {}
    for path in sorted(folder.glob("*.json")):
        if path.name not in _REPORT:
            found.setdefault(path.stem, []).append(path)
    for path in sorted((folder / "figures").rglob("*.png")):
        if path.stem not in _REPORT_FIGURES:
            found.setdefault(str(path.relative_to(folder / "figures").with_suffix("")), []).append(path)
    pieces = []
    for name, paths in sorted(found.items()):
        with harmless(f"W&B's part of {', '.join(map(str, paths))}", f"'lightning-adv2 sync {folder}' logs it"):
            if _content(paths):
                row = partial(_row, f"studies/{stage}/{name}", paths)
                pieces.append(Piece(f"{stage}/{name}", digest_of(*paths), row))
    return pieces


def _row(prefix: str, paths: Sequence[Path], experiment: Any) -> dict[str, Any]:
    import wandb

    row: dict[str, Any] = {}
    for key, value in _content(paths).items():
        if isinstance(value, Path):
            row[f"{prefix}/{key}"] = wandb.Image(str(value))
        else:
            columns: list[Any] = list(dict.fromkeys(column for line in value for column in line))
            data = [[_text(line.get(column)) for column in columns] for line in value]
            row[f"{prefix}/{key}"] = wandb.Table(columns=columns, data=data)
    return row


def _text(value: Any) -> Any:
    """A name as text, whatever it holds; all else as it is."""
    return visible(value) if isinstance(value, str) else value


def _content(paths: Sequence[Path]) -> dict[str, Path | Table]:
    """``figure`` and the tables by name: every list of rows in the JSON file; of ``rows`` it is ``table``."""
    content: dict[str, Path | Table] = {}
    for path in paths:
        if path.suffix == ".png":
            content["figure"] = path
            continue
        written = read_json(path)
        values = written if isinstance(written, dict) else {}
        if values and all(_plain(value) for value in values.values()):  # name -> measures
            content["table"] = [{"name": name, **value} for name, value in values.items()]
        for key, value in values.items():
            if isinstance(value, list) and value and all(map(_plain, value)):
                content["table" if key == "rows" else key] = value[:MAX_ROWS]
    return content


def _plain(value: Any) -> bool:
    """Whether it is a row of a table: a dictionary without lists and dictionaries in it."""
    return isinstance(value, dict) and not any(isinstance(one, list | dict) for one in value.values())
