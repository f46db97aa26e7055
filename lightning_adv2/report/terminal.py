"""Tables on a terminal, in a pipe or in a log file."""

from __future__ import annotations

from errno import EPIPE

import rich.table
from rich.console import Console, Group
from rich.text import Text

from lightning_adv2.files.text import visible
from lightning_adv2.report.table import Table

_STYLES = {"strong": "bold", "faint": "dim", "alert": "red"}
_LEAST_WIDTH = 200
"""Of a pipe or a file, which has no width; rich would squeeze a table into 80 columns."""


def show(table: Table, console: Console | None = None) -> None:
    """Print a table whole; a terminal that is too narrow for all columns gets the main ones, if some are declared.

    Raises:
        BrokenPipeError: nobody reads any more; what is printed later goes nowhere.
    """
    console = console or Console()
    drawn = _drawn(table, console.encoding)
    width = console.measure(drawn, options=console.options.update(max_width=1000)).maximum
    main = {plain(column.title, console.encoding).plain for column in table.columns if column.main}
    if not console.is_terminal:
        console.width = max(console.width, _LEAST_WIDTH, width)
    elif console.width < width and main:
        drawn.columns = [column for column in drawn.columns if str(column.header) in main]
    below = [(note, "dim") for note in table.all_notes] + [(f"! {alert}", "yellow") for alert in table.alerts]
    texts = [Text(plain(text, console.encoding, keep="\n").plain, style=style) for text, style in below]
    try:
        console.print(Group(drawn, *texts))
    except SystemExit as end:  # so rich ends a program
        raise BrokenPipeError(EPIPE, "nobody reads what is printed") from end


def _drawn(table: Table, encoding: str) -> rich.table.Table:
    """The table as rich draws it: every string stands as it is, for it may hold any name."""
    drawn = rich.table.Table(
        title=plain(table.title, encoding), title_justify="left", title_style="bold", header_style="bold"
    )
    for column in table.columns:
        number = column.is_number
        drawn.add_column(
            plain(column.title, encoding), justify="right" if number else "left", overflow="fold", no_wrap=not number
        )
    for row, cells, new in zip(table.rows, table.cells, table.starts_group, strict=True):
        if new:
            drawn.add_section()
        drawn.add_row(*(plain(cell, encoding) for cell in cells), style=_STYLES.get(table.emphasis(row), ""))
    return drawn


def plain(text: str, encoding: str = "utf-8", keep: str = "") -> Text:
    """A string as text that stands as it is: brackets are no markup.

    What a terminal obeys, or has no letters for, is written out (:func:`~lightning_adv2.files.text.visible`).

    Args:
        text: may hold any name.
        encoding: of the terminal.
        keep: characters that are not written out, such as the end of a line.
    """
    return Text(visible(text, keep).encode(encoding, "backslashreplace").decode(encoding))
