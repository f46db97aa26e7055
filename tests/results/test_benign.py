"""What the benign side of a run is worth is said beside the attacks' figures: accuracy, map area, map size."""

from __future__ import annotations

import json
from collections.abc import Callable
from io import StringIO
from pathlib import Path
from typing import Any

import pytest
import torch
from build_records import NAMES, make_record
from report.runs import make_run
from rich.console import Console

from lightning_adv2.audit.verify import verify
from lightning_adv2.report import print_table
from lightning_adv2.report.html.run_page import run_sections
from lightning_adv2.report.table import Table
from lightning_adv2.report.wandb.sync import report_digest
from lightning_adv2.results import BatchRecord, summarize
from lightning_adv2.results.run import Run, is_whole


def record_of(right: int, wrong: int, area: int = 8, side: tuple[int, int] = (4, 4), **kwargs: Any) -> BatchRecord:
    """``right`` images whose benign maps have ``area`` pixels of 1, and ``wrong`` ones that were never attacked."""
    record = make_record(0, [f"r{i}" for i in range(right)], [f"w{i}" for i in range(wrong)], **kwargs)
    h, w = side
    maps = (torch.arange(h * w) < area).float().view(1, 1, h, w).repeat(right, 1, 1, 1)
    record.benign_map = record.target_map = record.benign_map_target_class = maps
    for attack in record.attacks:
        attack.adv_map = attack.adv_map_true_class = attack.adv_map_target_class = maps
    return record


def said(run: Run) -> tuple[str, dict[str, str]]:
    """On the terminal, and the texts of the page's sections with the notes of their tables."""
    out = StringIO()
    print_table(run.summary, "title", Console(file=out, width=250))
    notes = {
        s.title: [note for b in s.blocks if isinstance(b, Table) for note in b.all_notes] for s in run_sections(run)
    }
    return out.getvalue(), {s.title: "\n".join([s.text, *notes[s.title]]) for s in run_sections(run)}


