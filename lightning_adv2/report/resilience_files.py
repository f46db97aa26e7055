"""The resilience report on disk, on the terminal and as a picture."""

from __future__ import annotations

import csv
import json
from collections.abc import Sequence
from io import StringIO
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure
from rich.console import Console, Group
from rich.table import Table
from rich.text import Text

from lightning_adv2.files import read_json, read_text, write_json
from lightning_adv2.report.harmless import draw
from lightning_adv2.report.old_tables import show
from lightning_adv2.report.worst_case import AGREEMENTS
from lightning_adv2.results.means import OVER, over
from lightning_adv2.results.summary import Row
from lightning_adv2.results.tables import write_csv

NUMBERS = (
    "resilience", "worst_iou", "worst_l1", "asr", "iou_true_class", "iou_target_class", "control_iou", "transfer_iou",
    "benign_loss",
)  # fmt: skip
"""The keys of a row that hold a number, or None."""


def read_evaluation(folder: Path) -> dict[str, Any]:
    """What :func:`~lightning_adv2.report.resilience.resilience_rows` takes, from a run's folder.

    Raises:
        FileNotFoundError: ``results.json``, ``images.csv`` or ``map_quality.json`` is missing.
    """
    read = {
        "rows": json.loads(_text(folder / "results.json", "AttackEvaluation"))["rows"],
        "images": [_image(row) for row in csv.DictReader(StringIO(_text(folder / "images.csv", "AttackEvaluation")))],
        "quality": {
            row["interpreter"]: {key: value for key, value in row.items() if key != "interpreter" and value is not None}
            for row in json.loads(_text(folder / "map_quality.json", "MapQualityEvaluation"))["rows"]
        },
    }
    for name in ("noise", "transfer"):
        path = folder / f"{name}.json"
        read[name] = read_json(path)["rows"] if path.exists() else []
    return read


def _text(path: Path, writer: str) -> str:
    try:
        return read_text(path)
    except FileNotFoundError as error:
        raise FileNotFoundError(
            f"{path} is missing, which {writer} writes; evaluate in this folder with {writer} before ResilienceReport"
        ) from error


def _image(row: Row) -> Row:
    """What the worst case takes of a line of ``images.csv``; a number is written so that it is read as it was."""
    values: Row = {key: row[key] for key in ("interpreter", "attack", "schedule", "image_id")}
    values |= {key: row[key] == "True" for key in ("success", "valid")}
    return values | {key: float(row[key]) for key in (*AGREEMENTS, "l1")}


def write_resilience(folder: Path, rows: Sequence[Row], settings: dict[str, Any]) -> None:
    """Write ``resilience.json``, ``resilience.csv`` and ``figures/resilience.png``."""
    write_json(folder / "resilience.json", {**settings, "rows": list(rows)})
    flat = [_flat(row) for row in rows]
    keys = list(dict.fromkeys(key for row in flat for key in row))
    write_csv([{key: row.get(key) for key in keys} for row in flat], folder / "resilience.csv")
    draw_resilience(folder, rows, settings["tolerance"])


def draw_resilience(folder: Path, rows: Sequence[Row], tolerance: float) -> None:
    """Draw ``figures/resilience.png``."""
    draw(folder / "figures" / "resilience.png", lambda: scatter(rows, tolerance))


def _flat(row: Row) -> Row:
    flat: Row = {}
    for key, value in row.items():
        if isinstance(value, dict):
            flat |= {f"{key}_{name}": one for name, one in value.items()}
        else:
            flat[key] = "; ".join(value) if isinstance(value, list) else value
    return flat


