from __future__ import annotations

import csv
import json
import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from build_records import NAMES, make_record
from rich.console import Console

from lightning_adv2.metrics import METRICS
from lightning_adv2.report import print_table
from lightning_adv2.results import AttackRecord, BatchRecord, Summary, make_stamp, merge, summarize, write_results
from lightning_adv2.results.writing import logged_values

ROW_KEYS = [
    "dataset", "classifier", "interpreter", "attack", "schedule", "role", "needs_map", "threat_model", "target",
    "steps", "mean_steps", "n", "empty", *METRICS, "unit", "flags",
]  # fmt: skip
FILES = {"images.csv", "results.csv", "results.json", "stamp.json"}


def hand_record(batch_index: int, names: list[str], success: list[bool], level: list[float]) -> BatchRecord:
    """One attack whose maps are constant: benign 1, adversarial ``level``; every pixel moves by ``batch_index + 1``.

    For the true class the attack leaves ``1 - level``, for the target class ``level / 2`` where the benign map has 0.
    """
    n = len(names)
    images, maps = torch.full((n, 3, 2, 2), 100, dtype=torch.uint8), torch.ones(n, 1, 2, 2)
    target = torch.ones(n, dtype=torch.int64)
    shown = maps * torch.tensor(level).view(-1, 1, 1, 1)
    attack = AttackRecord(
        "pgd", "fast", 7, 2.0, role="class", threat_model="linf", adv_images=images + batch_index + 1, adv_map=shown,
        adv_predicted=torch.tensor(success).long(), confidence=torch.tensor(level),
        valid=torch.ones(n, dtype=torch.bool),
        size=torch.full((n,), 0.25), steps_taken=torch.arange(n) + 3, unit="px",
        adv_map_true_class=1 - shown, adv_map_target_class=shown / 2,
    )  # fmt: skip
    label = torch.zeros(n, dtype=torch.int64)
    return BatchRecord(
        batch_index, names, label=label, target_class=target, images=images, benign_map=maps, target_map=maps,
        already_wrong=[], attacks=[attack],
        benign_map_target_class=0 * maps, interpreter="cam",
    )  # fmt: skip


def test_numbers_by_hand() -> None:
    # Batches of two sizes: a mean of batch means would give other numbers.
    first = hand_record(0, ["a", "b", "c"], [True, False, True], [0.75, 0.25, 1.0])
    second = hand_record(1, ["d"], [False], [0.5])
    summary = summarize([first, second], NAMES)
    (row,) = summary.rows
    assert list(row) == ROW_KEYS
    head = {"interpreter": "cam", "attack": "pgd", "schedule": "fast", "role": "class", "needs_map": False}
    head |= {"threat_model": "linf", "target": "benign", "steps": 7}
    steps = {"mean_steps": (3 + 4 + 5 + 3) / 4, "n": 4}
    assert {k: row[k] for k in ROW_KEYS[:12]} == NAMES | head | steps
    assert [image["steps"] for image in summary.images] == [3, 4, 5, 3]
    assert row["asr"] == 0.5
    assert row["confidence"] == row["l1"] + 0.25 == 0.625
    assert row["l1"] == row["l2"] == (0.25 + 0.75 + 0 + 0.5) / 4
    assert row["iou"] == row["plausible"] == 0.75
    assert row["linf"] == pytest.approx((3 * 1 + 2) / 4 / 255)
    assert (row["l1_benign"], row["iou_benign"]) == (row["l1"], row["iou"])
    assert (row["l1_true_class"], row["l1_target_class"]) == (0.625, 0.625 / 2)
    # 1 against 0.25, 0.75, 0, 0.5; then nothing against nothing, nothing, a full map, nothing.
    # Nothing against nothing has no IoU.
    assert (row["iou_true_class"], row["iou_target_class"]) == ((0 + 1 + 0 + 1) / 4, 0)
    for name in ("l1_true_class", "iou_true_class", "l1_target_class"):
        assert row[name] == sum(image[name] for image in summary.images) / 4
    assert (row["size"], row["unit"], row["flags"]) == (0.25, "px", {})
    assert summary.seconds == {"cam": {"pgd-fast": 4.0}}
    assert summary.denominators == {
        "considered": 4,
        "already_wrong": 0,
        "skipped": 0,
        "invalid": 0,
        "selected": 4,
        "reasons": {},
        "attacks": {"pgd-fast": {"n": 4, "invalid": 0, "successful": 2}},
    }


