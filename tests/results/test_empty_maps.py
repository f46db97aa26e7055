"""Images whose two maps are both empty have no IoU: counted, named, and in no mean of it."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable
from functools import partial
from io import StringIO
from pathlib import Path
from typing import Any

import pytest
import torch
from build_records import NAMES, make_record
from report.runs import make_run
from rich.console import Console

from lightning_adv2.audit.verify import verify
from lightning_adv2.functional.agreement import map_l1
from lightning_adv2.metrics import AGREEMENTS, attack_metrics
from lightning_adv2.report import print_table
from lightning_adv2.report.figures import iou_colour, iou_text
from lightning_adv2.report.findings import Findings
from lightning_adv2.report.html.run_page import run_sections
from lightning_adv2.report.results_table import results_table
from lightning_adv2.report.run_figures import bars
from lightning_adv2.report.table import Column, Table
from lightning_adv2.report.terminal import show
from lightning_adv2.results import BatchRecord, summarize
from lightning_adv2.results.summary import Row
from lightning_adv2.studies import AttackCurves, ClassifierTransferEvaluation, GapEvaluation, TransferEvaluation
from lightning_adv2.studies.base import Study
from lightning_adv2.studies.classifier_transfer.judging import classifier_rows
from lightning_adv2.studies.curves import curve_rows
from lightning_adv2.studies.gap import gap_images, gap_rows
from lightning_adv2.studies.rows import image_rows, mean_rows
from lightning_adv2.studies.transfer.judging import transfer_rows


def record_of(empty: int, images: int = 4) -> BatchRecord:
    """Of each map half is left; the first ``empty`` images have nothing above the threshold, attacked or not."""
    record = make_record(0, [f"{i}" for i in range(images)])
    scale = torch.tensor([0.3] * empty + [1.0] * (images - empty)).view(-1, 1, 1, 1)
    record.benign_map = record.target_map = scale * torch.ones(images, 1, 4, 4)
    for attack in record.attacks:
        half = torch.ones(images, 1, 4, 4)
        half[:, :, :2] = 0
        attack.adv_map = scale * half
    return record


def test_they_are_in_no_mean_of_the_iou() -> None:
    for row in summarize([record_of(empty=3)], NAMES).rows:
        assert (row["n"], row["empty"], row["iou"], row["plausible"]) == (4, 3, 0.5, 0)
        assert row["l1"] == pytest.approx((3 * 0.15 + 0.5) / 4), "the L1 is of all images"
    assert [row["empty"] for row in summarize([record_of(empty=0)], NAMES).rows] == [0, 0, 0]


def test_any_comparison_may_lack_a_value(monkeypatch: pytest.MonkeyPatch) -> None:
    def bright(first: torch.Tensor, second: torch.Tensor) -> torch.Tensor:
        return map_l1(first, second).where(second.flatten(1).amax(1) > 0.5, torch.nan)

    monkeypatch.setitem(AGREEMENTS, "l1", (bright, "adv_map", "target_map"))
    summary = summarize([record_of(empty=3)], NAMES)
    assert [row["l1"] for row in summary.rows] == [0.5] * len(summary.rows)
    table = results_table(summary, "title")
    place = table.headings.index("map L1")
    assert {row[place] for row in table.cells} == {"0.500 (1)"}


def test_the_metrics_say_the_same() -> None:
    maps = torch.zeros(2, 1, 2, 2)
    maps[1] = 1
    metrics = attack_metrics(sync_on_compute=False)
    for metric in ("iou", "plausible"):
        metrics[metric].update(adv_map=maps, target_map=maps)
        assert float(metrics[metric].compute()) == 1
        assert int(metrics[metric].count) == 1


def test_they_are_told_in_files_table_and_page_and_verify_agrees(tmp_path: Path) -> None:
    run = make_run(tmp_path, [record_of(empty=1)])
    assert [row["empty"] for row in json.loads((tmp_path / "results.json").read_text())["rows"]] == [1, 1, 1]
    with (tmp_path / "images.csv").open() as stream:
        assert [line["iou"] for line in csv.DictReader(stream)][:4] == ["nan", "0.5", "0.5", "0.5"]
    assert not [line for line in verify(tmp_path)[0] if "results" in line or "images.csv" in line]
    out = StringIO()
    print_table(run.summary, "", Console(file=out, width=250))
    assert "no IoU: images whose two maps are both below 0.5 everywhere" in out.getvalue()
    (table,) = next(section for section in run_sections(run) if section.title == "Results").blocks
    assert "no IoU" in table.headings
    assert any("both below 0.5 everywhere" in note for note in table.all_notes)
    plain = StringIO()
    print_table(summarize([record_of(empty=0)], NAMES), "", Console(file=plain, width=250))
    assert "no IoU" not in plain.getvalue()


def test_a_picture_says_so_and_is_not_green() -> None:
    assert iou_text(float("nan")) == "both empty"
    assert len({iou_colour(float("nan")), iou_colour(1.0), iou_colour(0.5)}) == 3


def test_the_gap_leaves_them_out() -> None:
    assert [(row["n"], row["iou"]) for row in gap_rows(gap_images(record_of(empty=1)))] == [(4, 1.0), *[(4, 0.5)] * 3]


NAN = float("nan")
OVER = "in brackets behind a mean: the number of images in it"


def printed(show: Callable[[Console], None]) -> str:
    """All that is printed, its white space made single."""
    out = StringIO()
    show(Console(file=out, width=250))
    return " ".join(out.getvalue().split())


def shown(study: type[Study], rows: list[Row], details: Any = None) -> str:
    """The same of a study's tables."""
    findings = Findings(rows, details=details or {})
    return " ".join(printed(partial(show, table)) for table in study.tables(findings))


