"""Figures over several runs: bars with intervals, the paper's figures as diamonds."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure

from lightning_adv2.report.figures import attack_colours
from lightning_adv2.report.harmless import SAME, draw
from lightning_adv2.reproduction.cells import Measured


def grouped_bars(rows: Sequence[Measured], metric: str, label: str, title: str, line: float | None = None) -> Figure:
    """One panel for each first part of a place, one group of bars for each second part, one bar for each third part.

    Args:
        rows: their places have three parts, such as classifier, interpreter, attack.
        metric: which measure.
        label: of the axis.
        title: heading.
        line: a level to mark, such as 0.5 for a plausible IoU.
    """
    panels = list(dict.fromkeys(row.place[0] for row in rows))
    attacks = list(dict.fromkeys(row.place[2] for row in rows))
    groups = {p: list(dict.fromkeys(row.place[1] for row in rows if row.place[0] == p)) for p in panels}
    colours = attack_colours(attacks)
    widths = [max(2.0, 0.5 + 0.42 * len(attacks) * len(groups[p])) for p in panels]
    figure = Figure((sum(widths) + 1.0, 3.4), layout="constrained")
    figure.suptitle(title, fontsize=11, fontweight="bold")
    all_axes = figure.subplots(1, len(panels), squeeze=False, sharey=True, width_ratios=widths)[0]
    width, stated = 0.8 / len(attacks), False
    for axis, panel in zip(all_axes, panels, strict=True):
        for j, attack in enumerate(attacks):
            for i, group in enumerate(groups[panel]):
                row = next((row for row in rows if row.place == (panel, group, attack)), None)
                cell = row.cells.get(metric) if row else None
                if row is None or cell is None or math.isnan(cell.value):
                    continue
                x = i + (j - (len(attacks) - 1) / 2) * width
                spread = [[max(0.0, cell.value - cell.low)], [max(0.0, cell.high - cell.value)]]
                axis.bar(x, cell.value, width * 0.9, color=colours[attack], label=attack if not i else None)
                axis.errorbar(x, cell.value, yerr=spread, color="black", linewidth=0.9, capsize=2)
                if metric in row.published:
                    name = None if stated else "paper"
                    axis.plot(x, row.published[metric], "D", color="white", markeredgecolor="black", ms=5, label=name)
                    stated = True
        axis.set_xticks(range(len(groups[panel])), [name.upper() for name in groups[panel]])
        axis.set_title(panel, fontsize=9)
        axis.spines[["top", "right"]].set_visible(False)
        if line is not None:
            axis.axhline(line, color="black", linewidth=0.8, linestyle=":")
    all_axes[0].set_ylabel(label)
    found: dict[str, Any] = {}
    for axis in all_axes:
        for handle, name in zip(*axis.get_legend_handles_labels(), strict=True):
            found.setdefault(name, handle)
    figure.legend(found.values(), found.keys(), loc="outside lower center", ncols=len(found), fontsize=8, frameon=False)
    return figure


def write_bars(
    folder: Path, name: str, rows: Sequence[Measured], metric: str, label: str, title: str, line: float | None = None
) -> Path:
    """Draw :func:`grouped_bars` as ``<name>.png``."""
    path = folder / f"{name}.png"
    draw(path, lambda: grouped_bars(rows, metric, label, title, line), SAME)
    return path
