"""Figures over several runs: bars with intervals, the paper's figures as diamonds."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

from matplotlib.figure import Figure

from lightning_adv2.report.bars import Metric, grouped_bars
from lightning_adv2.report.harmless import SAME, draw
from lightning_adv2.report.table import Column
from lightning_adv2.reproduction.cells import Measured, Row


def bars(rows: Sequence[Measured], metric: str, label: str, title: str, line: float | None = None) -> Figure:
    """One panel for each first part of a place, one group of bars for each second part, one bar for each third part.

    Args:
        rows: their places have three parts, such as classifier, interpreter, attack.
        metric: which measure.
        label: of the axis.
        title: heading.
        line: a level to mark, such as 0.5 for a plausible IoU.
    """
    shown = [_flat(row, metric) for row in rows if not math.isnan(row.cells[metric].value)]
    return grouped_bars(
        shown, [Metric(Column(metric, label, ".2f"), level=line)], title,
        group=lambda row: str(row["group"]).upper(), series=lambda row: row["series"], panel=lambda row: row["panel"],
    )  # fmt: skip


def _flat(row: Measured, metric: str) -> Row:
    cell = row.cells[metric]
    flat = dict(zip(("panel", "group", "series"), row.place, strict=True))
    ends = {f"{metric}_low": cell.low, f"{metric}_high": cell.high, f"{metric}_published": row.published.get(metric)}
    return {**flat, metric: cell.value, **ends}


def write_bars(
    folder: Path, name: str, rows: Sequence[Measured], metric: str, label: str, title: str, line: float | None = None
) -> Path:
    """Draw :func:`bars` as ``<name>.png``."""
    path = folder / f"{name}.png"
    draw(path, lambda: bars(rows, metric, label, title, line), SAME)
    return path
