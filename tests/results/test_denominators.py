from __future__ import annotations

import csv
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from build_records import NAMES, make_record
from hypothesis import given, settings
from hypothesis import strategies as st
from rich.console import Console

from lightning_adv2.report import print_table
from lightning_adv2.results import BatchRecord, Summary, summarize
from lightning_adv2.results.summary import check_invalid, merge
from lightning_adv2.results.tables import write_status

REASONS = ("image not finite", "logits not finite", "benign map not finite", "constant benign map")


def record_of(
    batch_index: int, attacked: list[str], wrong: list[str], invalid: dict[str, str], unjudged: int = 0
) -> BatchRecord:
    """``unjudged``: so many of the attacked images gave NaN under adv2."""
    record = make_record(batch_index, attacked, wrong, trace=False)
    record.invalid = invalid
    record.attacks[2].valid[:unjudged] = False
    record.attacks[2].confidence[:unjudged] = torch.nan
    if not attacked:
        record.attacks = []
    return record


# Of each image: in which batch it lies, what becomes of it, and whether adv2 gives NaN on it.
KINDS = ("attacked", "already_wrong", "invalid", "wrong in the scan", "skipped in the scan", "invalid in the scan")
IMAGES = st.lists(st.tuples(st.integers(0, 3), st.sampled_from(KINDS), st.sampled_from(REASONS), st.booleans()))


@settings(max_examples=50, deadline=None)
@given(IMAGES)
def test_promise_19_every_image_has_one_status_and_the_sums_add_up(images: list[tuple[int, str, str, bool]]) -> None:
    passed_over = {}
    records = []
    for batch in range(4):
        mine = [(f"{i:03d}", kind, why, nan) for i, (b, kind, why, nan) in enumerate(images) if b == batch]
        chosen = sorted(((name, nan) for name, kind, _, nan in mine if kind == "attacked"), key=lambda one: not one[1])
        wrong = [name for name, kind, *_ in mine if kind == "already_wrong"]
        invalid = {name: why for name, kind, why, _ in mine if kind == "invalid"}
        for name, kind, why, _ in mine:
            if kind.endswith("in the scan"):
                status = {"wrong": "already_wrong"}.get(kind.split()[0], kind.split()[0])
                passed_over[name] = (status, "" if status == "already_wrong" else why)
        records.append(record_of(batch, [n for n, _ in chosen], wrong, invalid, sum(nan for _, nan in chosen)))
    summary = summarize(records, NAMES, passed_over, len(images) - len(passed_over))
    found = summary.denominators
    count = {kind: sum(one[1] == kind for one in images) for kind in KINDS}
    assert found["considered"] == len(images)
    assert found["already_wrong"] + found["skipped"] + found["invalid"] + found["selected"] == len(images)
    assert found["already_wrong"] == count["already_wrong"] + count["wrong in the scan"]
    assert found["skipped"] == count["skipped in the scan"]
    assert found["invalid"] == count["invalid"] + count["invalid in the scan"] == sum(found["reasons"].values())
    assert found["selected"] == count["attacked"]
    unjudged = sum(kind == "attacked" and nan for _, kind, _, nan in images)
    for key, attack in found["attacks"].items():
        assert attack["n"] + attack["invalid"] == found["selected"]
        assert attack["invalid"] == (unjudged if key == "adv2-fast" else 0)
        assert 0 <= attack["successful"] <= attack["n"]
    for row in summary.rows:
        attack = found["attacks"][row["attack"] if row["schedule"] == "control" else f"{row['attack']}-fast"]
        assert row["n"] == attack["n"]
        if row["n"]:
            assert row["asr"] == pytest.approx(attack["successful"] / attack["n"]), "ASR is over the attacked"
    assert sorted(row["image_id"] for row in summary.statuses) == [f"{i:03d}" for i in range(len(images))]


def test_promise_19_an_image_with_two_verdicts_counts_once() -> None:
    """A padded sampler hands an image to two processes, which may round differently."""
    records = [
        record_of(0, ["a", "b"], [], {}),
        record_of(1, [], ["b"], {"a": REASONS[0]}),
        record_of(2, ["c"], [], {}),
    ]
    for order in (records, records[::-1]):
        found = summarize(order, NAMES).denominators
        assert found["considered"] == 3
        assert found["already_wrong"] + found["invalid"] + found["selected"] == 3
        for attack in found["attacks"].values():
            assert attack["n"] == found["selected"]


