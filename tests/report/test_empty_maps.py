"""Images whose two maps are both empty have no IoU: counted, named, and in no mean of it."""

from __future__ import annotations

import csv
import json
from io import StringIO
from pathlib import Path

import pytest
import torch
from rich.console import Console

from lightning_adv2.audit.verify import verify
from lightning_adv2.metrics import attack_metrics
from lightning_adv2.report import BatchRecord, print_table, summarize
from lightning_adv2.report.figures import iou_colour, iou_text
from lightning_adv2.report.gap import gap_rows
from lightning_adv2.report.run_page import run_sections
from lightning_adv2.report.worst_case import worst_case
from report.build import NAMES, make_record
from report.runs import make_run


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
    assert "no IoU: images whose two maps are both empty" in out.getvalue()
    (table,) = next(section for section in run_sections(run) if section.title == "Results").blocks
    assert "no IoU" in table.columns
    assert "both empty" in table.note
    plain = StringIO()
    print_table(summarize([record_of(empty=0)], NAMES), "", Console(file=plain, width=250))
    assert "no IoU" not in plain.getvalue()


def test_an_older_runs_results_count_none(tmp_path: Path) -> None:
    """Its figures hold where no image has two empty maps, and are named where one has."""
    for empty in (0, 1):
        folder = tmp_path / str(empty)
        make_run(folder, [record_of(empty)])
        path = folder / "results.json"
        content = json.loads(path.read_text())
        for row in content["rows"]:
            del row["empty"]
        path.write_text(json.dumps(content))
        assert any("results.json" in line and "empty" in line for line in verify(folder)[0]) == bool(empty)


def test_a_picture_says_so_and_is_not_green() -> None:
    assert iou_text(float("nan")) == "both empty"
    assert len({iou_colour(float("nan")), iou_colour(1.0), iou_colour(0.5)}) == 3


def test_the_worst_case_and_the_gap_leave_them_out() -> None:
    images = summarize([record_of(empty=1)], NAMES).images
    for one in images:
        one["success"] = True
    worst = worst_case(images, ["adv2-fast"])
    assert (worst["n"], worst["asr"], worst["iou"]) == (4, 1, 0.5)
    assert [(row["n"], row["iou"]) for row in gap_rows([record_of(empty=1)])] == [(4, 1.0), *[(4, 0.5)] * 3]
    (chosen,) = worst_case([one for one in images if one["image_id"] == "0"], ["pgd-fast", "adv2-fast"])["chosen"]
    assert chosen == "pgd-fast"