def test_invalid_images_are_counted_but_not_averaged() -> None:
    record = hand_record(0, ["a", "b", "c"], [True, True, False], [1.0, float("nan"), 0.5])
    record.attacks[0].valid[1] = False
    summary = summarize([record], NAMES)
    (row,) = summary.rows
    assert (row["n"], row["asr"], row["confidence"]) == (2, 0.5, 0.75)
    assert summary.denominators["attacks"]["pgd-fast"] == {"n": 2, "invalid": 1, "successful": 1}
    assert [image["valid"] for image in summary.images] == [True, False, True]


def test_nothing_valid_gives_no_number() -> None:
    record = hand_record(0, ["a"], [True], [float("nan")])
    record.attacks[0].valid[0] = False
    summary = summarize([record], NAMES)
    assert [summary.rows[0][name] for name in METRICS] == [None] * len(METRICS)
    assert summary.rows[0]["n"] == 0
    console = Console(record=True, width=140)
    print_table(summary, "nothing", console)
    text = console.export_text()
    assert "pgd" in text
    assert "! pgd-fast/cam: 1 of 1 images not finite under attack, left out" in text


def test_an_image_that_comes_twice_counts_once() -> None:
    records = [
        hand_record(0, ["a", "b"], [True, False], [1.0, 0.5]),
        hand_record(1, ["b", "c"], [True, True], [0.0, 1.0]),
    ]
    summary = summarize(records, NAMES)
    assert summary.rows[0]["n"] == summary.denominators["selected"] == 3
    assert summary.rows[0]["asr"] == pytest.approx(2 / 3)
    assert [image["image_id"] for image in summary.images] == ["a", "b", "c"]


def test_an_image_that_comes_twice_in_one_batch_counts_once() -> None:
    summary = summarize([hand_record(0, ["a", "a", "b"], [True, True, False], [1.0, 1.0, 0.5])], NAMES)
    assert summary.rows[0]["n"] == 2
    assert summary.rows[0]["asr"] == 0.5


def test_promise_19_denominators_add_up() -> None:
    records = [make_record(0, ["a", "b"], ["w1"]), make_record(1, ["c"], ["w2", "w1"]), make_record(2, [], ["w3"])]
    records[0].attacks[2].valid[1] = False
    found = summarize(records, NAMES).denominators
    assert found["considered"] == found["already_wrong"] + found["selected"] == 6
    assert found["already_wrong"] == 3, "w1 was passed over twice and is one image"
    assert set(found["attacks"]) == {"noise", "pgd-fast", "adv2-fast"}
    for attack in found["attacks"].values():
        assert attack["n"] + attack["invalid"] == found["selected"]
        assert attack["successful"] <= attack["n"]
    assert found["attacks"]["adv2-fast"]["invalid"] == 1


def test_the_order_of_records_does_not_matter() -> None:
    records = [make_record(i, [f"{i}-{j}" for j in range(1 + i)], [f"w{i}"]) for i in range(4)]
    forward, backward = summarize(records, NAMES), summarize(records[::-1], NAMES)
    assert forward.denominators == backward.denominators
    for one, other in zip(forward.rows, backward.rows, strict=True):
        assert list(one) == list(other)
        exact = [*ROW_KEYS[:11], "unit", "flags"]
        assert [one[k] for k in exact] == [other[k] for k in exact]
        for key in set(ROW_KEYS) - set(exact):
            assert one[key] == pytest.approx(other[key], rel=1e-12)
    by_name: Callable[[dict[str, Any]], tuple[str, str]] = lambda row: (row["image_id"], row["attack"])  # noqa: E731
    assert sorted(forward.images, key=by_name) == sorted(backward.images, key=by_name)


