from __future__ import annotations

from typing import Any

import pytest
import torch
from cases import lattice_images, small_classifier
from scipy import stats
from torch import Tensor

from lightning_adv2.detectors import Detector, NotApplicableError
from lightning_adv2.interpreters import CAM, Gradient, Interpreter
from lightning_adv2.models import Classifier
from lightning_adv2.report.findings import Findings
from lightning_adv2.results.records import AttackRecord, BatchRecord, to_float, to_uint8
from lightning_adv2.results.summary import Row
from lightning_adv2.studies import DetectionEvaluation
from lightning_adv2.studies.detection.scoring import (
    Fitted,
    auroc,
    calibration_images,
    counted,
    detection_rows,
    fit_detectors,
    scored_images,
    unique_images,
)


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


def scored(fitted: list[Fitted], records: list[BatchRecord]) -> list[Row]:
    return unique_images([row for one in records for row in scored_images(fitted, {"": one}, torch.device("cpu"))])


def scores_of(images: list[Row], **where: Any) -> Tensor:
    found = [one["score"] for one in images if one["image_id"] and all(one[key] == where[key] for key in where)]
    return torch.tensor(found, dtype=torch.float64)


def test_scores_of_records() -> None:
    records = [batch_record(0), batch_record(1), batch_record(1)]
    calibration = lattice_images(5, seed=8)
    fitted = fit_detectors([Brightness()], small_classifier(), [CAM()], calibration, torch.zeros(5))
    assert [(one.interpreter, one.detector) for one in fitted] == [("cam", "brightness")]
    torch.testing.assert_close(fitted[0].calibration, calibration.mean((1, 2, 3)).double())
    named = [one["image_id"] for one in calibration_images(fitted, list("abcde")) if one["image_id"]]
    assert named == list("abcde")
    images = scored(fitted, records)
    assert images == scored(fitted, records[::-1]), "in whatever order"
    pixels = torch.cat([to_float(record.images) for record in records[:2]])
    before = scores_of(images, part="benign")
    torch.testing.assert_close(before, pixels.mean((1, 2, 3)).double())  # what comes twice counts once
    brighter = torch.cat([to_float(record.attacks[2].adv_images[[0, 3]]) for record in records[:2]])
    torch.testing.assert_close(scores_of(images, attack="pgd"), brighter.mean((1, 2, 3)).double())
    counts = {name: len(scores_of(images, attack=name)) for name in ("noise", "target_class", "pgd", "failed")}
    assert counts == {"noise": 6, "target_class": 0, "pgd": 4, "failed": 0}


def test_several_interpreters() -> None:
    """Records go to the interpreter that they name; a detector sits out where it cannot work."""
    records = [batch_record(0), batch_record(1)]
    for record, name in zip(records, ("cam", "gradient"), strict=True):
        record.interpreter = name
    gradient = Gradient()
    gradient.name = "gradient"
    both, options = [Brightness(), OnlyGradient()], (lattice_images(5, seed=8), torch.zeros(5))
    fitted = fit_detectors(both, small_classifier(), [CAM(), gradient], *options)
    pairs = [("cam", "brightness"), ("gradient", "brightness"), ("gradient", "only-gradient")]
    assert [(one.interpreter, one.detector) for one in fitted] == pairs
    images = scored(fitted, records)
    for pair, record in zip(pairs, (records[0], records[1], records[1]), strict=True):
        found = scores_of(images, interpreter=pair[0], detector=pair[1], part="benign")
        torch.testing.assert_close(found, to_float(record.images).mean((1, 2, 3)).double())
    with pytest.raises(NotApplicableError, match="needs Gradient"):
        fit_detectors(both, small_classifier(), [CAM()], *options)


class Remembering(Brightness):
    """Scores by what the interpreter is that it was fitted under."""

    name = "remembering"
    needs_interpreter = True

    def fit(self, classifier: Classifier, interpreter: Interpreter, calibration: Tensor, label: Tensor) -> None:
        self.offset = float(isinstance(interpreter, Gradient))

    def score(self, classifier: Classifier, interpreter: Interpreter, images: Tensor) -> Tensor:
        return super().score(classifier, interpreter, images) + self.offset


def test_a_detector_keeps_its_fit_under_each_interpreter() -> None:
    """All are fitted before the first record is scored."""
    pixels = lattice_images(3, seed=8)
    one, other = fit_detectors([Remembering()], small_classifier(), [CAM(), Gradient()], pixels, torch.zeros(3))
    torch.testing.assert_close(other.score(pixels), one.score(pixels) + 1)


def images_of(detector: str, parts: dict[tuple[str, str | None, str | None, str | None], list[float]]) -> list[Row]:
    """Rows as the study has them, one without an image first in each part."""
    return [
        {
            "interpreter": "cam",
            "detector": detector,
            **dict(zip(("part", "attack", "schedule", "role"), part, strict=True)),
        }
        | {"image_id": name, "score": score}
        for part, scores in parts.items()
        for name, score in [(None, None), *((f"{i}", score) for i, score in enumerate(scores))]
    ]


def scores() -> list[Row]:
    hundred = [float(i) for i in range(100)]
    parts = {
        ("calibration", None, None, None): hundred,
        ("benign", None, None, None): [score + 0.5 for score in hundred],
        ("attacked", "noise", "control", "control"): [0.0] * 3,
        ("attacked", "target_class", "control", "control"): [],
        ("attacked", "pgd", "fast", "class"): [200.0, 96.0, 10.0, float("nan")],
        ("attacked", "adv2", "fast", "joint"): [],
    }
    return [row for detector in ("one", "two") for row in images_of(detector, parts)]


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
    (table,) = DetectionEvaluation.tables(Findings(rows, SETTINGS))
    assert table.title == "Detection at 5% false positives on 100 benign images"
    assert [cells[5] for cells in table.cells[:3]] == ["0.0%", "66.7%", "-"]
    assert table.starts_group == [False, False, False, True, False, False]


def test_bars_of_the_share_detected_beside_the_benign_share() -> None:
    figure = DetectionEvaluation.figure(Findings(detection_rows(scores(), 0.05), SETTINGS))
    assert figure is not None
    axis = figure.axes[0]
    bars = {bar.get_label(): [round(one.get_height(), 4) for one in bar] for bar in axis.containers}
    assert bars == {"benign": [0.06, 0.06], "noise": [0.0, 0.0], "pgd-fast": [0.6667, 0.6667]}
    assert axis.get_title() == "CAM"


SETTINGS = {"false_positive_rate": 0.05, "calibration_images": 100}


def test_nothing_to_detect() -> None:
    """No attack succeeded: empty cells, no figure, no crash."""
    parts = {
        ("calibration", None, None, None): [0.0] * 3,
        ("benign", None, None, None): [],
        ("attacked", "pgd", "fast", "class"): [],
    }
    rows = detection_rows(images_of("one", parts), 0.05)
    assert [(row["benign_fpr"], row["detection_rate"]) for row in rows] == [(None, None)]
    for found in (Findings(rows, SETTINGS), Findings([], SETTINGS)):
        assert DetectionEvaluation.figure(found) is None
        assert len(DetectionEvaluation.tables(found)[0].cells) == len(found.rows)
