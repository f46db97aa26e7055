from __future__ import annotations

import csv
import io
import json
from pathlib import Path

import pytest
import torch
from cases import lattice_images, small_classifier
from rich.console import Console
from scipy import stats
from torch import Tensor

from lightning_adv2.detectors import Detector, NotApplicableError
from lightning_adv2.interpreters import CAM, Gradient, Interpreter
from lightning_adv2.models import Classifier
from lightning_adv2.report.detection import (
    DetectionScores,
    auroc,
    counted,
    detection_rows,
    print_detection,
    score_records,
    write_detection,
)
from lightning_adv2.results.records import AttackRecord, BatchRecord, to_float, to_uint8


class Brightness(Detector):
    """Scores by the mean pixel."""

    name = "brightness"

    def score(self, classifier: Classifier, interpreter: Interpreter, images: Tensor) -> Tensor:
        return images.mean((1, 2, 3))


class OnlyGradient(Brightness):
    name = "only-gradient"
    needs_interpreter = True

    def score(self, classifier: Classifier, interpreter: Interpreter, images: Tensor) -> Tensor:
        if not isinstance(interpreter, Gradient):
            raise NotApplicableError("needs Gradient")
        return super().score(classifier, interpreter, images)


def attack_record(name: str, schedule: str, images: Tensor, predicted: list[int], valid: list[bool]) -> AttackRecord:
    n = len(images)
    flat = torch.zeros(n, 1, 2, 2)
    return AttackRecord(
        name, schedule, 1, 0.0, role="control" if schedule == "control" else "class", threat_model="linf",
        adv_images=to_uint8(images), adv_map=flat, adv_predicted=torch.tensor(predicted), confidence=torch.zeros(n),
        valid=torch.tensor(valid), size=torch.zeros(n), steps_taken=torch.ones(n, dtype=torch.int64),
        adv_map_true_class=flat, adv_map_target_class=flat,
    )  # fmt: skip


def batch_record(index: int = 0) -> BatchRecord:
    """Four images towards class 1: of the attack the first succeeds, the second does not, the third is invalid."""
    images = lattice_images(4, seed=index)
    brighter = (images + 0.1).clamp(0, 1)
    yes = [True] * 4
    attacks = [
        attack_record("noise", "control", brighter, [0, 0, 0, 0], [True, True, True, False]),
        attack_record("target_class", "control", images, [0, 0, 0, 0], yes),
        attack_record("pgd", "fast", brighter, [1, 0, 1, 1], [True, True, False, True]),
        attack_record("failed", "fast", brighter, [0, 0, 0, 0], yes),
    ]
    flat = torch.zeros(4, 1, 2, 2)
    ids = [f"{index}/{i}" for i in range(4)]
    zeros, ones = torch.zeros(4, dtype=torch.int64), torch.ones(4, dtype=torch.int64)
    return BatchRecord(
        index, ids, label=zeros, target_class=ones, images=to_uint8(images), benign_map=flat, target_map=flat,
        benign_map_target_class=flat, already_wrong=[], attacks=attacks, interpreter="cam",
    )  # fmt: skip


def test_which_images_count() -> None:
    record = batch_record()
    found = {attack.attack: counted(record, attack).tolist() for attack in record.attacks}
    assert found == {
        "noise": [True, True, True, False],
        "target_class": [False] * 4,
        "pgd": [True, False, False, True],
        "failed": [False] * 4,
    }