def test_rows_against_numpy_over_images() -> None:
    records = [make_record(i, [f"{i}-{j}" for j in range(2 + 3 * i)]) for i in range(3)]
    summary = summarize(records, NAMES)
    for row in summary.rows:
        images = [image for image in summary.images if image["attack"] == row["attack"]]
        assert len(images) == row["n"] == 15
        for name in set(METRICS) - {"asr", "plausible"}:
            assert row[name] == pytest.approx(np.mean([image[name] for image in images]), rel=1e-6), name
        assert row["asr"] == pytest.approx(np.mean([image["success"] for image in images]))
        assert row["plausible"] == pytest.approx(np.mean([image["iou"] > 0.5 for image in images]))


@pytest.fixture
def written(tmp_path: Path) -> tuple[Path, Summary]:
    records = [make_record(0, ["a", "b"], ["w"]), make_record(1, ["c"])]
    records[1].attacks[2].valid[0] = False
    records[1].attacks[2].adv_map[0] = float("nan")
    records[1].attacks[1].flags = ["one more", "constant map (1 image)"]
    summary = summarize(records, NAMES)
    assert write_results(tmp_path / "run", summary, make_stamp(seed=1)) == tmp_path / "run" / "results.json"
    return tmp_path / "run", summary


def strict_json(text: str) -> Any:
    """NaN and Infinity are Python's own; no other JSON reader takes them."""

    def refuse(word: str) -> None:
        raise AssertionError(f"{word} is no JSON")

    return json.loads(text, parse_constant=refuse)


def test_results_json(written: tuple[Path, Summary]) -> None:
    folder, summary = written
    content = strict_json((folder / "results.json").read_text())
    assert list(content) == ["rows", "denominators", "benign"]
    assert content["rows"] == summary.rows
    assert all(list(row) == ROW_KEYS for row in content["rows"])
    for row in content["rows"]:
        for name in METRICS:
            assert math.isfinite(row[name]), name
        for name in ("asr", "confidence", "l1", "l2", "iou", "plausible"):
            assert 0 <= row[name] <= 1, name
    assert content["denominators"] == summary.denominators
    assert {p.name for p in folder.iterdir()} - {"status.csv"} == FILES


def test_invalid_numbers_never_reach_the_json(tmp_path: Path) -> None:
    record = hand_record(0, ["a"], [True], [float("nan")])
    record.attacks[0].valid[0] = False
    write_results(tmp_path, summarize([record], NAMES), make_stamp())
    assert strict_json((tmp_path / "results.json").read_text())["rows"][0]["confidence"] is None


def test_results_csv_is_the_json(written: tuple[Path, Summary]) -> None:
    folder, summary = written
    with (folder / "results.csv").open(newline="") as stream:
        rows = list(csv.DictReader(stream))
    assert [list(row) for row in rows] == [ROW_KEYS] * 3
    for row, expected in zip(rows, summary.rows, strict=True):
        assert row.pop("flags") == ("" if row["attack"] != "pgd" else "constant map (1 image); one more")
        kept = {k: v for k, v in expected.items() if k != "flags"}
        assert row.pop("needs_map") == str(kept.pop("needs_map"))
        assert {k: type(kept[k])(v) for k, v in row.items()} == kept


def test_images_csv(written: tuple[Path, Summary]) -> None:
    folder, _ = written
    with (folder / "images.csv").open(newline="") as stream:
        rows = list(csv.DictReader(stream))
    assert len(rows) == 9
    assert {(row["attack"], row["image_id"]) for row in rows} == {
        (attack, name) for attack in ("noise", "pgd", "adv2") for name in "abc"
    }
    invalid = [row for row in rows if row["valid"] == "False"]
    assert [(row["attack"], row["image_id"]) for row in invalid] == [("adv2", "c")]
    assert all(row["dataset"] == "drawn" for row in rows)


def test_no_rows_leave_files_with_a_header(tmp_path: Path) -> None:
    write_results(tmp_path, summarize([make_record(0, [], ["w"])], NAMES) and Summary(), make_stamp())
    assert (tmp_path / "results.csv").read_text().strip() == ",".join(ROW_KEYS)
    assert strict_json((tmp_path / "results.json").read_text())["rows"] == []


