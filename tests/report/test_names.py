"""Names of classes, files and data sets are text: no mathematics, no markup, no control of the terminal."""

from __future__ import annotations

from collections.abc import Callable
from io import StringIO
from pathlib import Path

import numpy as np
import pytest
import torch
from matplotlib import cbook
from matplotlib.figure import Figure
from matplotlib.text import Text
from rich.console import Console

from lightning_adv2.report import print_table, summarize
from lightning_adv2.report.confusion import confusion_content
from lightning_adv2.report.confusion_figure import confusion_figure
from lightning_adv2.report.confusion_files import print_confusion
from lightning_adv2.report.figures import bars, grid, save
from lightning_adv2.report.from_terminal import tables_of
from lightning_adv2.report.gap import gap_figure, gap_rows
from lightning_adv2.report.proposition import proposition_figure
from lightning_adv2.report.transfer import print_transfer
from report.build import make_record

DOLLARS = ("from $3 to $9", "a $_$ b", "$$", r"$\nothing$")
MARKUP = ("big [red] dog", "x [/b]", "[link=http://a.b]c[/link]", ":smile:")


def figures_with(name: str) -> dict[str, Callable[[], Figure]]:
    record = make_record(0, ["0", "1", "2"], interpreter=name, target=name)
    rows = summarize([record], {"dataset": name, "classifier": name}).rows
    picture = np.zeros((8, 8, 3), np.uint8)
    return {
        "grid": lambda: grid([[(picture, name, "black")]], name),
        "confusion": lambda: confusion_figure(confusion_content(torch.eye(2).long(), [name, "b"], "test")),
        "bars": lambda: bars(rows),
        "gap": lambda: gap_figure(gap_rows([record])),
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
    rows = [{"source": name, "interpreter": name, "attack": "adv2", "schedule": "fast", "n": 1, "iou": 0.5, "l1": 0.25}]
    shows: list[Callable[[Console], None]] = [
        lambda console: print_confusion(confusion_content(torch.eye(2).long(), [name, "b"], name), console),
        lambda console: print_table(summary, name, console),
        lambda console: print_transfer(rows, console),
    ]
    for show in shows:
        out = StringIO()
        show(Console(file=out, width=250))
        assert name in out.getvalue()
        assert any(name in cell for table in tables_of(show) for row in table.rows for cell in row)


def test_the_terminal_obeys_no_name() -> None:
    name, out = "a\x1b[2J\x07b\rc", StringIO()
    print_confusion(confusion_content(torch.eye(2).long(), [name, "b"], "test"), Console(file=out, width=200))
    assert r"a\x1b[2J\x07b\rc" in out.getvalue()
    assert not {"\x1b", "\x07", "\r"} & set(out.getvalue())
