"""Joint attacks that keep no more of the map than what never looked at it are named, and no others."""

from __future__ import annotations

import json
from io import StringIO
from pathlib import Path

import pytest
import torch
from build_records import NAMES, make_record
from report.runs import make_run
from rich.console import Console

from lightning_adv2.audit.verify import verify
from lightning_adv2.report import print_table
from lightning_adv2.report.html.run_page import run_sections
from lightning_adv2.results import BatchRecord, summarize
from lightning_adv2.results.run import read_run
from lightning_adv2.studies.resilience.rows import voiding_flags

PGD, NOISE = "pgd-fast", "noise"


def text(other: str) -> str:
    return f"blind_attack: its maps are no nearer to the target map than those under {other}"


def record_with(agreement: dict[str, list[int]], batch: int = 0) -> BatchRecord:
    """Maps of 20 pixels, all in the target region; of an image's map so many are left, which is 20 times its IoU."""
    count = len(next(iter(agreement.values())))
    record = make_record(batch, [f"{batch}-{i}" for i in range(count)])
    record.benign_map = record.target_map = record.benign_map_target_class = torch.ones(count, 1, 4, 5)
    for attack in record.attacks:
        attack.adv_map_true_class = attack.adv_map_target_class = torch.ones(count, 1, 4, 5)
        left = agreement[attack.attack]
        attack.adv_map = torch.stack([(torch.arange(20) < k).float().view(1, 4, 5) for k in left])
    return record


def flags_of(agreement: dict[str, list[int]]) -> set[str]:
    summary = summarize([record_with(agreement)], NAMES)
    assert not any(row["flags"] for row in summary.rows if row["attack"] != "adv2")
    return {flag for row in summary.rows for flag in row["flags"]}


@pytest.mark.parametrize(
    ("joint", "pgd", "noise", "blind"),
    [
        ([16, 17, 15, 16, 18, 14, 16, 17], [2, 1, 3, 2, 0, 4, 2, 2], [8, 9, 7, 8, 9, 8, 7, 8], set()),
        ([2, 1, 3, 2, 0, 4, 2, 2], [2, 2, 2, 2, 1, 3, 2, 2], [1, 0, 1, 0, 1, 0, 1, 0], {PGD, NOISE}),
        ([12, 11, 13, 12, 12, 12, 11, 13], [5, 5, 5, 4, 6, 5, 5, 5], [14, 14, 14, 14, 14, 14, 14, 14], {NOISE}),
        # Better on average, but by two images alone.
        ([20, 20, 2, 2, 2, 2, 2, 2], [2, 2, 2, 2, 2, 2, 2, 2], [0, 0, 0, 0, 0, 0, 0, 0], {PGD}),
        # Nothing is left to gain.
        ([19, 19, 19, 19, 19, 19, 19, 18], [19, 19, 19, 19, 19, 19, 19, 19], [20] * 8, set()),
        # As good as equal on every image: better without doubt, and yet by next to nothing.
        ([3] * 8, [2] * 8, [2] * 8, {PGD, NOISE}),
        # Too few images to say anything.
        ([2, 2, 2, 2], [2, 2, 2, 2], [2, 2, 2, 2], set()),
    ],
)
def test_which_attacks_are_blind(joint: list[int], pgd: list[int], noise: list[int], blind: set[str]) -> None:
    assert flags_of({"adv2": joint, "pgd": pgd, "noise": noise}) == {text(other) for other in blind}


def test_the_images_are_paired() -> None:
    """The same sets of values: image by image the joint attack gains little but surely, or what looks like chance."""
    own = [18, 14, 10, 6, 15, 11, 7, 3]
    less = [k - 3 for k in own]
    assert flags_of({"adv2": own, "pgd": less, "noise": less}) == set()
    assert flags_of({"adv2": own, "pgd": less[::-1], "noise": less}) == {text(PGD)}


def test_where_no_image_has_an_iou_the_l1_tells() -> None:
    record = record_with({"adv2": [0] * 8, "pgd": [0] * 8, "noise": [0] * 8})
    record.benign_map = record.target_map = torch.full((8, 1, 4, 5), 0.4)
    for attack, level in zip(record.attacks, (0.1, 0.2, 0.3), strict=True):  # noise, PGD, ADV2
        attack.adv_map = torch.full((8, 1, 4, 5), level)
    rows = summarize([record], NAMES).rows
    assert [row["empty"] for row in rows] == [8, 8, 8]
    assert [row["iou"] for row in rows] == [row["plausible"] for row in rows] == [None, None, None]
    assert not rows[2]["flags"], "1 - L1 is 0.9: next to the target map"
    record.attacks[2].adv_map = torch.full((8, 1, 4, 5), 0.15)
    assert set(summarize([record], NAMES).rows[2]["flags"]) == {text(PGD)}


def test_a_blind_attack_stands_everywhere_and_verify_comes_to_the_same(tmp_path: Path) -> None:
    blind = {"adv2": [2, 1, 3, 2, 0], "pgd": [2, 2, 2, 2, 1], "noise": [1, 0, 1, 0, 1]}
    run = make_run(tmp_path, [record_with(blind, batch) for batch in (0, 1)])
    stated = json.loads((tmp_path / "results.json").read_text())["rows"]
    assert [row["flags"] for row in stated if row["attack"] == "adv2"] == [{text(NOISE): 1, text(PGD): 1}]
    assert "blind_attack" in (tmp_path / "results.csv").read_text()
    assert not [line for line in verify(tmp_path)[0] if "flags" in line]
    out = StringIO()
    print_table(run.summary, "title", Console(file=out, width=250))
    assert f"! adv2-fast/cam: {text(PGD)}" in out.getvalue()
    assert "smooth surrogate" in " ".join(out.getvalue().split()), "what to do"
    shown = {section.title: section for section in run_sections(read_run(tmp_path))}
    assert "smooth surrogate" in shown["Results"].text
    assert any(text(NOISE) in cell for cells in shown["Denominators and flags"].blocks[1].cells for cell in cells)


def test_verify_finds_a_flag_that_is_missing(tmp_path: Path) -> None:
    make_run(tmp_path, [record_with({"adv2": [2] * 8, "pgd": [2] * 8, "noise": [1] * 8})])
    path = tmp_path / "results.json"
    content = json.loads(path.read_text())
    content["rows"][2]["flags"] = {}
    path.write_text(json.dumps(content))
    assert any("flags is {}" in line for line in verify(tmp_path)[0])


def test_what_noise_leaves_voids_no_resilience_and_what_pgd_leaves_does() -> None:
    assert voiding_flags({"n": 8, "flags": {text(NOISE): 1}}) == []
    assert voiding_flags({"n": 8, "flags": {text(PGD): 1}}) == ["blind_attack"]