def test_a_failing_write_leaves_the_old_results(written: tuple[Path, Summary]) -> None:
    folder, summary = written
    before = (folder / "results.json").read_bytes()
    with pytest.raises(TypeError):
        write_results(folder, summary, {"unwritable": object()})
    assert (folder / "results.json").read_bytes() == before
    assert {p.name for p in folder.iterdir()} - {"status.csv"} == FILES


def test_merge_keeps_the_denominators_apart() -> None:
    one = summarize([make_record(0, ["a"])], NAMES)
    other = summarize([make_record(0, ["a", "b"], seed=1, interpreter="rts")], NAMES)
    merged = merge({"cam": one, "rts": other})
    assert merged.rows == one.rows + other.rows
    assert merged.images == one.images + other.images
    assert merged.denominators == {"cam": one.denominators, "rts": other.denominators}
    assert len(one.rows) == 3, "merging changed what it was given"
    assert (one.parts, merged.parts) == ([one.denominators], [one.denominators, other.denominators])


def test_records_of_several_interpreters() -> None:
    """As each for itself, one after the other; an image counts under every interpreter."""
    cam = [make_record(0, ["a", "b"], ["w"]), make_record(1, ["c"])]
    rts = [make_record(0, ["a"], ["w"], seed=1, interpreter="rts"), make_record(1, ["c"], seed=2, interpreter="rts")]
    rts[0].invalid = {"b": "constant benign map"}
    summary = summarize([*cam, *rts], NAMES)
    parts = {"cam": summarize(cam, NAMES), "rts": summarize(rts, NAMES)}
    assert summary == merge(parts)
    assert [row["interpreter"] for row in summary.rows] == ["cam"] * 3 + ["rts"] * 3
    assert [part["considered"] for part in summary.parts] == [4, 4]
    assert [part["selected"] for part in summary.parts] == [3, 2]
    assert [part["invalid"] for part in summary.parts] == [0, 1]


def test_another_target_map() -> None:
    """Agreement with the target and with the benign map are told apart, by hand."""
    record = hand_record(0, ["a", "b"], [True, True], [1.0, 0.25])
    record.target, record.target_map = "patch", torch.zeros(2, 1, 2, 2)
    summary = summarize([record], NAMES)
    (row,) = summary.rows
    assert row["target"] == "patch"
    assert (row["l1"], row["l1_benign"]) == ((1 + 0.25) / 2, (0 + 0.75) / 2)
    # Against an empty map: a full one does not agree; with a map below the threshold there is nothing to compare.
    assert (row["iou"], row["iou_benign"]) == (0, (1 + 0) / 2)
    assert (row["n"], row["empty"]) == (2, 1)
    assert [(image["l1"], image["l1_benign"]) for image in summary.images] == [(1, 0), (0.25, 0.75)]
    assert {image["target"] for image in summary.images} == {"patch"}
    assert {"l1_benign", "iou_benign", "size"} <= logged_values(row).keys()
    plain = summarize([make_record(0, ["a"])], NAMES).rows[0]
    assert list(logged_values(plain)) == [n for n in METRICS if n not in ("l1_benign", "iou_benign", "size")]
    console = Console(record=True, width=200)
    print_table(summary, "the title", console)
    text = console.export_text()
    for shown in ("the title; target map: patch", "benign L1", "benign IoU", "0.25 px"):
        assert shown in text


def test_flags() -> None:
    records = [make_record(i, [str(i)]) for i in range(3)]
    records[0].attacks[2].flags = ["constant map (3 images)"]
    for record in records[1:]:
        record.attacks[2].flags = ["tiny steps", "tiny steps"]
    summary = summarize(records, NAMES)
    assert [row["flags"] for row in summary.rows] == [{}, {}, {"constant map (3 images)": 1, "tiny steps": 2}]
    console = Console(record=True, width=160)
    print_table(summary, "flagged", console)
    styled = console.export_text(styles=True, clear=False)
    text = console.export_text().splitlines()
    assert text[-2:] == ["! adv2-fast/cam: constant map (3 images)", "! adv2-fast/cam: tiny steps, 2 batches"]
    assert "\x1b[33m! adv2-fast/cam" in styled, "not yellow"
    print_table(replace(summary, rows=summary.rows[:2]), "nothing flagged", console)
    assert "!" not in console.export_text()


