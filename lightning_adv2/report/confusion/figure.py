"""A confusion matrix as a picture: cells with counts for few classes, blocks and lists for many."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from matplotlib.colors import LogNorm
from matplotlib.figure import Figure

from lightning_adv2.report.confusion.content import (
    LISTED,
    MOST_SHOWN,
    cells_of,
    class_titles,
    confusion_title,
    largest_confusions,
    percent,
    worst_classes,
)
from lightning_adv2.report.figures import PALETTE, heading, plain_axis, short
from lightning_adv2.report.findings import Findings

_BLOCKS = 100
"""At most so many blocks a side, of one or more classes each."""
_NAMED = 60
"""Up to so many classes the axes name them."""


def confusion_figure(matrix: Findings) -> Figure:
    """Counts, or beyond ``MOST_SHOWN`` classes shares in blocks, on a canvas that does not grow with the classes.

    Args:
        matrix: see :func:`~lightning_adv2.report.confusion.confusion_content`.
    """
    return _cells(matrix) if len(matrix.rows) <= MOST_SHOWN else _blocks(matrix)


def _cells(matrix: Findings) -> Figure:
    """Counts in cells whose colour is the share of the row: of the images that are of the class."""
    classes = [short(name, 40) for name in class_titles(matrix)]
    true, predicted, number = cells_of(matrix)
    counts = torch.zeros(len(classes), len(classes), dtype=torch.int64)
    counts[true, predicted] = number
    share = counts / counts.sum(1, keepdim=True).clamp(min=1)
    side = 2.6 + 0.62 * len(classes)
    figure = Figure(figsize=(side + 1.2, side), layout="constrained")
    heading(figure, confusion_title(matrix))
    axis = figure.subplots()
    drawn = axis.imshow(share.numpy(), cmap="Blues", vmin=0, vmax=1)
    axis.set_xticks(range(len(classes)), classes, rotation=40, ha="right", rotation_mode="anchor")
    axis.set_yticks(range(len(classes)), classes)
    axis.set_xlabel("classified as")
    axis.set_ylabel("true class")
    for row in range(len(classes)):
        for column in range(len(classes)):
            colour = "white" if share[row, column] > 0.5 else "black" if counts[row, column] else "#c0c0c0"
            text = str(int(counts[row, column]))
            axis.text(column, row, text, ha="center", va="center", color=colour, fontsize=9)
    figure.colorbar(drawn, ax=axis, label="share of the true class", shrink=0.8)
    return figure


def _blocks(matrix: Findings) -> Figure:
    """Shares of classes, or of runs of classes; beside them the spread of the recall and the largest confusions."""
    classes = class_titles(matrix)
    size = -(-len(classes) // _BLOCKS)
    figure = Figure(figsize=(15.6, 9.2), layout="constrained")
    heading(figure, f"{confusion_title(matrix)}, {len(classes):,} classes")
    halves: Any = figure.subfigures(1, 2, width_ratios=(1.2, 1.0))
    _matrix(halves[0], matrix, size)
    spread, confused, poor = halves[1].subplots(3, 1, height_ratios=(0.85, 1.5, 1.5))
    known = [row["recall"] for row in matrix.rows if row["recall"] is not None]
    spread.hist(known, bins=np.linspace(0, 1, 21).tolist(), color=PALETTE[6])
    spread.set_xlim(0, 1)
    spread.set_xlabel("recall", fontsize=9)
    spread.set_ylabel("classes", fontsize=9)
    spread.set_title(f"Recall of {len(known):,} classes with images", fontsize=10, fontweight="bold", loc="left")
    plain_axis(spread)
    rows = [
        (_name(classes, one.true), _name(classes, one.predicted), f"{one.images:,}", percent(one.share))
        for one in largest_confusions(matrix)
    ]
    _list(confused, "Largest confusions", ("true class", "classified as", "images", "share"), rows)
    worst = worst_classes(matrix)
    taken = {one.true: one.predicted for one in reversed(largest_confusions(matrix, of=worst))}
    rows = [
        (_name(classes, i), _name(classes, taken.get(i)), f"{row['images']:,}", percent(row["recall"]))
        for i, row in ((i, matrix.rows[i]) for i in worst)
    ]
    _list(poor, "Lowest recall", ("true class", "most often taken for", "images", "recall"), rows)
    return figure


def _name(classes: Sequence[str], number: int | None) -> str:
    """A class as the lists have it, with the number that finds it in the matrix."""
    if number is None:
        return "-"
    return short(classes[number] if len(classes) <= _NAMED else f"{number}  {classes[number]}", 32)


def _matrix(figure: Any, matrix: Findings, size: int) -> None:
    classes = class_titles(matrix)
    true, predicted, number = cells_of(matrix)
    blocks = -(-len(classes) // size)
    counts = torch.zeros(blocks * blocks, dtype=torch.float64)
    counts = counts.index_add(0, true // size * blocks + predicted // size, number.double()).reshape(blocks, blocks)
    share = (counts / counts.sum(1, keepdim=True).clamp(min=1)).numpy()
    axis, reach, end = figure.subplots(), blocks * size - 0.5, len(classes) - 0.5
    least = min(0.1, float(share[share > 0].min(initial=0.1)))
    drawn = axis.imshow(
        np.ma.masked_equal(share, 0), cmap="Blues", norm=LogNorm(least, 1), extent=(-0.5, reach, reach, -0.5),
        interpolation="nearest",
    )  # fmt: skip
    axis.set_xlim(-0.5, end)
    axis.set_ylim(end, -0.5)
    numbers = ""
    if len(classes) <= _NAMED:
        names = [short(name, 22) for name in classes]
        axis.set_xticks(range(len(classes)), names, rotation=90, fontsize=7)
        axis.set_yticks(range(len(classes)), names, fontsize=7)
    else:
        numbers = ", by number" if size == 1 else f", by number, {size} to a block"
    axis.set_xlabel(f"classified as{numbers}")
    axis.set_ylabel(f"true class{numbers}")
    ticks = [tick for tick in (0.0001, 0.001, 0.01, 0.1, 1.0) if tick >= least]
    of = "the true class" if size == 1 else "the true classes"
    bar = figure.colorbar(drawn, ax=axis, location="bottom", shrink=0.6, aspect=40, label=f"share of {of}; white: none")
    bar.set_ticks(ticks, labels=[f"{100 * tick:g}%" for tick in ticks])
    bar.ax.minorticks_off()


def _list(axis: Any, title: str, headings: tuple[str, ...], rows: Sequence[tuple[str, ...]]) -> None:
    """A table of text on an axis: two columns of names, two of numbers."""
    axis.set_axis_off()
    axis.set_title(title, fontsize=10, fontweight="bold", loc="left")
    places = ((0.0, "left"), (0.42, "left"), (0.89, "right"), (1.0, "right"))
    for line, row in enumerate([headings, *rows]):
        for (x, side), text in zip(places, row, strict=True):
            weight = "normal" if line else "bold"
            axis.text(x, 1 - (line + 0.5) / (LISTED + 1), text, transform=axis.transAxes, ha=side, va="center",
                      fontsize=8, fontweight=weight)  # fmt: skip
