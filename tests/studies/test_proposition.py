from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from lab import attack_data, idls, run_python, short_attacks, trainer, victim

from lightning_adv2.evaluation import AttackEvaluation
from lightning_adv2.results import read_records
from lightning_adv2.studies import PropositionEvaluation

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
    assert (found["steps"], found["tolerance"]) == (STEPS, 0.02)
    assert [(row["interpreter"], row["attack"], row["n"]) for row in found["rows"]] == [
        (None, "noise", 5), (None, "pgd", 5), ("cam", "adv2", 5), ("grad", "adv2", 5)
    ]  # fmt: skip
    for row in found["rows"]:
        assert row["held"] + row["violated"] + row["unresolved"] == 5
        assert row["violated"] == 0


def test_gain_and_norm_image_by_image(finished: Any) -> None:
    """The gain from the classifier's two answers, the norm from a sum over midpoints."""
    folder, _, _ = finished
    rows = {row["image_id"]: row for row in content(folder)["images"] if row["interpreter"] == "cam"}
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


@pytest.mark.slow
def test_processes(tmp_path: Path) -> None:
    """The same files on two processes as on one, of all studies."""
    script = Path(__file__).with_name("study_processes.py")
    for devices in (1, 2):
        folder = tmp_path / str(devices)
        folder.mkdir()
        done = run_python(script, folder, devices, folder=folder, processes=devices, timeout=900)
        assert done.returncode == 0, done.stderr[-3000:]
        assert len({(folder / f"rows_{rank}.txt").read_text() for rank in range(devices)}) == 1, "all know them"
    for name in ("proposition", "classifier_transfer", "curves", "gap"):
        one, two = ((tmp_path / devices / f"{name}.json").read_bytes() for devices in ("1", "2"))
        assert one == two, name
        assert len(one) > 500, name