def benign_of(folder: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((folder / "results.json").read_text())["benign"]
    return found


def test_how_often_the_classifier_is_right_is_said_everywhere(tmp_path: Path) -> None:
    run = make_run(tmp_path, [record_of(16, 3)])  # of three classes
    terminal, page = said(run)
    line = "The classifier is right on 16 of 19 images (84%; chance 33%)"
    assert line in terminal.splitlines()
    assert line in page["Summary"]
    assert line in page["Denominators and flags"]
    assert "low_accuracy" not in terminal + page["Summary"]
    facts = benign_of(tmp_path)["cam"]
    assert (facts["right"], facts["judged"], facts["chance"], facts["flags"]) == (16, 19, 1 / 3, [])


@pytest.mark.parametrize(
    ("right", "wrong", "classes", "flagged"),
    [
        (5, 13, 4, True),  # 28%, a little above chance
        (5, 81, 10, True),  # below chance
        (8, 10, 4, False),  # 44.4%, above the limit of 43.75%
        (7, 9, 4, False),  # 43.75%, at the limit
        (2, 2, 2, False),  # too few to tell
        (3, 2, 2, True),  # 60% of two classes, below 62.5%
        (1, 3, 1000, False),
        (1, 4, 1000, True),  # 20%
        (1, 40, None, False),  # nobody knows how many classes there are
        (1, 40, 1, False),  # a single class has no chance level to beat
    ],
)
def test_which_accuracies_are_flagged(right: int, wrong: int, classes: int | None, flagged: bool) -> None:
    facts = summarize([record_of(right, wrong)], NAMES, classes=classes).benign["cam"]
    assert (facts["right"], facts["judged"]) == (right, right + wrong)
    assert ("low_accuracy" in facts["flags"]) == flagged


def test_images_without_a_verdict_are_no_mistakes_of_the_classifier(tmp_path: Path) -> None:
    record = record_of(6, 2)
    record.skipped = {"s": "truncated"}
    record.invalid = {"i": "logits not finite", "m": "constant benign map", "n": "benign map not finite"}
    facts = summarize([record], NAMES, {"p": ("invalid", "image not finite"), "q": ("already_wrong", "")}).benign["cam"]
    assert (facts["right"], facts["judged"]) == (8, 11), "m and n are right, q is wrong, s, i and p are neither"
    make_run(tmp_path, [record])
    assert (benign_of(tmp_path)["cam"]["right"], benign_of(tmp_path)["cam"]["judged"]) == (8, 10)
    assert not [line for line in verify(tmp_path)[0] if "results.json" in line]


def test_part_of_a_run_says_nothing_of_the_accuracy() -> None:
    """Chosen images alone are all right, whatever the classifier is worth."""
    summary = summarize([record_of(6, 0)], NAMES, {"w": ("already_wrong", "")}, selected=20, classes=4)
    assert summary.benign["cam"]["judged"] == 0
    out = StringIO()
    print_table(summary, "title", Console(file=out, width=250))
    assert "The classifier is right" not in out.getvalue()


def test_a_poor_classifier_is_warned_of_everywhere(tmp_path: Path) -> None:
    poor = [record_of(5, 13), record_of(5, 13, interpreter="rts", place=1)]
    terminal, page = said(make_run(tmp_path, poor))
    for text in (terminal, page["Summary"]):
        assert text.count("classifier: low_accuracy: ") == text.count("low_accuracy: ") == 1, "the same for all"
        assert "check the normalisation (mean, std), the order of the classes, and the size of the images" in text
    assert [facts["flags"] for facts in benign_of(tmp_path).values()] == [["low_accuracy"]] * 2
    assert not [line for line in verify(tmp_path)[0] if "results.json" in line]


@pytest.mark.parametrize(("area", "flag"), [(7, "empty_maps"), (8, ""), (320, ""), (321, "full_maps")])
def test_maps_that_are_nearly_empty_or_full_are_warned_of(tmp_path: Path, area: int, flag: str) -> None:
    """Of 400 pixels 2% are 8, and 80% are 320."""
    records = [record_of(5, 0, area, (20, 20)), record_of(5, 0, 200, (20, 20), interpreter="rts", place=1)]
    terminal, page = said(make_run(tmp_path, records))
    facts = benign_of(tmp_path)
    assert facts["cam"]["map_area"] == pytest.approx(area / 400)
    assert (facts["cam"]["flags"], facts["rts"]["flags"]) == ([flag] if flag else [], [])
    for text in (terminal, page["Summary"]):
        assert (f"cam: {flag}: the benign maps are nearly" in text) == ("area_weight" in text) == bool(flag)
        assert "rts: empty_maps" not in text
        assert "rts: full_maps" not in text
    assert not [line for line in verify(tmp_path)[0] if "results.json" in line]


def test_few_maps_are_not_flagged() -> None:
    assert summarize([record_of(4, 0, area=0)], NAMES).benign["cam"]["flags"] == []
    assert summarize([record_of(5, 0, area=0)], NAMES).benign["cam"]["flags"] == ["empty_maps"]


def test_how_many_pixels_a_map_has(tmp_path: Path) -> None:
    records = [record_of(5, 0, 2, (2, 3)), record_of(5, 0, 30, (8, 8), interpreter="grad", place=1)]
    terminal, page = said(make_run(tmp_path, records))
    line = "Map pixels: cam 2 x 3, grad 8 x 8; L1 and IoU are over these"
    for text in (terminal, page["Results"]):
        assert line in text
        assert "an IoU of fewer than 4 x 4 pixels (cam) takes few values" in text
    assert [facts["map_sizes"] for facts in benign_of(tmp_path).values()] == [[[2, 3]], [[8, 8]]]
    fine = make_run(tmp_path / "fine", [record_of(5, 0, 8, (4, 4))])
    assert "Map pixels: cam 4 x 4; L1" in said(fine)[0]
    assert "fewer than 4 x 4" not in said(fine)[0]


def drop_all(content: dict[str, Any]) -> None:
    del content["benign"]


def drop_flag(content: dict[str, Any]) -> None:
    content["benign"]["cam"]["flags"] = []


def change_right(content: dict[str, Any]) -> None:
    content["benign"]["cam"]["right"] += 1


def change_size(content: dict[str, Any]) -> None:
    content["benign"]["cam"]["map_sizes"] = [[7, 7]]


def drop_interpreter(content: dict[str, Any]) -> None:
    content["benign"] = {}


@pytest.mark.parametrize(
    ("change", "named"),
    [
        (drop_all, "benign"),
        (drop_flag, "flags is []"),
        (change_right, "right is 6"),
        (change_size, "map_sizes is [[7, 7]]"),
        (drop_interpreter, "judged is None"),
    ],
)
def test_verify_counts_again(tmp_path: Path, change: Callable[[dict[str, Any]], None], named: str) -> None:
    make_run(tmp_path, [record_of(5, 13)])
    path = tmp_path / "results.json"
    content = json.loads(path.read_text())
    change(content)
    path.write_text(json.dumps(content))
    found = [line for line in verify(tmp_path)[0] if "results.json" in line]
    assert any(named in line for line in found)


def test_an_older_run_is_as_whole_as_before(tmp_path: Path) -> None:
    run = make_run(tmp_path, [record_of(5, 0)])
    path = tmp_path / "results.json"
    content = json.loads(path.read_text())
    digest = report_digest(run)
    drop_all(content)
    path.write_text(json.dumps(content))
    assert is_whole(run)
    assert report_digest(run) == digest, "W&B has it already"
    content["rows"][0]["n"] += 1
    path.write_text(json.dumps(content))
    assert not is_whole(run)
