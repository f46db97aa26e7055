from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from lab import attack_data, idls, short_attacks, trainer, victim

from lightning_adv2.evaluation import AttackEvaluation
from lightning_adv2.report.findings import Findings
from lightning_adv2.results import read_records
from lightning_adv2.studies import PropositionEvaluation
from lightning_adv2.studies.proposition import judged_images, proposition_rows

STEPS = 24


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, PropositionEvaluation, dict[str, float]]:
    folder, study = tmp_path_factory.mktemp("proposition"), PropositionEvaluation(STEPS)
    loop = trainer(folder, AttackEvaluation(short_attacks()), study)
    loop.test(idls("cam", "grad"), attack_data(num_images=5), verbose=False)
    return folder, study, {key: float(value) for key, value in loop.logged_metrics.items()}


def content(folder: Path) -> dict[str, Any]:
    return json.loads((folder / "proposition.json").read_text())


def test_each_attack_once_and_each_joint_one_per_interpreter(finished: Any) -> None:
    folder, study, _ = finished
    found = content(folder)
    assert found["rows"] == study.rows
    assert found["settings"] == {"steps": STEPS, "tolerance": 0.02}
    assert [(row["interpreter"], row["attack"], row["n"]) for row in found["rows"]] == [
        (None, "noise", 5), (None, "pgd", 5), ("cam", "adv2", 5), ("grad", "adv2", 5)
    ]  # fmt: skip
    for row in found["rows"]:
        assert row["held"] + row["violated"] + row["unresolved"] == 5
        assert row["violated"] == 0


def test_gain_and_norm_image_by_image(finished: Any) -> None:
    """The gain from the classifier's two answers, the norm from a sum over midpoints."""
    folder, _, _ = finished
    rows = {row["image_id"]: row for row in content(folder)["details"]["images"] if row["interpreter"] == "cam"}
    classifier, seen = victim().requires_grad_(False), 0
    for record in read_records(folder / "records" / "cam"):
        (attack,) = (one for one in record.attacks if one.attack == "adv2")
        for i, name in enumerate(record.image_id):
            start, end = (pixels[i : i + 1].float() / 255 for pixels in (record.images, attack.adv_images))
            target = int(record.target_class[i])
            gain = classifier(end).softmax(1)[0, target] - classifier(start).softmax(1)[0, target]
            slope = torch.zeros_like(start)
            for k in range(100):
                point = (start + (k + 0.5) / 100 * (end - start)).requires_grad_()
                slope += torch.autograd.grad(classifier(point).softmax(1)[0, target], point)[0] / 100
            l1 = float((slope * (end - start)).abs().sum())
            assert rows[name]["gain"] == pytest.approx(float(gain), abs=1e-5)
            assert rows[name]["l1"] == pytest.approx(l1, rel=0.05, abs=0.003)
            slack = pytest.approx(rows[name]["l1"] / float(gain), rel=1e-3) if gain > 0.02 else None
            assert rows[name]["slack"] == slack
            seen += 1
    assert seen == len(rows) == 5


def test_what_is_not_finite_is_in_no_mean_and_is_unresolved() -> None:
    """And an image that comes twice counts once; the order does not show."""
    nan = float("nan")
    head = {"interpreter": None, "attack": "pgd", "schedule": "fast", "role": "class"}
    images = [
        head | {"order": (0, batch, name), "image_id": name, "gain": gain, "total": gain - 0.01, "l1": l1}
        for batch, name, gain, l1 in ((0, "a", 0.5, 1.0), (0, "b", nan, nan), (1, "a", 0.9, 9.0), (1, "c", 0.01, 0.5))
    ]
    found = judged_images(images, tolerance=0.02)
    assert found == judged_images(images[::-1], tolerance=0.02)
    assert [(one["image_id"], one["gain"], one["slack"], one["verdict"]) for one in found] == [
        ("a", 0.5, 2.0, "held"), ("b", None, None, "unresolved"), ("c", 0.01, None, "held")
    ]  # fmt: skip
    (row,) = proposition_rows(found)
    assert row == head | {
        "n": 3, "held": 2, "violated": 0, "unresolved": 1, "gain": pytest.approx(0.255), "l1": 0.75, "slack": 2.0,
        "error": pytest.approx(0.01), "max_error": pytest.approx(0.01),
        "empty_gain": 1, "empty_l1": 1, "empty_slack": 2, "empty_error": 1,
    }  # fmt: skip
    violated = Findings([row | {"violated": 1}, row], {"steps": 8, "tolerance": 0.02})
    (table,) = PropositionEvaluation.tables(violated)
    assert [table.emphasis(one) for one in table.rows] == ["alert", ""]
    cells = dict(zip(table.headings, table.cells[0], strict=True))
    assert (cells["gain"], cells["L1 / gain"]) == ("0.255 (2)", "2.0 (1)"), "over how many images it is"


def test_figure_and_log(finished: Any) -> None:
    folder, study, logged = finished
    assert (folder / "figures" / "proposition.png").stat().st_size > 5000
    names = ("held", "violated", "unresolved", "gain", "l1", "slack", "error", "max_error")
    expected = {}
    for row in study.rows:
        key = "noise" if row["attack"] == "noise" else f"{row['attack']}-fast"
        prefix = f"test/proposition/{key}" + (f"/{row['interpreter']}" if row["interpreter"] else "")
        expected |= {f"{prefix}/{name}": pytest.approx(row[name], rel=1e-5) for name in names if row[name] is not None}
    assert {key: value for key, value in logged.items() if "proposition" in key} == expected
    assert "test/proposition/adv2-fast/cam/gain" in logged


def test_arguments_and_place(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="steps=0"):
        PropositionEvaluation(0)
    with pytest.raises(ValueError, match=r"tolerance=0\.0"):
        PropositionEvaluation(tolerance=0.0)
    study, attack = PropositionEvaluation(), AttackEvaluation(short_attacks())
    for callbacks in ([study], [study, attack]):
        with pytest.raises(ValueError, match="PropositionEvaluation reads what AttackEvaluation writes; list it after"):
            trainer(tmp_path, *callbacks).test(idls(), attack_data(), verbose=False)
