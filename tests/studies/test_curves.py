from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import pytest
from lab import attack_data, idls, short_attacks, trainer

from lightning_adv2.evaluation import AttackEvaluation
from lightning_adv2.report.findings import Findings
from lightning_adv2.results.records import Role
from lightning_adv2.results.summary import Row
from lightning_adv2.studies import AttackCurves
from lightning_adv2.studies.curves import Setting, find_curves
from studies.cases import curve_attacks

NAMES = ("cam", "rts")


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[Row], dict[str, float]]:
    folder, study = tmp_path_factory.mktemp("curves"), AttackCurves()
    loop = trainer(folder, AttackEvaluation(curve_attacks()), study)
    loop.test(idls(*NAMES), attack_data(num_images=6), verbose=False)
    rows = json.loads((folder / "curves.json").read_text())["rows"]
    assert rows == study.rows
    return folder, rows, {key: float(value) for key, value in loop.logged_metrics.items()}


def test_curves_of_each_interpreter(finished: Any) -> None:
    """Over epsilon first, each in the order of its values; then the controls, without an axis."""
    _, rows, _ = finished
    keys = ("axis", "interpreter", "family", "value", "attack")
    points = [tuple(row[key] for key in keys) for row in rows if row["axis"]]
    assert points == [
        *(("epsilon", name, "adv2", pytest.approx(k / 255), f"adv2-eps{k}") for name in NAMES for k in (1, 4, 8)),
        *(("steps", name, "pgd", k, f"pgd-steps{k}") for name in NAMES for k in (2, 6)),
    ]
    assert {(row["axis"], row["steps"]) for row in rows if row["family"] == "adv2"} == {("epsilon", 4)}
    assert {(row["axis"], row["epsilon"]) for row in rows if row["family"] == "pgd"} == {("steps", 0.031)}
    controls = rows[len(points) :]
    assert [(row["interpreter"], row["attack"], row["role"], row["value"]) for row in controls] == [
        (name, control, "control", None) for name in NAMES for control in ("noise", "target_class")
    ]


def test_points_are_the_means_of_the_images(finished: Any) -> None:
    folder, rows, _ = finished
    with (folder / "images.csv").open() as stream:
        images = list(csv.DictReader(stream))
    for row in rows:
        own = [one for one in images if all(one[key] == row[key] for key in ("interpreter", "attack", "schedule"))]
        assert row["n"] == len(own) == 6
        for metric, column in (("asr", "success"), ("iou", "iou"), ("l1", "l1")):
            values = [float(one[column] == "True") if metric == "asr" else float(one[column]) for one in own]
            assert row[metric] == pytest.approx(sum(values) / 6)
            assert row[f"{metric}_low"] <= row[metric] + 1e-12
            assert row[metric] <= row[f"{metric}_high"] + 1e-12
            if metric != "asr":
                assert min(values) - 1e-9 <= row[f"{metric}_low"]
                assert row[f"{metric}_high"] <= max(values) + 1e-9


def test_log(finished: Any) -> None:
    """Each point by its axis and its attack; a control by its name alone."""
    _, rows, logged = finished
    expected = {}
    for row in rows:
        name = f"{row['axis']}/{row['attack']}-fast" if row["axis"] else row["attack"]
        for metric in ("asr", "iou", "l1"):
            expected[f"test/curves/{name}/{row['interpreter']}/{metric}"] = pytest.approx(row[metric], rel=1e-6)
    assert {key: value for key, value in logged.items() if "curves" in key} == expected
    assert "test/curves/epsilon/adv2-eps4-fast/cam/iou" in logged


def test_figure(finished: Any) -> None:
    folder, rows, _ = finished
    assert (folder / "figures" / "curves.png").stat().st_size > 20000
    figure = AttackCurves.figure(Findings(rows))
    assert figure is not None
    iou = figure.axes[1]
    styles = {line.get_label(): line.get_linestyle() for line in iou.get_lines() if len(line.get_xdata()) > 2}
    assert styles == {f"{name.upper()} adv2-fast": "-" for name in NAMES}
    levels = sorted(line.get_ydata()[0] for line in iou.get_lines() if len(line.get_xdata()) == 2)
    assert levels == sorted(row["iou"] for row in rows if row["role"] == "control"), "each control's own level"
    assert AttackCurves.figure(Findings([row for row in rows if row["role"] == "control"])) is None


def setting(attack: str, schedule: str, epsilon: float | None, steps: int, role: Role = "joint") -> Setting:
    return Setting(attack, schedule, role, "linf", epsilon, steps)


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
    assert find_curves([setting("noise", "control", k, 0, "control") for k in (0.1, 0.2)]) == []
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
