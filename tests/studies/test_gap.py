from __future__ import annotations

from pathlib import Path

import pytest
import torch
from build_records import make_record

from lightning_adv2.report.findings import Findings, draw_figure, read_findings, write_findings
from lightning_adv2.results.summary import Row
from lightning_adv2.studies.gap import GapEvaluation, gap_images, gap_rows


def records() -> list:
    first = make_record(0, ["a", "b", "c"], target="patch")
    first.attacks[1].valid[1] = False
    again = make_record(1, ["c", "d"], target="patch")  # "c" comes twice
    return [again, first, make_record(0, ["a"], interpreter="rts", place=1, target="patch")]


def rows_of(records: list) -> list[Row]:
    return gap_rows([row for record in records for row in gap_images(record)])


def test_rows_are_means_over_images() -> None:
    rows = rows_of(records())
    assert rows == rows_of(records()[::-1])
    assert [(row["interpreter"], row["attack"], row["n"]) for row in rows] == [
        ("cam", "benign", 4), ("cam", "noise", 4), ("cam", "pgd", 3), ("cam", "adv2", 4),
        ("rts", "benign", 1), ("rts", "noise", 1), ("rts", "pgd", 1), ("rts", "adv2", 1),
    ]  # fmt: skip
    second, first, _ = records()
    kept = [(first, 0), (first, 1), (first, 2), (second, 1)]

    def agreement(one: torch.Tensor, two: torch.Tensor) -> tuple[float, float]:
        a, b = one >= 0.5, two >= 0.5
        return float((one - two).abs().mean()), float((a & b).sum() / (a | b).sum())

    values = [agreement(record.benign_map[i], record.target_map[i]) for record, i in kept]
    assert rows[0]["l1"] == pytest.approx(sum(l1 for l1, _ in values) / 4)
    assert rows[0]["iou"] == pytest.approx(sum(iou for _, iou in values) / 4)
    assert (rows[0]["asr"], rows[0]["confidence"], rows[0]["target"]) == (None, None, "patch")
    valid = [(record, i) for record, i in kept if bool(record.attacks[1].valid[i])]
    values = [agreement(record.attacks[1].adv_map[i], record.target_map[i]) for record, i in valid]
    hits = [float(record.attacks[1].adv_predicted[i] == record.target_class[i]) for record, i in valid]
    assert rows[2]["l1"] == pytest.approx(sum(l1 for l1, _ in values) / 3)
    assert rows[2]["iou"] == pytest.approx(sum(iou for _, iou in values) / 3)
    assert rows[2]["asr"] == pytest.approx(sum(hits) / 3)
    assert rows[2]["iou_low"] <= rows[2]["iou"] <= rows[2]["iou_high"]


def test_files_and_table(tmp_path: Path) -> None:
    findings = Findings(rows_of(records()))
    write_findings(tmp_path, GapEvaluation, findings)
    draw_figure(tmp_path, GapEvaluation, findings)
    study = read_findings(tmp_path, "gap")
    assert study is not None
    assert study.findings == findings
    assert [path.name for path in study.paths] == ["gap.json", "gap.csv", "gap.png"]
    assert study.figures[0].stat().st_size > 5000
    (table,) = study.tables
    assert table.title == "Agreement with the target map"
    assert [cells[1] for cells in table.cells[:3]] == ["benign", "noise", "pgd"]
    draw_figure(tmp_path / "none", GapEvaluation, Findings([]))
    assert not (tmp_path / "none" / "figures").exists()
