"""Tables of studies that draw them with rich."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from errno import EPIPE
from io import StringIO
from typing import Any

from rich.console import Console, Group
from rich.table import Table
from rich.table import Table as RichTable
from rich.text import Text

from lightning_adv2.files.text import visible
from lightning_adv2.report.table import Table as PageTable
from lightning_adv2.report.table import text_table


def show(table: Table | Group, console: Console | None = None) -> None:
    """Print a table whole: a file or a pipe has no width, and rich would squeeze it into 80 columns.

    Raises:
        BrokenPipeError: nobody reads any more; what is printed later goes nowhere.
    """
    console = console or Console()
    for one in table.renderables if isinstance(table, Group) else [table]:
        as_text(one, console.encoding)
        if not console.is_terminal and isinstance(one, Table):
            console.width = max(console.width, 200, _width(one, console))
    try:
        console.print(table)
    except SystemExit as end:  # so rich ends a program
        raise BrokenPipeError(EPIPE, "nobody reads what is printed") from end


def _width(table: Table, console: Console) -> int:
    """How many characters wide a table is that cuts nothing off."""
    return console.measure(table, options=console.options.update(max_width=1000)).maximum


def as_text(shown: Any, encoding: str = "utf-8") -> None:
    """Make all strings of a table :func:`plain`, in place; or a text, whose lines are our own."""
    if not isinstance(shown, Table):
        plain(shown, encoding, keep="\n")
        return
    for name in ("title", "caption"):
        setattr(shown, name, plain(getattr(shown, name), encoding))
    for column in shown.columns:
        column.header = plain(column.header, encoding)
        column._cells = [plain(cell, encoding) for cell in column._cells]


def plain(shown: Any, encoding: str = "utf-8", keep: str = "") -> Any:
    """A string as text that stands as it is, for it may hold any name: brackets are no markup.

    What a terminal obeys, or has no letters for, is written out (:func:`~lightning_adv2.files.text.visible`), also that
    of a ``Text``, which keeps its style. All else is handed back.
    """
    if not isinstance(shown, str | Text):
        return shown
    text = visible(str(shown), keep).encode(encoding, "backslashreplace").decode(encoding)
    if isinstance(shown, str):
        return Text(text)
    if text != shown.plain:
        shown.plain = text
    return shown


class _Listener(Console):
    """Keeps what it is to print."""

    def __init__(self) -> None:
        super().__init__(file=StringIO())
        self.heard: list[Any] = []

    def print(self, *objects: Any, **kwargs: Any) -> None:
        for one in objects:
            self.heard += one.renderables if isinstance(one, Group) else [one]


def tables_of(show: Callable[[Console], None]) -> list[PageTable]:
    """The tables that a function prints on the console it is given; the texts below a table become its note.

    Args:
        show: such as ``lambda console: print_table(summary, title, console)``.
    """
    listener = _Listener()
    show(listener)
    tables: list[PageTable] = []
    for one in listener.heard:
        if isinstance(one, RichTable):
            columns = [list(map(_plain, column.cells)) for column in one.columns]
            headings = tuple(_plain(column.header) for column in one.columns)
            note = _plain(one.caption or "")
            tables.append(text_table(_plain(one.title or ""), headings, list(zip(*columns, strict=True)), note))
        elif tables:
            last = tables[-1]
            tables[-1] = replace(last, notes=[*last.notes, _plain(one)])
    return tables


def _plain(shown: Any) -> str:
    """Text without its style."""
    return shown.plain if isinstance(shown, Text) else str(shown)
