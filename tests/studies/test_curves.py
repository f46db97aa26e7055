from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import pytest
from lab import attack_data, idls, short_attacks, trainer

from lightning_adv2.attacks import ADV2, AttackRecipe, Pixels, pgd
from lightning_adv2.evaluation import AttackEvaluation
from lightning_adv2.report.curves import find_curves, setting
from lightning_adv2.studies import AttackCurves


def curve_attacks() -> list[AttackRecipe]:
    """ADV2 at three epsilons, PGD at two numbers of steps, and one attack that is no part of a curve."""
    joint = [ADV2(steps=4, name=f"adv2-eps{k}", threat_model=Pixels(k / 255)) for k in (8, 1, 4)]
    return [*joint, pgd(steps=6, name="pgd-steps6"), pgd(steps=2, name="pgd-steps2"), pgd(steps=3, name="alone")]


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Any]]:
    folder, study = tmp_path_factory.mktemp("curves"), AttackCurves()
    trainer(folder, AttackEvaluation(curve_attacks()), study).test(
        idls("cam", "rts"), attack_data(num_images=6), verbose=False
    )
    content = json.loads((folder / "curves.json").read_text())
    assert content["curves"] == study.curves
    return folder, content


def test_curves_of_each_interpreter(finished: Any) -> None:
    _, content = finished
    found = [(c["axis"], c["interpreter"], c["family"], [p["value"] for p in c["points"]]) for c in content["curves"]]
    levels = [pytest.approx(k / 255) for k in (1, 4, 8)]
    assert found == [
        ("epsilon", "cam", "adv2", levels),
        ("epsilon", "rts", "adv2", levels),
        ("steps", "cam", "pgd", [2, 6]),
        ("steps", "rts", "pgd", [2, 6]),
    ]
    assert [(c["epsilon"], c["steps"]) for c in content["curves"]] == [(None, 4)] * 2 + [(0.031, None)] * 2
    assert [(c["interpreter"], c["attack"]) for c in content["controls"]] == [
        (name, control) for name in ("cam", "rts") for control in ("noise", "target_class")
    ]


def test_points_are_the_means_of_the_images(finished: Any) -> None:
    folder, content = finished
    with (folder / "images.csv").open() as stream:
        images = list(csv.DictReader(stream))
    points = [(c["interpreter"], p) for c in content["curves"] for p in c["points"]]
    points += [(c["interpreter"], c) for c in content["controls"]]
    for name, point in points:
        own = [row for row in images if (row["interpreter"], row["attack"]) == (name, point["attack"])]
        assert point["n"] == len(own) == 6
        for metric, column in (("asr", "success"), ("iou", "iou"), ("l1", "l1")):
            values = [float(row[column] == "True") if metric == "asr" else float(row[column]) for row in own]
            assert point[metric] == pytest.approx(sum(values) / 6)
            assert point[f"{metric}_low"] <= point[metric] + 1e-12
            assert point[metric] <= point[f"{metric}_high"] + 1e-12
            if metric != "asr":
                assert min(values) - 1e-9 <= point[f"{metric}_low"]
                assert point[f"{metric}_high"] <= max(values) + 1e-9


def test_figure(finished: Any) -> None:
    folder, _ = finished
    assert (folder / "figures" / "curves.png").stat().st_size > 20000


def test_what_makes_a_curve() -> None:
    one, two, four = (setting(f"adv2-eps{k}", "fast", k / 255, 50) for k in (1, 2, 4))
    assert one.family == setting("adv2", "fast", 0.031, 50).family == "adv2"
    assert setting("adv2-smooth-steps50", "fast", 0.031, 50).family == "adv2-smooth"
    assert setting("adv2-epsilon", "fast", 0.031, 50).family == "adv2-epsilon"
    assert find_curves([four, one, two]) == [("epsilon", [one, two, four])]
    longer = setting("adv2-steps100", "fast", 2 / 255, 100)
    assert find_curves([longer, one, two]) == [("epsilon", [one, two]), ("steps", [two, longer])]
    assert find_curves([one, longer]) == [], "they differ in both"
    assert find_curves([one, setting("adv2-eps2", "paper", 2 / 255, 50)]) == [], "another schedule"
    assert find_curves([one, setting("pgd-eps2", "fast", 2 / 255, 50)]) == [], "another family"
    assert find_curves([setting("noise", "control", k, 0) for k in (0.1, 0.2)]) == []
    moved = [setting(f"stadv-steps{k}", "fast", None, k) for k in (50, 10)]
    assert find_curves(moved) == [("steps", moved[::-1])]


def test_attacks_that_make_no_curve_are_refused_before_they_run(tmp_path: Path) -> None:
    study, attack = AttackCurves(), AttackEvaluation(short_attacks())
    for callbacks in ([study], [study, attack]):
        with pytest.raises(ValueError, match="AttackCurves reads what AttackEvaluation writes; list it after"):
            trainer(tmp_path, *callbacks).test(idls(), attack_data(), verbose=False)
    with pytest.raises(ValueError, match=r"attacks: pgd, adv2 make no curve.*adv2-eps4 and adv2-eps8"):
        trainer(tmp_path, attack, study).test(idls(), attack_data(), verbose=False)
    assert not list(tmp_path.rglob("batch_*.safetensors"))