def labels(figure: Any) -> list[str]:
    return [text.get_text() for axis in figure.axes for text in axis.texts]


def test_the_table_says_of_each_mean_over_how_many_images_it_is(tmp_path: Path) -> None:
    record = record_of(empty=0)
    none = torch.zeros(4, 1, 4, 4)
    record.benign_map_target_class = none.clone()
    record.benign_map_target_class[0] = 1
    for attack in record.attacks:
        attack.adv_map_target_class, attack.adv_map_true_class = none, torch.ones(4, 1, 4, 4)
    run = make_run(tmp_path, [record])
    (table,) = next(section for section in run_sections(run) if section.title == "Results").blocks
    for row in table.cells:
        cells = dict(zip(table.headings, row, strict=True))
        assert (cells["map IoU"], cells["IoU, c"], cells["IoU, c_t"]) == ("0.500", "1.000", "0.000 (1)")
    assert any(note.startswith(OVER) for note in table.all_notes)
    assert OVER in printed(lambda console: print_table(run.summary, "", console))
    fewer = printed(lambda console: print_table(summarize([record_of(empty=3)], NAMES), "", console))
    assert "0.500 (1)" in fewer
    assert "0.0% (1)" in fewer, "the share of plausible maps is over the same images"
    assert OVER not in printed(lambda console: print_table(summarize([record_of(empty=0)], NAMES), "", console))


def test_the_bars_say_so_too() -> None:
    figure = bars(summarize([record_of(empty=3)], NAMES).rows)
    assert labels(figure) == ["0.50\nn=1"] * 3 + ["0.24"] * 3
    assert labels(bars(summarize([record_of(empty=0)], NAMES).rows))[:3] == ["0.50"] * 3
    rows = gap_rows(gap_images(record_of(empty=3)))
    assert labels(GapEvaluation.figure(Findings(rows))) == ["1.00\nn=1", *["0.50\nn=1"] * 2]
    assert [row["empty"] for row in rows] == [3, 3, 3, 3]
    assert "0.500 [0.500, 0.500] (1)" in (text := shown(GapEvaluation, rows))
    assert OVER in text
    assert OVER not in shown(GapEvaluation, gap_rows(gap_images(record_of(empty=0))))


