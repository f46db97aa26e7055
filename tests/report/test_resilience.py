"""The rules of the ranking, with rows made by hand."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import pytest

from lightning_adv2.report.resilience import resilience_rows
from lightning_adv2.report.resilience_files import print_resilience, read_evaluation, scatter, write_resilience

GOOD = {
    "preserved": 0.8, "destroyed": 0.2, "shuffled": 0.6, "gap": 0.2, "deletion": 0.3, "insertion": 0.7,
    "localisation_iou": 0.5, "agreement_l1": 0.0, "agreement_iou": 1.0, "randomised_correlation": 0.1,
}  # fmt: skip
MASKED = "masked_gradient: the gradient of the classifier is zero ({} of 32 images)"


def attack(
    interpreter: str, iou: float | None, asr: float | None = 1.0, name: str = "adv2", **more: Any
) -> dict[str, Any]:
    schedule = "control" if name in ("noise", "target_class") else "fast"
    row = {"interpreter": interpreter, "attack": name, "schedule": schedule, "asr": asr, "iou": iou, "l1": 0.1, "n": 64}
    return row | {"flags": {}} | more


def judge(rows: list[dict[str, Any]], **quality: dict[str, float]) -> dict[str, dict[str, Any]]:
    """Rows by interpreter, in their order; ``rts`` is good, whatever else is said."""
    made = resilience_rows(rows, {"rts": GOOD, **{name: GOOD | values for name, values in quality.items()}})
    return {row["interpreter"]: row for row in made}


def test_promise_22_who_resists_and_explains_is_ranked_by_resilience() -> None:
    rows = [attack("rts", 0.95), attack("rts_a", 0.4), attack("rts_b", 0.2), attack("cam", 0.95)]
    found = judge(rows, cam={}, rts_a={"agreement_l1": 0.03}, rts_b={})
    assert list(found) == ["rts_b", "rts_a", "rts", "cam"]  # the reference first among equals
    assert [row["rank"] for row in found.values()] == [1, 2, 3, 4]
    assert found["rts_a"]["resilience"] == pytest.approx(0.6)
    assert not any(row["gate"] or row["flags"] for row in found.values())


@pytest.mark.parametrize(
    ("measure", "fails", "passes"),
    [
        ("preserved", 0.75, 0.77),
        ("gap", 0.18, 0.191),
        ("insertion", 0.66, 0.67),
        ("localisation_iou", 0.47, 0.48),
        ("deletion", 0.32, 0.314),
        ("randomised_correlation", 0.51, 0.49),
    ],
)
def test_promise_22_what_explains_worse_does_not_count(measure: str, fails: float, passes: float) -> None:
    rows = [attack("rts", 0.95), attack("other", 0.1)]
    bad, good = judge(rows, other={measure: fails}), judge(rows, other={measure: passes})
    assert list(bad) == ["rts", "other"]
    assert bad["other"]["rank"] is None
    assert not bad["other"]["counts"]
    assert [text.partition(":")[0] for text in bad["other"]["gate"]] == [measure]
    assert list(good) == ["other", "rts"]
    assert good["other"]["counts"]


def test_promise_22_what_cannot_be_measured_does_not_count() -> None:
    quality = {
        "rts": GOOD,
        "blank": {"invalid": 1.0},
        "gone": {k: v for k, v in GOOD.items() if k != "localisation_iou"},
    }
    made = resilience_rows([attack(name, 0.1) for name in quality], quality)
    assert [row["interpreter"] for row in made if row["counts"]] == ["rts"]
    assert [row["gate"] for row in made if row["interpreter"] == "gone"] == [["localisation_iou: nan, rts 0.500"]]


def test_promise_22_a_variant_must_stay_close_to_the_reference() -> None:
    rows = [attack(name, 0.1) for name in ("rts", "rts_a", "rtsx")]
    found = judge(rows, rts_a={"agreement_l1": 0.06}, rtsx={"agreement_l1": 0.06})
    assert not found["rts_a"]["counts"]
    assert found["rtsx"]["counts"]  # another interpreter, not a variant


def test_promise_22_a_reference_that_says_nothing_sets_no_standard() -> None:
    nothing = GOOD | {"gap": 0.0}
    made = resilience_rows([attack("rts", 0.9), attack("noise", 0.1)], {"rts": nothing, "noise": nothing})
    assert [(row["interpreter"], row["rank"]) for row in made] == [("rts", None), ("noise", None)]
    assert "reference" in made[0]["gate"][0]


def test_promise_20_a_failed_attack_is_no_resilience() -> None:
    found = judge([attack("rts", 0.9), attack("other", 0.0, asr=0.94), attack("other", 0.1, name="pgd")], other={})
    assert found["other"]["resilience"] is None
    assert not found["other"]["counts"]
    assert found["other"]["failed_attacks"] == {"adv2-fast": 0.94}
    rows = [attack("rts", 0.9), attack("other", 0.0, asr=0.94), attack("other", 0.5, name="stadv-adv2")]
    found = judge(rows, other={})
    assert (found["other"]["worst_attack"], found["other"]["resilience"]) == ("stadv-adv2-fast", 0.5)
    assert judge([attack("rts", None, asr=None, n=0)])["rts"]["resilience"] is None


@pytest.mark.parametrize(("images", "batches", "counts"), [(32, 1, False), (2, 2, False), (3, 1, True), (1, 3, True)])
def test_promise_20_a_flag_voids_unless_it_concerns_few_images(images: int, batches: int, counts: bool) -> None:
    rows = [attack("rts", 0.9), attack("other", 0.1, flags={MASKED.format(images): batches})]
    found = judge(rows, other={})["other"]
    assert found["counts"] is counts
    assert found["flags"] == ([] if counts else ["masked_gradient"])


def test_promise_21_an_attack_that_a_blind_or_transferred_one_beats_is_weak() -> None:
    aimed = [attack("rts", 0.95), attack("other", 0.3)]
    assert judge(aimed, other={})["other"]["counts"]
    for asr, counts in ((1.0, False), (0.5, True)):
        found = judge([*aimed, attack("other", 0.6, asr=asr, name="pgd")], other={})["other"]
        assert found["counts"] is counts
        assert bool(found["flags"]) is not counts
    transfer = [{"source": "rts", "attack": "adv2", "schedule": "fast", "interpreter": "other", "iou": 0.7, "l1": 0.0}]
    made = resilience_rows(aimed, {"rts": GOOD, "other": GOOD}, transfer=transfer)
    assert [row["interpreter"] for row in made] == ["rts", "other"]
    assert made[1]["flags"][0].startswith("weak_attack: adv2-fast made for rts")
    assert made[1]["transfer_iou"] == 0.7


def test_the_worst_attack_and_the_controls() -> None:
    rows = [
        attack("rts", 0.9, iou_true_class=0.8, iou_target_class=0.7),
        attack("rts", 0.5, schedule="paper"),
        attack("rts", 0.99, name="pgd"),
        attack("rts", 0.6, asr=0.1, name="target_class"),
        attack("rts", 1.0, name="noise"),
    ]
    found = judge(rows)["rts"]
    assert found["worst_attack"] == "adv2-fast"
    expected = {"worst_iou": 0.9, "iou_true_class": 0.8, "iou_target_class": 0.7, "control_iou": 0.6, "worst_l1": 0.1}
    assert {key: found[key] for key in expected} == expected
    named = resilience_rows(rows, {"rts": GOOD}, blind=["adv2-fast"])[0]
    assert named["worst_attack"] == "pgd-fast"  # as told, not by its name


def test_a_missing_reference_or_measure_is_named() -> None:
    with pytest.raises(ValueError, match=r"'rts'.*only cam"):
        resilience_rows([], {"cam": GOOD})
    with pytest.raises(ValueError, match=r"no deletion, insertion.*order=True"):
        resilience_rows([], {"rts": {key: GOOD[key] for key in ("preserved", "gap")}})


def test_files(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rows = [attack("rts", 0.9), attack("noise", 0.1), attack("hidden", 0.2, asr=0.1)]
    quality = {"rts": GOOD, "noise": GOOD | {"gap": 0.01}, "hidden": GOOD}
    (tmp_path / "results.json").write_text(json.dumps({"rows": rows}))
    (tmp_path / "map_quality.json").write_text(json.dumps(quality))
    noise = {"interpreter": "rts", "kind": "normal", "rate": 0.03, "iou": 0.77, "l1": 0.1}
    (tmp_path / "noise.json").write_text(json.dumps({"rows": [noise]}))
    made = resilience_rows(**read_evaluation(tmp_path))
    settings = {"reference": "rts", "tolerance": 0.05, "max_agreement_l1": 0.05}
    picture = write_resilience(tmp_path, made, settings)
    content = json.loads((tmp_path / "resilience.json").read_text())
    assert content == {**settings, "rows": made}
    with (tmp_path / "resilience.csv").open() as stream:
        table = list(csv.DictReader(stream))
    assert [(row["interpreter"], row["rank"], row["benign_gap"]) for row in table] == [
        ("rts", "1", "0.2"), ("noise", "", "0.01"), ("hidden", "", "0.2")
    ]  # fmt: skip
    assert table[0]["noise_iou_normal-0.03"] == "0.77"
    assert picture.read_bytes().startswith(b"\x89PNG")
    first = (tmp_path / "resilience.json").read_bytes()
    write_resilience(tmp_path, made, settings)
    assert (tmp_path / "resilience.json").read_bytes() == first
    print_resilience(made, "rts")
    shown = capsys.readouterr().out
    assert "Who resists, and what is the map worth?" in shown
    assert "! noise does not count: gap: 0.010, rts 0.200" in shown
    assert "hidden: adv2-fast fails (ASR 10.0%)" in shown


def test_the_picture_names_everybody() -> None:
    rows = resilience_rows(
        [attack("rts", 0.9), attack("noise", 0.1), attack("hidden", 0.2, asr=0.1)],
        {"rts": GOOD, "noise": GOOD | {"gap": 0.01}, "hidden": GOOD},
    )
    (axis,) = scatter(rows, 0.05).axes
    texts = " ".join(text.get_text() for text in axis.texts)
    assert all(name in texts for name in ("rts", "noise", "hidden"))
    dots = {line.get_fillstyle(): line.get_xydata()[0].tolist() for line in axis.lines}
    assert dots == {"full": [0.0, 0.9], "none": [pytest.approx(0.95), 0.1]}
