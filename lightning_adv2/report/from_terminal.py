"""What a report prints on the terminal, as tables for a page: said once, shown twice."""

from __future__ import annotations

from collections.abc import Callable
from io import StringIO
from typing import Any

import rich.table
from rich.console import Console, Group
from rich.text import Text

from lightning_adv2.report.page import Table


class _Listener(Console):
    """Keeps what it is to print."""

    def __init__(self) -> None:
        super().__init__(file=StringIO())
        self.heard: list[Any] = []

    def print(self, *objects: Any, **kwargs: Any) -> None:
        for one in objects:
            self.heard += one.renderables if isinstance(one, Group) else [one]


def tables_of(show: Callable[[Console], None]) -> list[Table]:
    """The tables that a function prints on the console it is given; the texts below a table become its note.

    Args:
        show: such as ``lambda console: print_table(summary, title, console)``.
    """
    listener = _Listener()
    show(listener)
    tables: list[Table] = []
    for one in listener.heard:
        if isinstance(one, rich.table.Table):
            columns = [list(map(_plain, column.cells)) for column in one.columns]
            headings = tuple(_plain(column.header) for column in one.columns)
            note = _plain(one.caption or "")
            tables.append(Table(_plain(one.title or ""), headings, list(zip(*columns, strict=True)), note))
        elif tables:
            last = tables[-1]
            tables[-1] = Table(last.title, last.columns, last.rows, f"{last.note}\n{_plain(one)}".strip())
    return tables


def _plain(shown: Any) -> str:
    """Text without its style."""
    return shown.plain if isinstance(shown, Text) else str(shown)
