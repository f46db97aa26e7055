"""Cells against NumPy, from a run's real files."""

import csv

import numpy as np
import pytest

from lightning_adv2.report.findings import Findings, write_findings
from lightning_adv2.report.table import Column
from lightning_adv2.reproduction.cells import (
    NOTHING,
    Cell,
    Evaluation,
    Measured,
    as_json,
    mean_cell,
    measured,
    share_cell,
    shown,
)
from lightning_adv2.reproduction.published import Stated


class Shares:
    """A study, as far as its file asks."""

    name, title, columns, logged, position = "shares", "Shares", (Column("rate"),), ("rate",), 0


COLUMNS = ("interpreter", "attack", "image_id", "success", "valid", "l1", "iou")


def write(folder, rows):
    folder.mkdir(parents=True)
    with (folder / "images.csv").open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(COLUMNS)
        writer.writerows(rows)
    return folder


def test_a_cell_is_the_mean_over_the_valid_images(tmp_path):
    l1 = np.random.default_rng(0).random(20)
    rows = [("cam", "adv2", f"i{k}", str(k % 4 > 0), "True", value, 0.5) for k, value in enumerate(l1)]
    rows += [("cam", "adv2", "bad", "True", "False", 9.0, 9.0), ("cam", "pgd", "i0", "True", "True", 3.0, 0.1)]
    found = Evaluation((write(tmp_path / "run", rows),))
    cell = found.cell("l1", interpreter="cam", attack="adv2")
    assert (cell.value, cell.n, cell.seeds) == (pytest.approx(l1.mean()), 20, 1)
    assert cell.low < l1.mean() < cell.high
    asr = found.cell("asr", interpreter="cam", attack="adv2")
    assert (asr.value, asr.n) == (0.75, 20)
    assert found.cell("l1", interpreter="grad", attack="adv2") == NOTHING
    assert found.interpreters == ["cam"]


def test_images_without_a_value_are_in_no_mean_and_counted(tmp_path):
    rows = [("cam", "adv2", f"i{k}", "True", "True", 0.1, "nan" if k < 5 else 0.5) for k in range(8)]
    found = Evaluation((write(tmp_path / "run", rows),))
    cells = {key: found.cell(key, interpreter="cam", attack="adv2") for key in ("l1", "iou")}
    assert (cells["l1"].n, cells["iou"].n, cells["iou"].value) == (8, 3, 0.5)
    (row,) = rows = [Measured(("cam",), cells, {})]
    table = shown("T", ("interpreter",), rows, {"l1": "L1", "iou": "IoU"}, "")
    assert table.cells == [["cam", "8", "0.100 [0.100, 0.100]", "0.500 [0.500, 0.500] (3)"]]
    assert any("number of images in it" in note for note in table.all_notes)
    assert as_json([row])[0]["measures"]["iou"]["n"] == 3
    write_findings(tmp_path / "study", Shares, Findings([ROWS[0] | {"empty_rate": 36}]))
    (row,) = measured(Evaluation((tmp_path / "study",)), Stated("shares", ("attack",), {}), ("rate", "l1"))
    assert row.cells == {"rate": share_cell(1, 4), "l1": Cell(0.2, 0.1, 0.4, 40)}


def test_seeds_are_pooled_image_by_image(tmp_path):
    folders = tuple(
        write(tmp_path / f"run{s}", [("cam", "adv2", f"i{k}", "True", "True", k + s, 0.5) for k in range(6)])
        for s in range(3)
    )
    cell = Evaluation(folders).cell("l1", interpreter="cam", attack="adv2")
    assert (cell.value, cell.n, cell.seeds) == (pytest.approx(3.5), 6, 3)
    alone = mean_cell([k + 1.0 for k in range(6)], [f"i{k}" for k in range(6)])
    assert (cell.low, cell.high) == pytest.approx((alone.low, alone.high))  # an image's three values move together


ROWS = [
    {"interpreter": "cam", "attack": "pgd", "n": 40, "rate": 0.25, "l1": 0.2, "l1_low": 0.1, "l1_high": 0.4},
    {"interpreter": "rts", "attack": "pgd", "n": 0, "rate": None, "l1": None, "l1_low": None, "l1_high": None},
    {"interpreter": "rts", "attack": "adv2", "n": 8, "rate": 1.0, "l1": None, "l1_low": None, "l1_high": None},
]


def test_a_study_is_read_by_its_name_its_rows_and_its_columns(tmp_path):
    """A mean has the interval that the study gives it, a share Wilson's; beside each stands what is published."""
    write_findings(tmp_path / "one", Shares, Findings(ROWS))
    write_findings(tmp_path / "two", Shares, Findings(ROWS[:1]))
    found = Evaluation((tmp_path / "one", tmp_path / "two", tmp_path / "without"))
    stated = Stated("shares", ("interpreter", "attack"), {("cam", "pgd"): {"rate": 0.5}})
    rows = measured(found, stated, ("rate", "l1"))
    assert [row.place for row in rows] == [("cam", "pgd"), ("rts", "adv2"), ("cam", "pgd")]
    assert rows[0].cells == {"rate": share_cell(10, 40), "l1": Cell(0.2, 0.1, 0.4, 40)}
    assert rows[1].cells == {"rate": share_cell(8, 8), "l1": NOTHING}
    assert [row.published for row in rows] == [{"rate": 0.5}, {}, {"rate": 0.5}]
    assert measured(found, stated, ("rate",), lambda row: row["attack"] == "adv2") == [
        Measured(("rts", "adv2"), {"rate": share_cell(8, 8)}, {})
    ]
    assert measured(None, stated, ("rate",)) == []


def test_a_table_has_each_figure_beside_the_published_one():
    rows = [Measured(("first", "cam", "adv2"), {"asr": share_cell(64, 64), "l1": NOTHING}, {"asr": 1.0})]
    table = shown("T", ("classifier", "interpreter", "attack"), rows, {"asr": "ASR", "l1": "L1"}, "Note.")
    assert table.headings == ["classifier", "interpreter", "attack", "images", "ASR", "paper", "L1"]
    assert table.cells == [["first", "cam", "adv2", "64", "1.000 [0.943, 1.000]", "1", ""]]
    (machine,) = as_json(rows)
    assert machine["measures"]["asr"]["published"] == 1.0
    assert machine["measures"]["l1"]["value"] is None