@pytest.mark.parametrize("levels", [3, 10**6])
def test_auroc_is_mann_whitney(levels: int) -> None:
    generator = torch.Generator().manual_seed(0)
    benign = torch.randint(0, levels, (41,), generator=generator).double()
    adversarial = torch.randint(levels // 3, levels, (17,), generator=generator).double()
    expected = stats.mannwhitneyu(adversarial, benign).statistic / (41 * 17)
    assert auroc(benign, adversarial) == pytest.approx(expected, rel=1e-12)


def test_scores_of_records() -> None:
    records = [batch_record(0), batch_record(1), batch_record(1)]
    calibration = lattice_images(5, seed=8)
    (part,) = score_records([Brightness()], small_classifier(), [CAM()], calibration, torch.zeros(5), lambda _: records)
    assert (part.interpreter, part.detector) == ("cam", "brightness")
    torch.testing.assert_close(part.calibration, calibration.mean((1, 2, 3)).double())
    images = torch.cat([to_float(record.images) for record in records[:2]])
    torch.testing.assert_close(part.benign, images.mean((1, 2, 3)).double())  # what comes twice counts once
    brighter = torch.cat([to_float(record.attacks[2].adv_images[[0, 3]]) for record in records[:2]])
    torch.testing.assert_close(part.attacks["pgd", "fast"], brighter.mean((1, 2, 3)).double())
    assert {key[0]: len(found) for key, found in part.attacks.items()} == {
        "noise": 6, "target_class": 0, "pgd": 4, "failed": 0
    }  # fmt: skip


def test_several_interpreters() -> None:
    """Records go to the interpreter that they name; a detector sits out where it cannot work."""
    records = [batch_record(0), batch_record(1)]
    for record, name in zip(records, ("cam", "gradient"), strict=True):
        record.interpreter = name  # type: ignore[attr-defined]
    gradient = Gradient()
    gradient.name = "gradient"
    both = [Brightness(), OnlyGradient()]

    def of(name: str) -> list[BatchRecord]:
        return [record for record in records if record.interpreter == name]

    options = small_classifier(), [CAM(), gradient], lattice_images(5, seed=8), torch.zeros(5), of
    parts = score_records(both, *options)
    assert [(part.interpreter, part.detector) for part in parts] == [
        ("cam", "brightness"), ("gradient", "brightness"), ("gradient", "only-gradient")
    ]  # fmt: skip
    for part, record in zip(parts, (records[0], records[1], records[1]), strict=True):
        torch.testing.assert_close(part.benign, to_float(record.images).mean((1, 2, 3)).double())
    with pytest.raises(NotApplicableError, match="needs Gradient"):
        score_records(both, small_classifier(), [CAM()], *options[2:])


def scores() -> list[DetectionScores]:
    calibration, benign = torch.arange(100).double(), torch.arange(100).double() + 0.5
    adversarial = torch.tensor([200.0, 96.0, 10.0, float("nan")], dtype=torch.float64)
    attacks = {
        ("noise", "control"): torch.zeros(3),
        ("target_class", "control"): torch.zeros(0),
        ("pgd", "fast"): adversarial,
        ("adv2", "fast"): torch.zeros(0),
    }
    return [DetectionScores("cam", name, calibration, benign, attacks) for name in ("one", "two")]


def test_rows() -> None:
    rows = detection_rows(scores(), 0.05)
    assert [(row["detector"], row["attack"]) for row in rows] == [
        (detector, attack) for detector in ("one", "two") for attack in ("noise", "pgd", "adv2")
    ]
    noise, pgd, adv2 = rows[:3]
    assert pgd["threshold"] == 94
    assert pgd["calibration_fpr"] == 0.05
    assert pgd["benign_fpr"] == 0.06
    assert (pgd["n"], pgd["detection_rate"]) == (3, pytest.approx(2 / 3))
    assert pgd["auroc"] == pytest.approx((1.0 + 0.96 + 0.1) / 3)
    assert (noise["n"], noise["detection_rate"]) == (3, 0)
    assert (adv2["n"], adv2["detection_rate"], adv2["auroc"]) == (0, None, None)


def test_files_and_table(tmp_path: Path) -> None:
    rows = detection_rows(scores(), 0.05)
    write_detection(tmp_path, rows, scores(), {"seed": 3})
    content = json.loads((tmp_path / "detection.json").read_text())
    assert content["rows"] == rows
    assert content["settings"] == {"seed": 3}
    assert content["scores"][1]["attacks"]["pgd-fast"][:3] == [200, 96, 10]
    with (tmp_path / "detection.csv").open(newline="") as stream:
        assert [row["detector"] for row in csv.DictReader(stream)] == ["one"] * 3 + ["two"] * 3
    assert (tmp_path / "figures" / "detection.png").stat().st_size > 5000
    stream = io.StringIO()
    print_detection(rows, "Detection", Console(file=stream))
    assert "66.7%" in stream.getvalue()


def test_nothing_to_detect(tmp_path: Path) -> None:
    """No attack succeeded: empty cells, no figure, no crash."""
    part = DetectionScores("cam", "one", torch.zeros(3), torch.zeros(0), {("pgd", "fast"): torch.zeros(0)})
    rows = detection_rows([part], 0.05)
    assert (rows[0]["benign_fpr"], rows[0]["detection_rate"]) == (None, None)
    write_detection(tmp_path, rows, [part], {})
    print_detection(rows, "Detection", Console(file=io.StringIO()))
    assert not (tmp_path / "figures").exists()
    write_detection(tmp_path, [], [], {})