@pytest.mark.parametrize(("width", "whole"), [(80, False), (200, True)])
def test_a_narrow_terminal_gets_fewer_columns_and_no_broken_word(width: int, whole: bool) -> None:
    summary = summarize([make_record(0, ["a", "b"])], NAMES)
    console = Console(record=True, width=width, force_terminal=True, color_system=None)
    print_table(summary, "the title", console)
    text = console.export_text()
    for heading in ("interpreter", "attack", "ASR", "confidence", "map L1", "map IoU"):
        assert heading in text
    assert f"{summary.rows[0]['iou']:.3f}" in text
    assert ("plausible" in text) == whole


def test_the_printed_table() -> None:
    records = [make_record(0, ["a", "b"])]
    summary = summarize([*records, make_record(0, ["a", "b"], interpreter="rts")], NAMES)
    console = Console(record=True, width=140)
    print_table(summary, "the title", console)
    text = console.export_text()
    assert "the title" in text
    for heading in (
        "interpreter",
        "attack",
        "schedule",
        "steps",
        "ASR",
        "confidence",
        "map L1",
        "map IoU",
        "Linf x255",
    ):
        assert heading in text
    adv2 = next(line for line in text.splitlines() if "adv2" in line)
    row = summary.rows[2]
    for absent in ("target map", "benign L1", "size"):
        assert absent not in text
    for shown in (f"{row['asr']:.1%}", f"{row['l1']:.3f}", f"{row['linf'] * 255:.1f}"):
        assert shown in adv2
    headings = [cell.strip() for cell in next(line for line in text.splitlines() if "map IoU" in line).split("\u2503")]
    cells = [cell.strip() for cell in adv2.split("\u2502")]
    place = headings.index("map IoU")
    assert headings[place : place + 3] == ["map IoU", "IoU, c", "IoU, c_t"]
    wanted = [f"{row[name]:.3f}" for name in ("iou", "iou_true_class", "iou_target_class")]
    assert cells[place : place + 3] == wanted
    assert len(set(wanted)) == 3
    assert "explained for the true class c or both for the target class c_t" in text
    assert f"{0.125 / 2:.3f}" in adv2, "the record's seconds, per image"
    assert sum("adv2" in line for line in text.splitlines()) == 2


def test_a_table_in_a_narrow_pipe_is_whole(capsys: pytest.CaptureFixture[str]) -> None:
    print_table(summarize([make_record(0, ["a"])], NAMES), "piped")
    text = capsys.readouterr().out
    assert "confidence" in text
    assert "s/image" in text
    assert "..." not in text
    assert "\u2026" not in text, "numbers were cut off"


def test_stamp() -> None:
    stamp = strict_json(json.dumps(make_stamp(seed=3, classifier_sha256="ab", processes=2)))
    assert (stamp["seed"], stamp["classifier_sha256"], stamp["processes"]) == (3, "ab", 2)
    assert stamp["versions"]["torch"] == torch.__version__.split("+")[0] or stamp["versions"]["torch"]
    assert set(stamp["versions"]) >= {"lightning-adv2", "torch", "pytorch-lightning", "torchmetrics", "numpy", "wandb"}
    assert stamp["git_revision"] is None or len(stamp["git_revision"].rstrip("+")) == 40
    assert stamp["time"].endswith("+00:00")
    assert {"python", "platform", "command"} <= set(stamp)


def test_the_printed_steps_are_those_taken() -> None:
    console = Console(record=True, width=200)
    record = make_record(0, ["a", "b"])
    record.attacks[-1].steps_taken = torch.tensor([10, 21])
    record.attacks[-1].steps = 40
    print_table(summarize([record], NAMES), "t", console)
    text = console.export_text()
    assert "16/40" in text
    assert text.count("/40") == 1