def test_every_metric_says_over_how_many_images_its_mean_is() -> None:
    """Of 16 images 14 have no rank correlation, as where a map is constant; all have a change of the maximum."""
    head = {"interpreter": "cam", "attack": "adv2", "schedule": "fast", "role": "joint"}
    undefined = [None, NAN] * 7
    values = {"correlation": [*undefined, 0.25, 0.75], "change": [0.5] * 16}
    record = make_record(0, [f"{i}" for i in range(16)])
    images = image_rows(head | {"order": (0,)}, record, range(16), values)
    (row,) = mean_rows(images, list(head), list(values), intervals=["correlation"])
    assert (row["n"], row["empty_correlation"], row["empty_change"], row["correlation"]) == (16, 14, 0, 0.5)
    columns = [Column("correlation", "", ".3f", interval=True), Column("change", "", ".3f")]
    table = Table("", columns, [row])
    assert table.cells == [["0.500 [0.250, 0.750] (2)", "0.500"]]
    assert any(note.startswith(OVER) for note in table.all_notes)

    class OfMaps(Study):
        title = "Of maps"
        columns = (*table.columns, Column("n"))
        logged = ("correlation", "change")

        def summarise(self, observed: Any, subject: Any) -> Findings:
            return Findings([])

    assert labels(OfMaps.figure(Findings([row]))) == ["0.500\nn=2", "0.500"]
    (nothing,) = mean_rows(images[:3], list(head), ["correlation"], intervals=["correlation"])
    assert (nothing["n"], nothing["empty_correlation"], nothing["correlation"]) == (2, 2, None)
    assert Table("", columns[:1], [nothing]).cells == [["-"]]
    assert Table("", columns[:1], [nothing]).all_notes == []


def test_transfer_says_so() -> None:
    head = {"source": "rts", "attack": "adv2", "schedule": "fast", "role": "joint", "interpreter": "rts"}
    images = [
        head | {"order": (0, name), "image_id": name, "l1": l1, "iou": iou}
        for name, l1, iou in (("a", 0.25, 0.5), ("b", 0.75, NAN))
    ]
    (row,) = rows = transfer_rows(images)
    assert (row["n"], row["empty"], row["iou"]) == (2, 1, 0.5)
    text = shown(TransferEvaluation, rows)
    assert "0.500 [0.500, 0.500] (1)" in text
    assert OVER in text
    assert "0.50\nn=1" in labels(TransferEvaluation.figure(Findings(rows)))


def test_transfer_between_classifiers_says_so() -> None:
    head = {"classifier": "b", "interpreter": "cam", "attack": "adv2", "schedule": "fast", "role": "joint"}
    images = [
        head | {"order": (0, name), "image_id": name, "hit": True, "wrong": True, "confidence": 0.9, "l1": 0.25}
        | {"iou": iou} for name, iou in (("x", NAN), ("y", 0.5))
    ]  # fmt: skip
    rows = classifier_rows(images)
    assert (rows[0]["empty"], rows[0]["empty_fooled"]) == (1, 1)
    details = {"classifiers": [{"name": "a"}, {"name": "b"}]}
    text = shown(ClassifierTransferEvaluation, rows, details)
    assert text.count("0.500 (1)") == 2
    assert OVER in text


def test_curves_leave_them_out_and_say_so(tmp_path: Path) -> None:
    record = record_of(empty=3)
    record.attacks[1].attack, record.attacks[2].attack = "adv2-eps1", "adv2-eps4"
    for attack, epsilon in zip(record.attacks, (0.03, 1 / 255, 4 / 255), strict=True):
        attack.epsilon = epsilon
    rows = curve_rows(make_run(tmp_path / "some", [record]))
    assert [row["axis"] for row in rows] == ["epsilon", "epsilon", None]
    for row in rows:
        assert (row["n"], row["empty"]) == (4, 3)
        assert (row["iou"], row["iou_low"], row["iou_high"]) == (0.5, 0.5, 0.5)
        assert row["l1"] == pytest.approx((3 * 0.15 + 0.5) / 4)
    text = shown(AttackCurves, rows)
    assert text.count("0.500 [0.500, 0.500] (1)") == 3
    assert OVER in text
    none = curve_rows(make_run(tmp_path / "none", [replace_all(record)]))
    assert [(row["iou"], row["iou_low"], row["empty"]) for row in none] == [(None, None, 4)] * 3
    assert AttackCurves.figure(Findings(none)) is not None


def replace_all(record: BatchRecord) -> BatchRecord:
    """The same record with no map above the threshold at all."""
    record.target_map = 0.3 * torch.ones(4, 1, 4, 4)
    for attack in record.attacks:
        attack.adv_map = torch.zeros(4, 1, 4, 4)
    return record
