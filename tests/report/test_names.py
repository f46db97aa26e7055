"""Names of classes, files and data sets are text: no mathematics, no markup, no control of the terminal."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from io import BytesIO, StringIO, TextIOWrapper
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from build_records import make_record
from matplotlib import cbook
from matplotlib.text import Text
from rich.console import Console

from lightning_adv2.report.confusion import confusion_content, confusion_figure, print_confusion
from lightning_adv2.report.figures import grid, save
from lightning_adv2.report.findings import Findings
from lightning_adv2.report.html.run_page import write_run_page
from lightning_adv2.report.results_table import results_table
from lightning_adv2.report.run_figures import bars
from lightning_adv2.report.terminal import show
from lightning_adv2.results import summarize
from lightning_adv2.studies import GapEvaluation, TransferEvaluation
from lightning_adv2.studies.gap import gap_images, gap_rows
from lightning_adv2.studies.proposition import proposition_figure
from report.browser import Parsed
from report.runs import make_run

DOLLARS = ("from $3 to $9", "a $_$ b", "$$", r"$\nothing$")
MARKUP = ("big [red] dog", "x [/b]", "[link=http://a.b]c[/link]", ":smile:")


def figures_with(name: str) -> dict[str, Callable[[], Any]]:
    record = make_record(0, ["0", "1", "2"], interpreter=name, target=name)
    rows = summarize([record], {"dataset": name, "classifier": name}).rows
    picture = np.zeros((8, 8, 3), np.uint8)
    return {
        "grid": lambda: grid([[(picture, name, "black")]], name),
        "confusion": lambda: confusion_figure(confusion_content(torch.eye(2).long(), [name, "b"], "test")),
        "bars": lambda: bars(rows),
        "gap": lambda: GapEvaluation.figure(Findings(gap_rows(gap_images(record)))),
    }


@pytest.mark.parametrize("name", DOLLARS)
@pytest.mark.parametrize("kind", ["grid", "confusion", "bars", "gap"])
def test_a_dollar_is_a_dollar(kind: str, name: str, tmp_path: Path) -> None:
    figure = figures_with(name)[kind]()
    save(figure, tmp_path / "figure.png")
    with_dollar = [text for text in figure.findobj(Text) if "$" in text.get_text()]
    assert with_dollar, "the name is shown"
    assert not any(text.get_parse_math() and cbook.is_math_text(text.get_text()) for text in with_dollar)


def test_formulas_of_our_own_stay_formulas_and_powers_are_numbers(tmp_path: Path) -> None:
    figure = proposition_figure(
        [
            {"interpreter": "cam", "attack": "$x$", "schedule": "fast", "gain": gain, "l1": l1}
            for gain, l1 in ((0.5, 1.0), (0.7, 20.0))
        ]
    )
    save(figure, tmp_path / "figure.png")
    labels = [axis.get_xlabel() for axis in figure.axes if axis.xaxis.label.get_parse_math()]
    assert any("f_{c_t}" in label for label in labels)
    texts = [text for text in figure.findobj(Text) if "mathdefault" in text.get_text()]
    assert not [text.get_text() for text in texts]


@pytest.mark.parametrize("name", MARKUP)
def test_brackets_stand_as_they_are(name: str) -> None:
    record = make_record(0, ["0", "1"], interpreter=name)
    summary = summarize([record], {"dataset": name, "classifier": name})
    pair = {"source": name, "interpreter": name, "attack": "adv2", "schedule": "fast", "role": "joint", "n": 1}
    tables = [
        results_table(summary, name),
        *TransferEvaluation.tables(Findings([pair | {"iou": 0.5, "l1": 0.25, "empty": 0}])),
    ]
    for table in tables:
        out = StringIO()
        show(table, Console(file=out, width=250))
        assert name in out.getvalue()
        assert any(name in text for text in (*table.headings, *(cell for row in table.cells for cell in row)))
    out = StringIO()
    print_confusion(confusion_content(torch.eye(2).long(), [name, "b"], name), Console(file=out, width=250))
    assert name in out.getvalue()


ODD = "a\x1b[2J\x07b\rc\nd\u202ee\udcff"
"""What clears a terminal, rings, goes back to a line's start, ends it, turns round what follows, and is no UTF-8."""
WRITTEN_OUT = r"a\x1b[2J\x07b\rc\nd\u202ee\udcff"


def test_the_terminal_obeys_no_name() -> None:
    out = StringIO()
    print_confusion(confusion_content(torch.eye(2).long(), [ODD, "b"], "test"), Console(file=out, width=200))
    assert WRITTEN_OUT in out.getvalue()
    assert all(c.isprintable() or c == "\n" for c in out.getvalue())


def test_a_terminal_gets_letters_that_it_has() -> None:
    raw = BytesIO()
    with TextIOWrapper(raw, encoding="ascii") as stream:
        content = confusion_content(torch.eye(2).long(), ["Z\u00fcrich \u2603", "b"], "test")
        print_confusion(content, Console(file=stream, width=200))
        stream.flush()
        assert rb"Z\xfcrich \u2603" in raw.getvalue()


def test_many_names_and_long_ones_leave_room_for_the_numbers() -> None:
    for count in (2, 40):
        out = StringIO()
        content = confusion_content(torch.eye(count).long(), ["x" * 5000] * count, "test")
        print_confusion(content, Console(file=out, width=200))
        assert "100.0%" in out.getvalue()
        assert max(map(len, out.getvalue().splitlines())) <= 200


@pytest.mark.parametrize("kind", ["grid", "confusion", "bars", "gap"])
def test_figures_write_out_what_no_font_shows(kind: str, tmp_path: Path) -> None:
    figure = figures_with(ODD)[kind]()
    with warnings.catch_warnings():
        warnings.filterwarnings("error", message=".*[Gg]lyph")
        save(figure, tmp_path / "figure.png")
    texts = [text.get_text() for text in figure.findobj(Text)]
    assert any(r"\u202e" in text.lower() for text in texts), "the name is shown"
    assert all(c.isprintable() or c == "\n" for text in texts for c in text)


def test_pages_neither_turn_round_nor_fail_over_a_name(tmp_path: Path) -> None:
    run = make_run(tmp_path / ODD, [make_record(0, [ODD[:-1], "b"])])
    run.about["classes"] = (ODD, "b", "c")
    page = write_run_page(run, tmp_path / "page.html")
    text = Parsed(page).text
    assert r"d\u202ee\udcff" in text
    assert not {"\x1b", "\x07", "\u202e"} & set(page.read_text(encoding="utf-8"))
