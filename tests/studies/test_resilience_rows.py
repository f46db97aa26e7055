"""The rules of the ranking, with rows made by hand."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import pytest

from lightning_adv2.report.resilience import resilience_rows
from lightning_adv2.report.resilience_files import print_resilience, read_evaluation, scatter, write_resilience
from lightning_adv2.results.tables import write_csv

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


def picture(interpreter: str, image: str, iou: float, success: bool = True, **more: Any) -> dict[str, Any]:
    row = {"interpreter": interpreter, "attack": "adv2", "schedule": "fast", "image_id": image, "iou": iou, "l1": 0.1}
    return row | {"success": success, "valid": True, "iou_true_class": 0.0, "iou_target_class": 0.0} | more


def pictures(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """As many alike as each attack says; it succeeds on the first ones."""
    return [
        picture(row["interpreter"], f"{i:02d}", row["iou"], i < round(row["asr"] * row["n"]), attack=row["attack"],
                schedule=row["schedule"], **{k: v for k, v in row.items() if k.endswith("_class")})
        for row in rows for i in range(row["n"])
    ]  # fmt: skip


def judge(
    rows: list[dict[str, Any]], images: list[dict[str, Any]] | None = None, **quality: dict[str, float]
) -> dict[str, dict[str, Any]]:
    """Rows by interpreter, in their order; ``rts`` is good, whatever else is said."""
    qualities = {"rts": GOOD, **{name: GOOD | values for name, values in quality.items()}}
    made = resilience_rows(rows, pictures(rows) if images is None else images, qualities)
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
    rows = [attack(name, 0.1) for name in quality]
    made = resilience_rows(rows, pictures(rows), quality)
    assert [row["interpreter"] for row in made if row["counts"]] == ["rts"]
    assert [row["gate"] for row in made if row["interpreter"] == "gone"] == [["localisation_iou: nan, rts 0.500"]]


def test_promise_22_a_variant_must_stay_close_to_the_reference() -> None:
    rows = [attack(name, 0.1) for name in ("rts", "rts_a", "rtsx")]
    found = judge(rows, rts_a={"agreement_l1": 0.06}, rtsx={"agreement_l1": 0.06})
    assert not found["rts_a"]["counts"]
    assert found["rtsx"]["counts"]  # another interpreter, not a variant


@pytest.mark.parametrize(
    ("measure", "fails", "passes"), [("gap", 0.019, 0.02), ("gap", 0.0, 0.1), ("randomised_correlation", 0.91, 0.89)]
)
def test_promise_22_a_reference_that_says_next_to_nothing_sets_no_standard(
    measure: str, fails: float, passes: float
) -> None:
    rows = [attack("rts", 0.9), attack("noise", 0.1)]
    for value, ranks in ((fails, [None, None]), (passes, [1, 2])):
        poor = GOOD | {measure: value}
        made = resilience_rows(rows, pictures(rows), {"rts": poor, "noise": poor})
        assert [row["rank"] for row in made] == ranks
        assert all(("reference: " in " ".join(row["gate"])) is (value == fails) for row in made)


@pytest.mark.parametrize(("reference", "limit"), [(0.1, 0.5), (0.45, 0.55), (0.85, 0.9), (-0.5, 0.5)])
def test_promise_22_no_correlation_with_the_shuffled_weights_is_excused_by_the_references(
    reference: float, limit: float
) -> None:
    rows = [attack("rts", 0.9), attack("other", 0.1)]
    for value, counts in ((limit - 0.001, True), (limit + 0.001, False)):
        quality = {key: GOOD | {"randomised_correlation": v} for key, v in (("rts", reference), ("other", value))}
        made = {row["interpreter"]: row for row in resilience_rows(rows, pictures(rows), quality)}
        assert made["other"]["counts"] is counts
        assert made["rts"]["counts"]


def test_promise_22_what_reacts_to_the_class_asked_for_alone_does_not_win() -> None:
    """The map changes with the question; asked for one class, it is the same with and without attack."""
    rows = [
        attack("rts", 0.9, iou_true_class=0.9, iou_target_class=0.9),
        attack("shortcut", 0.2, iou_true_class=1.0, iou_target_class=1.0),
        attack("target_only", 0.2, iou_true_class=0.1, iou_target_class=0.95),
        attack("resists", 0.2, iou_true_class=0.3, iou_target_class=0.25),
        attack("shortcut", 0.2, asr=0.0, name="target_class"),
    ]
    found = judge(rows, shortcut={}, target_only={}, resists={})
    assert list(found) == ["resists", "rts", "target_only", "shortcut"]
    assert [row["resilience"] for row in found.values()] == pytest.approx([0.7, 0.1, 0.05, 0.0])
    assert [row["decided_by"] for row in found.values()] == [
        "iou_true_class", "worst_iou", "iou_target_class", "iou_true_class"
    ]  # fmt: skip
    assert (found["shortcut"]["worst_iou"], found["shortcut"]["control_iou"]) == (0.2, 0.2)


def test_promise_20_a_failed_attack_is_no_resilience() -> None:
    found = judge([attack("rts", 0.9), attack("other", 0.0, asr=0.94), attack("other", 0.1, name="pgd")], other={})
    assert found["other"]["resilience"] is None
    assert found["other"]["decided_by"] is None
    assert not found["other"]["counts"]
    assert found["other"]["failed_attacks"] == {"adv2-fast": 0.94}
    assert found["other"]["asr"] == 60 / 64
    rows = [attack("rts", 0.9), attack("other", 0.0, asr=0.94), attack("other", 0.5, name="stadv-adv2")]
    found = judge(rows, other={})
    assert (found["other"]["worst_attack"], found["other"]["resilience"]) == ("stadv-adv2-fast", 0.5)
    assert judge([attack("rts", None, asr=None, n=0)])["rts"]["resilience"] is None


def test_promise_20_an_attacker_chooses_for_each_image() -> None:
    """By hand: four images, two attacks that aim at the map; neither succeeds everywhere."""
    rows = [attack("rts", 0.5, asr=0.75), attack("rts", 0.5, asr=0.75, schedule="paper")]
    rows.append(attack("rts", 0.99, name="pgd"))
    fast = [("a", 0.9, True), ("b", 0.1, True), ("c", 1.0, False), ("d", 0.3, True)]
    paper = [("a", 0.2, True), ("b", 0.8, True), ("c", 0.6, True), ("d", 0.5, False)]
    images = [picture("rts", *one, iou_true_class=0.2) for one in fast]
    images += [picture("rts", *one, schedule="paper", iou_true_class=0.4, l1=0.5) for one in paper]
    images += [picture("rts", "abcd"[i], 0.99, attack="pgd") for i in range(4)]
    images.append(picture("other", "a", 1.0))
    found = judge(rows, images)["rts"]
    assert found["asr"] == 1
    assert found["worst_iou"] == pytest.approx((0.9 + 0.8 + 0.6 + 0.3) / 4)
    assert found["iou_true_class"] == pytest.approx((0.2 + 0.4 + 0.4 + 0.2) / 4)
    assert found["worst_l1"] == pytest.approx((0.1 + 0.5 + 0.5 + 0.1) / 4)
    assert found["resilience"] == pytest.approx(1 - 0.65)
    assert found["failed_attacks"] == {"adv2-fast": 0.75, "adv2-paper": 0.75}
    images[6]["valid"] = False  # c under paper: now nobody succeeds there
    found = judge(rows, images)["rts"]
    assert (found["asr"], found["resilience"], found["worst_attack"]) == (0.75, None, "adv2-fast")
    assert found["worst_iou"] == pytest.approx((0.9 + 0.8 + 0.3) / 3)
    images[2]["valid"] = False  # nor is it an image that anybody could be judged by
    assert judge(rows, images)["rts"]["resilience"] == pytest.approx(1 - 2 / 3)


def test_promise_20_an_attack_that_narrowly_misses_the_mark_still_shows_its_maps() -> None:
    rows = [attack("rts", 0.9), attack("other", 0.97, asr=0.94), attack("other", 0.2, name="stadv-adv2")]
    found = judge(rows, other={})["other"]
    assert found["worst_iou"] == pytest.approx((60 * 0.97 + 4 * 0.2) / 64)
    assert found["worst_attack"] == "adv2-fast"
    assert found["counts"]


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
    made = resilience_rows(aimed, pictures(aimed), {"rts": GOOD, "other": GOOD}, transfer=transfer, tolerance=1.0)
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
    named = resilience_rows(rows, pictures(rows), {"rts": GOOD}, blind=["adv2-fast"])[0]
    assert named["worst_attack"] == "pgd-fast"  # as told, not by its name


def test_a_missing_reference_or_measure_is_named() -> None:
    with pytest.raises(ValueError, match=r"'rts'.*only cam"):
        resilience_rows([], [], {"cam": GOOD})
    with pytest.raises(ValueError, match=r"no deletion, insertion.*order=True"):
        resilience_rows([], [], {"rts": {key: GOOD[key] for key in ("preserved", "gap")}})


def test_files(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rows = [attack("rts", 0.9), attack("noise", 0.1), attack("hidden", 0.2, asr=0.1)]
    quality = {"rts": GOOD, "noise": GOOD | {"gap": 0.01}, "hidden": GOOD}
    (tmp_path / "results.json").write_text(json.dumps({"rows": rows}))
    with pytest.raises(FileNotFoundError, match=r"images.csv is missing.*AttackEvaluation"):
        read_evaluation(tmp_path)
    write_csv(pictures(rows), tmp_path / "images.csv")
    with pytest.raises(FileNotFoundError, match=r"map_quality.json is missing.*MapQualityEvaluation before"):
        read_evaluation(tmp_path)
    (tmp_path / "map_quality.json").write_text(
        json.dumps({"rows": [{"interpreter": name, **means} for name, means in quality.items()]})
    )
    noise = {"interpreter": "rts", "kind": "normal", "rate": 0.03, "iou": 0.77, "l1": 0.1}
    (tmp_path / "noise.json").write_text(json.dumps({"rows": [noise]}))
    assert read_evaluation(tmp_path)["images"] == pictures(rows)
    made = resilience_rows(**read_evaluation(tmp_path))
    settings = {"reference": "rts", "tolerance": 0.05, "max_agreement_l1": 0.05}
    write_resilience(tmp_path, made, settings)
    content = json.loads((tmp_path / "resilience.json").read_text())
    assert content == {**settings, "rows": made}
    with (tmp_path / "resilience.csv").open() as stream:
        table = list(csv.DictReader(stream))
    assert [(row["interpreter"], row["rank"], row["benign_gap"]) for row in table] == [
        ("rts", "1", "0.2"), ("noise", "", "0.01"), ("hidden", "", "0.2")
    ]  # fmt: skip
    assert table[0]["noise_iou_normal-0.03"] == "0.77"
    assert (tmp_path / "figures" / "resilience.png").read_bytes().startswith(b"\x89PNG")
    first = (tmp_path / "resilience.json").read_bytes()
    write_resilience(tmp_path, made, settings)
    assert (tmp_path / "resilience.json").read_bytes() == first
    print_resilience(made, "rts")
    shown = capsys.readouterr().out
    assert "Who resists, and what is the map worth?" in shown
    assert "! noise does not count: gap: 0.010, rts 0.200" in shown
    assert "hidden: adv2-fast fails (ASR 10.0%)" in shown
    assert "hidden does not count: the attacks on its map succeed on too few images (9.4%)" in shown


def test_the_picture_names_everybody() -> None:
    attacks = [attack("rts", 0.9), attack("noise", 0.1, iou_true_class=0.3), attack("hidden", 0.2, asr=0.1)]
    rows = resilience_rows(
        attacks,
        pictures(attacks),
        {"rts": GOOD, "noise": GOOD | {"gap": 0.01}, "hidden": GOOD},
    )
    (axis,) = scatter(rows, 0.05).axes
    texts = " ".join(text.get_text() for text in axis.texts)
    assert all(name in texts for name in ("rts", "noise", "hidden"))
    dots = {line.get_fillstyle(): line.get_xydata()[0].tolist() for line in axis.lines}
    assert dots == {"full": [0.0, pytest.approx(0.9)], "none": [pytest.approx(0.95), pytest.approx(0.3)]}