def print_resilience(rows: Sequence[Row], reference: str, console: Console | None = None) -> None:
    """A table, those that count in bold; below it why the others do not."""
    table = Table(title="Who resists, and what is the map worth?", title_justify="left", title_style="bold")
    for heading in ("rank", "interpreter"):
        table.add_column(heading)
    headings = (
        "resilience",
        "decided by",
        "worst IoU",
        "by",
        "ASR",
        "IoU true class",
        "IoU target class",
        "control IoU",
    )
    for heading in (*headings, "transfer IoU", "gap", "benign loss", f"L1 to {reference}"):
        table.add_column(heading, justify="right")
    for row in rows:
        middle = ("iou_true_class", "iou_target_class", "control_iou", "transfer_iou")
        cells = ["-" if row["rank"] is None else str(row["rank"]), row["interpreter"], _number(row["resilience"])]
        cells.append("-" if row["decided_by"] is None else row["decided_by"].replace("_", " ").replace("iou", "IoU"))
        cells += [_over(row, "worst_iou"), row["worst_attack"] or "-", _number(row["asr"], "{:.1%}")]
        cells += [*(_over(row, key) for key in middle), _number(row["benign"].get("gap"))]
        cells += [_number(row["benign_loss"], "{:.1%}"), _number(row["benign"].get("agreement_l1"))]
        table.add_row(*cells, style="bold" if row["counts"] else "dim")
    reasons = [
        f"! {row['interpreter']} does not count: {'; '.join(_reasons(row))}" for row in rows if not row["counts"]
    ]
    failed = [
        f"! {row['interpreter']}: {key} fails (ASR {_number(asr, '{:.1%}')}); it counts where it succeeds"
        for row in rows
        for key, asr in row["failed_attacks"].items()
    ]
    below = [Text("\n".join(reasons + failed), style="yellow")] if reasons or failed else []
    notes = [Text(OVER, style="dim")] if any(any(row.get("empty", {}).values()) for row in rows) else []
    show(Group(table, *notes, *below), console)


def _reasons(row: Row) -> list[str]:
    share = _number(row["asr"], "{:.1%}")
    unclaimed = [f"the attacks on its map succeed on too few images ({share}), which is not claimed to be resilience"]
    return [*row["gate"], *row["flags"], *(unclaimed if row["resilience"] is None else [])]


def _over(row: Row, key: str) -> str:
    """A mean IoU of the worst case, and over how many images it is where some have none."""
    successful = row.get("successful", 0)  # older files count neither
    empty = row.get("empty", {}).get("iou" if key == "worst_iou" else key, 0)
    return over(_number(row[key]), successful - empty, successful)


def scatter(rows: Sequence[Row], tolerance: float) -> Figure:
    """Loss of benign quality against worst-case IoU, every interpreter named; full dots count.

    Args:
        rows: of :func:`~lightning_adv2.report.resilience.resilience_rows`.
        tolerance: where the shaded region, in which a resilience may count, ends.
    """
    figure = Figure(figsize=(6.4, 4.4), layout="constrained")
    figure.suptitle("Who resists, and what is the map worth?", fontsize=12, fontweight="bold")
    axis = figure.subplots()
    axis.axvspan(-1.0, tolerance, color="#66a182", alpha=0.15, label="benign quality holds")
    for row in rows:
        if row["resilience"] is None:
            continue
        # What is worse than nothing at all, or better than the reference, stands at the edge.
        place = min(max(row["benign_loss"], -0.15), 1.0), 1 - row["resilience"]
        axis.plot(*place, marker="o", color="#00798c", fillstyle="full" if row["counts"] else "none")
        axis.annotate(row["interpreter"], place, textcoords="offset points", xytext=(6, 5), fontsize=9)
    absent = [row["interpreter"] for row in rows if row["resilience"] is None]
    if absent:
        axis.text(
            0.99, 0.01, f"no successful attack: {', '.join(absent)}", transform=axis.transAxes, ha="right", fontsize=8
        )
    axis.set_xlim(-0.2, 1.1)
    axis.set_ylim(-0.03, 1.06)
    axis.set_xlabel("largest relative loss of benign quality")
    axis.set_ylabel("worst-case map IoU under attack,\nwhichever class is asked for (lower resists)")
    axis.spines[["top", "right"]].set_visible(False)
    axis.legend(fontsize=8, frameon=False, loc="center right")
    return figure


def _number(value: float | None, form: str = "{:.3f}") -> str:
    return "-" if value is None else form.format(value)