def test_promise_19_status_csv_names_every_image(tmp_path: Path) -> None:
    passed_over = {"w": ("already_wrong", ""), "s": ("skipped", "image file is truncated")}
    cam = record_of(0, ["a", "b"], [], {})
    rts = replace(record_of(0, ["a"], ["v"], {"b": "constant benign map"}), interpreter="rts")
    write_status(summarize([cam, rts], NAMES, passed_over), tmp_path / "status.csv")
    with (tmp_path / "status.csv").open(newline="") as stream:
        rows = [tuple(row.values()) for row in csv.DictReader(stream)]
    before = [("w", "{}", "already_wrong", ""), ("s", "{}", "skipped", "image file is truncated")]
    assert rows == [
        *[(n, "cam", status, reason) for n, _, status, reason in before],
        ("a", "cam", "attacked", ""),
        ("b", "cam", "attacked", ""),
        *[(n, "rts", status, reason) for n, _, status, reason in before],
        ("a", "rts", "attacked", ""),
        ("v", "rts", "already_wrong", ""),
        ("b", "rts", "invalid", "constant benign map"),
    ]
    write_status(Summary(), tmp_path / "empty.csv")
    assert (tmp_path / "empty.csv").read_text().strip() == "image_id,interpreter,status,reason"


def test_what_was_passed_over_counts_for_a_whole_run_only() -> None:
    passed_over = {"w": ("already_wrong", "")}
    for selected, considered in ((None, 2), (1, 2), (5, 1)):
        found = summarize([record_of(0, ["a"], [], {})], NAMES, passed_over, selected).denominators
        assert found["considered"] == considered


def printed(summary: Summary) -> str:
    console = Console(record=True, width=200)
    print_table(summary, "the title", console)
    return console.export_text()


def test_promise_19_the_table_says_where_every_image_went() -> None:
    attacked = [f"a{i}" for i in range(15)]
    passed_over = {f"w{i}": ("already_wrong", "") for i in range(980)} | {
        f"s{i}": ("skipped", "gone") for i in range(3)
    }
    records = [record_of(0, attacked, [], dict.fromkeys(("i", "j"), "constant benign map"))]
    line = "1,000 considered: 980 already wrong, 3 skipped, 2 invalid (constant benign map 2), 15 attacked"
    assert line in printed(summarize(records, NAMES, passed_over)).splitlines()
    other = replace(records[0], interpreter="rts", place=1)
    both = printed(summarize([*records, other], NAMES, passed_over)).splitlines()
    assert both.count(line) == 1, "the same for both, said once"
    other = replace(record_of(0, ["a"], [], {}), interpreter="rts", place=1)
    apart = printed(summarize([*records, other], NAMES, passed_over)).splitlines()
    assert f"cam: {line}" in apart
    assert "rts: 984 considered: 980 already wrong, 3 skipped, 0 invalid, 1 attacked" in apart


def test_promise_13_too_many_invalid_images_fail_the_run() -> None:
    names = [f"a{i}" for i in range(18)]
    fine = summarize([record_of(0, names, [], {"x": REASONS[3]})], NAMES)
    check_invalid(fine, 1 / 19)
    with pytest.raises(
        RuntimeError, match=r"max_invalid=0\.05: .*cam, noise: 1 of 19 \(constant benign map 1, not fin"
    ):
        check_invalid(fine, 0.05)
    # One that could not be attacked, and one that gave NaN under adv2: together they are too many, for adv2 alone.
    both = summarize([record_of(0, names, [], {"x": REASONS[3]}, unjudged=1)], NAMES)
    with pytest.raises(
        RuntimeError, match=r"adv2-fast: 2 of 19 \(constant benign map 1, not finite under attack 1\)\. "
    ) as raised:
        check_invalid(both, 0.1)
    assert "noise" not in str(raised.value)
    assert "status.csv" in str(raised.value)
    check_invalid(both, 0.2)
    # Already wrong or skipped images are no part of the share.
    check_invalid(summarize([record_of(0, names, ["w"] * 99, {})], NAMES, {"s": ("skipped", "gone")}), 0)
    # All of them invalid: there is no attack, and the run fails all the same.
    nothing = summarize([record_of(0, [], [], {"x": REASONS[0]})], NAMES)
    with pytest.raises(RuntimeError, match=r"cam, no attack: 1 of 1 \(image not finite 1"):
        check_invalid(nothing, 0.5)
    rts = summarize([replace(record_of(0, names[:1], [], {"x": REASONS[3]}), interpreter="rts")], NAMES)
    with pytest.raises(RuntimeError, match=r"max_invalid=0\.4: .*\brts, pgd-fast: 1 of 2") as raised:
        check_invalid(merge({"cam": fine, "rts": rts}), 0.4)
    assert "cam" not in str(raised.value)
    check_invalid(Summary(), 0)
