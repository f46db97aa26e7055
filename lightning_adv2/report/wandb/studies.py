"""The studies of a run as W&B's tables and figures, under ``studies/{stage}/{name}/``."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

from lightning_adv2.files.text import visible
from lightning_adv2.report.findings import StudyFile, details_of, read_findings, study_names
from lightning_adv2.report.harmless import harmless
from lightning_adv2.report.wandb.pieces import Piece, digest_of
from lightning_adv2.results.summary import Row

MAX_ROWS = 1000


def study_pieces(folder: Path, stage: str) -> list[Piece]:
    """One piece per study: rows as ``table``, further rows by their names, figures as ``figure``, ``figure_maps``.

    Args:
        folder: of the run.
        stage: ``test`` or ``val``.
    """
    pieces = []
    for name in study_names(folder):
        with harmless(f"W&B's part of {folder / name}.json", f"'lightning-adv2 sync {folder}' logs it"):
            study = read_findings(folder, name)
            if study is not None:
                row = partial(_row, f"studies/{stage}/{name}", study)
                pieces.append(Piece(f"{stage}/{name}", digest_of(*study.paths), row))
    return pieces


def _row(prefix: str, study: StudyFile, experiment: Any) -> dict[str, Any]:
    import wandb

    tables = {"table": study.findings.rows, **details_of(study.findings)}
    row: dict[str, Any] = {f"{prefix}/{key}": _table(rows) for key, rows in tables.items() if rows}
    for path in study.figures:
        row[f"{prefix}/figure{path.stem.removeprefix(study.name)}"] = wandb.Image(str(path))
    return row


def _table(rows: Sequence[Row]) -> Any:
    """A table of W&B's: names as text, lists as one text."""
    import wandb

    columns: list[Any] = list(rows[0])
    return wandb.Table(columns=columns, data=[[_plain(row.get(key)) for key in columns] for row in rows[:MAX_ROWS]])


def _plain(value: Any) -> Any:
    if isinstance(value, list | dict):
        return visible("; ".join(map(str, value)))
    return visible(value) if isinstance(value, str) else value
