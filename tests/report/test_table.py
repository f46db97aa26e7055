from __future__ import annotations

from io import StringIO

import pytest
from rich.console import Console

from lightning_adv2.report.table import Column, Table, column_content, read_columns, text_table
from lightning_adv2.report.terminal import show
from lightning_adv2.results.means import OVER

ROWS = [
    {"interpreter": "cam", "n": 4, "iou": 0.25, "iou_low": 0.1, "iou_high": 0.4, "empty": 1, "linf": 2 / 255},
    {"interpreter": "rts", "n": 1200, "iou": None, "iou_low": None, "iou_high": None, "empty": 1200, "linf": 0.0},
]
COLUMNS = [
    Column("interpreter", main=True),
    Column("n", "images", ","),
    Column("iou", "map IoU", ".2f", interval=True, empty="empty", main=True),
    Column("linf", "Linf x255", ".1f", 255),
    Column("missing", format=".3f"),
]


def printed(table: Table, **options: object) -> str:
    out = StringIO()
    show(table, Console(file=out, **options))
    return out.getvalue()


def test_cells_by_hand() -> None:
    table = Table("t", COLUMNS, ROWS)
    assert table.headings == ["interpreter", "images", "map IoU", "Linf x255", "missing"]
    assert table.cells == [["cam", "4", "0.25 [0.10, 0.40] (3)", "2.0", "-"], ["rts", "1,200", "-", "0.0", "-"]]
    assert table.starts_group == [False, False], "every group has one row"
    assert Table("t", COLUMNS, [ROWS[0], *ROWS]).starts_group == [False, False, True]
    assert table.all_notes == [f"{OVER}."]
    assert Table("t", COLUMNS, ROWS[1:]).all_notes == [], "no mean is over fewer images"


@pytest.mark.parametrize(
    ("value", "text"),
    [(True, "yes"), (False, "no"), (["a", "b"], "a; b"), ([], "-"), ({"f": 2}, "f"), (float("nan"), "-"), ("", "")],
)
def test_other_values(value: object, text: str) -> None:
    assert Column("x", format=".2f").text({"x": value}) == text


def test_columns_are_kept_as_plain_data() -> None:
    assert read_columns(column_content(COLUMNS)) == COLUMNS
    assert column_content([Column("n", format="d")]) == [{"key": "n", "format": "d"}]


def test_a_narrow_terminal_gets_the_main_columns() -> None:
    table = Table("t", COLUMNS, ROWS, notes=["a note"], alerts=["an alert"])
    narrow = printed(table, width=45, force_terminal=True)
    assert "map IoU" in narrow
    assert "Linf" not in narrow
    assert "! an alert" in narrow
    assert all(heading in printed(table, width=45) for heading in table.headings), "a file has room for all"


def test_roles_stand_out() -> None:
    rows = [{"a": role, "role": role} for role in ("joint", "class", "control")]
    assert [Table("t", [Column("a")], rows).emphasis(row) for row in rows] == ["strong", "", "faint"]


def test_a_row_of_text_that_does_not_fit() -> None:
    with pytest.raises(ValueError, match=r"'Results'.*1 cells under 2 headings"):
        text_table("Results", ("a", "b"), [("1", "2"), ("1",)])
    table = text_table("Results", ("a", "b"), [("1", "2")], "a note", {"b"})
    assert [column.is_number for column in table.columns] == [False, True]
    assert (table.cells, table.all_notes) == ([["1", "2"]], ["a note"])
