"""A confusion matrix on disk and on the terminal."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from lightning_adv2.files import write_json
from lightning_adv2.report.confusion_counts import (
    MOST_SHOWN,
    class_sizes,
    confusion_title,
    largest_confusions,
    percent,
    worst_classes,
)
from lightning_adv2.report.confusion_counts import confusion_content as confusion_content
from lightning_adv2.report.confusion_figure import confusion_figure as confusion_figure
from lightning_adv2.report.figures import short
from lightning_adv2.report.harmless import draw, harmless
from lightning_adv2.report.old_tables import show

_MOST_COUNTS = 12  # classes for whose numbers a terminal has room


def write_confusion(folder: Path, content: dict[str, Any]) -> Path:
    """Write ``confusion.json``, whose path comes back, and ``figures/confusion.png``; print the table."""
    path = folder / "confusion.json"
    write_json(path, content)
    draw_confusion(folder, content)
    with harmless(f"the table of {path}"):
        print_confusion(content)
    return path


def draw_confusion(folder: Path, content: dict[str, Any]) -> None:
    """Draw ``figures/confusion.png``."""
    draw(folder / "figures" / "confusion.png", lambda: confusion_figure(content))


def print_confusion(content: dict[str, Any], console: Console | None = None) -> None:
    """Show a row per true class: how its images are classified, recall, precision; of many classes the worst.

    Beyond ``MOST_SHOWN`` classes a second table has the largest confusions.
    """
    classes, sizes = [short(name, 40) for name in content["classes"]], class_sizes(content)
    few, all_rows = len(classes) <= _MOST_COUNTS, len(classes) <= MOST_SHOWN
    shown = list(range(len(classes))) if all_rows else worst_classes(content)
    title = confusion_title(content)
    if not all_rows:
        title += f"; the {len(shown)} classes of {len(classes):,} with the lowest recall"
    table = Table(title=title, title_justify="left", title_style="bold", header_style="bold")
    table.add_column("true class, classified as:" if few else "true class", no_wrap=True)
    for name in [*(classes if few else ["images"]), "recall", "precision"]:
        table.add_column(name, justify="right")
    for i in shown:
        if few:
            numbers = enumerate(content["counts"][i])
            cells: list[str | Text] = [Text(str(n), style="bold") if i == j else str(n) for j, n in numbers]
        else:
            cells = [f"{int(sizes[i]):,}"]
        table.add_row(classes[i], *cells, percent(content["recall"][i]), percent(content["precision"][i]))
    show(table, console)
    if not all_rows:
        confused = largest_confusions(content)
        table = Table(title=f"The {len(confused)} largest confusions", title_justify="left", title_style="bold")
        for name in ("true class", "classified as"):
            table.add_column(name, no_wrap=True)
        for name in ("images", "of the class"):
            table.add_column(name, justify="right")
        for one in confused:
            table.add_row(classes[one.true], classes[one.predicted], f"{one.images:,}", percent(one.share))
        show(table, console)
