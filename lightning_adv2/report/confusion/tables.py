"""A confusion matrix as tables: counts for few classes, the worst classes and the largest confusions for many."""

from __future__ import annotations

from rich.console import Console

from lightning_adv2.report.confusion.content import (
    MOST_SHOWN,
    cells_of,
    class_titles,
    confusion_title,
    largest_confusions,
    worst_classes,
)
from lightning_adv2.report.figures import short
from lightning_adv2.report.findings import Findings
from lightning_adv2.report.table import Column, Table
from lightning_adv2.report.terminal import show
from lightning_adv2.results.summary import Row

_MOST_COUNTS = 12  # classes for whose numbers a terminal has room


def print_confusion(matrix: Findings, console: Console | None = None) -> None:
    """Print the tables of a confusion matrix.

    Args:
        matrix: see :func:`~lightning_adv2.report.confusion.confusion_content`.
        console: where to print.
    """
    for table in confusion_tables(matrix):
        show(table, console)


def confusion_tables(matrix: Findings) -> list[Table]:
    """A row per true class: how its images are classified, recall, precision; of many classes the worst.

    Beyond ``MOST_SHOWN`` classes a second table has the largest confusions.
    """
    titles, title = [short(name, 40) for name in class_titles(matrix)], confusion_title(matrix)
    rows = [row | {"class": name} for row, name in zip(matrix.rows, titles, strict=True)]
    rates = [Column("recall", "", ".1%"), Column("precision", "", ".1%")]
    if len(rows) <= _MOST_COUNTS:
        first = Column("class", "true class, classified as:")
        counts = [Column(str(i), name, "d") for i, name in enumerate(titles)]
        return [Table(title, [first, *counts, *rates], _with_counts(rows, matrix))]
    columns = [Column("class", "true class"), Column("images", "", ","), *rates]
    if len(rows) <= MOST_SHOWN:
        return [Table(title, columns, rows)]
    worst = [rows[i] for i in worst_classes(matrix)]
    title += f"; the {len(worst)} classes of {len(rows):,} with the lowest recall"
    return [Table(title, columns, worst), _confusions(matrix, titles)]


def _with_counts(rows: list[Row], matrix: Findings) -> list[Row]:
    """Each row with a count for every predicted class, by its number."""
    counted = [row | {str(i): 0 for i in range(len(rows))} for row in rows]
    for true, predicted, number in zip(*(values.tolist() for values in cells_of(matrix)), strict=True):
        counted[true][str(predicted)] = number
    return counted


def _confusions(matrix: Findings, titles: list[str]) -> Table:
    columns = [Column("true", "true class"), Column("predicted", "classified as")]
    columns += [Column("images", "", ","), Column("share", "of the class", ".1%")]
    rows = [
        {"true": titles[one.true], "predicted": titles[one.predicted], "images": one.images, "share": one.share}
        for one in largest_confusions(matrix)
    ]
    return Table(f"The {len(rows)} largest confusions", columns, rows, group="none")
