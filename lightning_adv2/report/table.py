"""A table once: flat rows under declared columns, which terminal, HTML page, CSV file and W&B render."""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from lightning_adv2.results.means import OVER, empty_key, over
from lightning_adv2.results.summary import Row

STRONG, FAINT, ALERT = "strong", "faint", "alert"
"""How a row stands out: what the table is about, what only compares, what is wrong."""


@dataclass(frozen=True)
class Column:
    """One column: which value of a row it shows, and how.

    Attributes:
        key: of the value in a row.
        heading: for people; the key with spaces where it is empty.
        format: a format specification such as ``.3f``; empty shows the value as it is.
        scale: multiplies numbers before they are shown (255 for 8-bit levels).
        interval: also shows the values ``<key>_low`` and ``<key>_high``.
        empty: key of the number of images that have no such value; the table says over how many the mean is then. Where
            it is empty, the key that :func:`~lightning_adv2.studies.rows.mean_rows` gives that number.
        n: key of the number of images, with and without the value.
        main: a terminal that is too narrow for all columns shows the main ones alone.
    """

    key: str
    heading: str = ""
    format: str = ""
    scale: float = 1.0
    interval: bool = False
    empty: str = ""
    n: str = "n"
    main: bool = False

    @property
    def title(self) -> str:
        """The heading."""
        return self.heading or self.key.replace("_", " ")

    @property
    def keys(self) -> list[str]:
        """The values that a row must have."""
        ends = [f"{self.key}_low", f"{self.key}_high"] if self.interval else []
        return [self.key, *ends, *([self.empty, self.n] if self.empty else [])]

    @property
    def is_number(self) -> bool:
        """Whether the column holds numbers, which are aligned right."""
        return bool(self.format)

    def text(self, row: Row) -> str:
        """The cell of a row; ``-`` where the row has no value."""
        value = row.get(self.key)
        if isinstance(value, list | tuple | dict):
            return "; ".join(map(str, value)) or "-"
        if value is None or (isinstance(value, float) and not math.isfinite(value)):
            return "-"
        if isinstance(value, bool):
            return "yes" if value else "no"
        text = self.number(value)
        if self.interval and row.get(f"{self.key}_low") is not None:
            text += f" [{self.number(row[f'{self.key}_low'])}, {self.number(row[f'{self.key}_high'])}]"
        return over(text, *self.counted(row))

    def counted(self, row: Row) -> tuple[int, int]:
        """How many images of a row have the value, and how many images there are."""
        n, without = row.get(self.n) or 0, row.get(self.empty or empty_key(self.key)) or 0
        return n - without, n

    def number(self, value: Any) -> str:
        """A value of the column, scaled, in the column's format."""
        if not self.format or isinstance(value, str):
            return str(value)
        return format(value * self.scale if self.scale != 1 else value, self.format)


def by_role(row: Row) -> str:
    """Joint attacks stand out, controls recede."""
    return {"joint": STRONG, "control": FAINT}.get(row.get("role", ""), "")


@dataclass(frozen=True)
class Table:
    """Rows under columns.

    Attributes:
        title: heading.
        columns: in their order.
        rows: flat dictionaries; a row may hold more than the columns show, which the CSV file has.
        notes: sentences below the table: what the columns mean, what is missing and why.
        alerts: sentences below the notes that make figures doubtful.
        group: key by which rows belong together; a rule separates the groups. The first column's where it is empty.
        emphasis: how a row stands out.
    """

    title: str
    columns: Sequence[Column]
    rows: Sequence[Row]
    notes: Sequence[str] = ()
    alerts: Sequence[str] = ()
    group: str = ""
    emphasis: Callable[[Row], str] = field(default=by_role, compare=False)

    @property
    def headings(self) -> list[str]:
        """One per column."""
        return [column.title for column in self.columns]

    @property
    def cells(self) -> list[list[str]]:
        """The text of every row."""
        return [[column.text(row) for column in self.columns] for row in self.rows]

    @property
    def all_notes(self) -> list[str]:
        """The notes, and what a number in brackets means where a mean is over fewer images."""
        shown = [(column, row) for column in self.columns for row in self.rows if row.get(column.key) is not None]
        fewer = any(0 < count < n for count, n in (column.counted(row) for column, row in shown))
        return [*self.notes, *[f"{OVER}."] * fewer]

    @property
    def starts_group(self) -> list[bool]:
        """For each row whether a new group begins; nowhere, if every group has one row."""
        key = self.group or (self.columns[0].key if self.columns else "")
        values = [row.get(key) for row in self.rows]
        new = [i > 0 and value != values[i - 1] for i, value in enumerate(values)]
        return [False] * len(new) if all(new[1:]) else new


def text_table(
    title: str,
    headings: Sequence[str],
    rows: Sequence[Sequence[str]],
    note: str = "",
    numbers: Collection[str] = (),
) -> Table:
    """A table of finished text.

    Args:
        title: heading.
        headings: one per column.
        rows: as many cells as headings each; an empty string where there is nothing.
        note: a sentence below the table.
        numbers: headings of the columns that are aligned right.

    Raises:
        ValueError: a row has not as many cells as there are headings.
    """
    for row in rows:
        if len(row) != len(headings):
            raise ValueError(
                f"table {title!r}: a row of {len(row)} cells under {len(headings)} headings, {tuple(row)!r}; "
                "give an empty string where there is nothing"
            )
    columns = [Column(str(i), heading, "s" if heading in numbers else "") for i, heading in enumerate(headings)]
    return Table(title, columns, [dict(zip(map(str, range(len(row))), row, strict=True)) for row in rows],
                 [note] if note else [])  # fmt: skip


def column_content(columns: Sequence[Column]) -> list[Row]:
    """The columns as plain data, for a JSON file."""
    plain = asdict(Column(""))
    return [{key: value for key, value in asdict(c).items() if key == "key" or value != plain[key]} for c in columns]


def read_columns(content: Sequence[Row]) -> list[Column]:
    """The columns that :func:`column_content` wrote.

    Raises:
        TypeError: an entry has an unknown key.
    """
    return [Column(**one) for one in content]
