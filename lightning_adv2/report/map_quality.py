"""What benign maps are worth, for the terminal and the page."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import rich.table
from rich.console import Console

from lightning_adv2.report.old_tables import show
from lightning_adv2.report.table import Table, text_table

_NOTE = (
    "Confidence in the true class where the map keeps the image (preserved), removes it (destroyed), or where another "
    "image's map keeps it (shuffled); gap = preserved - shuffled, how specific the maps are. Deletion (lower is "
    "better) and insertion (higher is better) follow the map's order; a random order's stand beside them."
)


def quality_tables(content: Mapping[str, Mapping[str, float]]) -> list[Table]:
    """The content of ``map_quality.json``, interpreter -> measure -> mean, for a page."""
    headings, rows = _cells(content)
    return [text_table("Means over all images", headings, rows, _NOTE)]


def print_quality(content: Mapping[str, Mapping[str, float]], console: Console | None = None) -> None:
    """The same on the terminal."""
    headings, rows = _cells(content)
    table = rich.table.Table(title="What the benign maps are worth", title_justify="left", title_style="bold")
    for i, heading in enumerate(headings):
        table.add_column(heading, justify="right" if i else "left")
    for row in rows:
        table.add_row(*row)
    show(table, console)


def _cells(content: Mapping[str, Mapping[str, Any]]) -> tuple[tuple[str, ...], list[tuple[str, ...]]]:
    keys = list(dict.fromkeys(key for means in content.values() for key in means))
    rows = [(name, *(f"{m[key]:.3f}" if key in m else "-" for key in keys)) for name, m in content.items()]
    return ("interpreter", *(key.replace("_", " ") for key in keys)), rows
