"""A row per study: what makes it, and what the contract of all studies (test_contract.py) needs to know of it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from typing import Literal

import pytorch_lightning as pl
import torch
import torch.nn.functional as F
from lab import WIDTHS, test_batch
from torch import Tensor

from lightning_adv2.attacks import ADV2, AttackRecipe, Pixels, pgd
from lightning_adv2.attacks.targets import RandomPatch
from lightning_adv2.detectors import FeatureSqueezing
from lightning_adv2.evaluation import AttackEvaluation
from lightning_adv2.functional.squeeze import BitDepth
from lightning_adv2.models import ResidualClassifier
from lightning_adv2.studies import (
    AttackCurves,
    ClassifierTransferEvaluation,
    ConfusionMatrix,
    DetectionEvaluation,
    GapEvaluation,
    LocalizationEvaluation,
    MapQualityEvaluation,
    NoiseEvaluation,
    PropositionEvaluation,
    ResilienceReport,
    Study,
    TransferEvaluation,
)

Target = Literal["benign", "patch"]


@dataclass(frozen=True)
class StudyCase:
    """A study in an evaluation with all others of the same target map.

    Attributes:
        make: a new instance.
        target: of the evaluation.
        log: start of a log key that the study must leave.
    """

    make: Callable[[], Study]
    log: str
    target: Target = "benign"

    @property
    def name(self) -> str:
        """Of the study."""
        return self.make().name


CASES = [
    StudyCase(lambda: MapQualityEvaluation(order=True, reference="cam", randomise=True), "test/benign/cam/"),
    StudyCase(lambda: NoiseEvaluation(rates=(0.3,), kinds=("normal",), max_images=5), "test/noise/normal-0.3/cam/"),
    StudyCase(ConfusionMatrix, "test/benign/balanced_accuracy"),
    StudyCase(lambda: LocalizationEvaluation(examples=2), "test/localization/cam/"),
    StudyCase(TransferEvaluation, "test/transfer/cam/adv2-eps8-fast/grad/"),
    StudyCase(lambda: PropositionEvaluation(steps=2), "test/proposition/adv2-eps8-fast/cam/"),
    StudyCase(
        lambda: ClassifierTransferEvaluation([second_classifier()], ["other"]),
        "test/classifier_transfer/adv2-eps8-fast/cam/other/",
    ),
    StudyCase(
        lambda: DetectionEvaluation([FeatureSqueezing([BitDepth(2)])], calibration_images=4), "test/detection/squeezing"
    ),
    StudyCase(AttackCurves, "test/curves/"),
    StudyCase(lambda: ResilienceReport(reference="cam"), "test/resilience/cam/"),
    StudyCase(GapEvaluation, "test/gap/adv2-eps8-fast/cam/", target="patch"),
]


@cache
def _state() -> dict[str, Tensor]:
    batch = test_batch()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(8)
        classifier = ResidualClassifier(num_classes=7, widths=WIDTHS, stem_stride=2).train()
        optimizer = torch.optim.AdamW(classifier.parameters(), lr=2e-2)
        for _ in range(25):
            optimizer.zero_grad()
            F.cross_entropy(classifier(batch["images"]), batch["label"]).backward()
            optimizer.step()
    return {name: value.detach().clone() for name, value in classifier.state_dict().items()}


def second_classifier() -> ResidualClassifier:
    """Another classifier for the same classes, which gets some of the test images right."""
    classifier = ResidualClassifier(num_classes=7, widths=WIDTHS, stem_stride=2)
    classifier.load_state_dict(_state())
    return classifier.eval()


def curve_attacks() -> list[AttackRecipe]:
    """ADV2 at three epsilons, PGD at two numbers of steps, and one attack that is no part of a curve."""
    joint = [ADV2(steps=4, name=f"adv2-eps{k}", threat_model=Pixels(k / 255)) for k in (8, 1, 4)]
    return [*joint, pgd(steps=6, name="pgd-steps6"), pgd(steps=2, name="pgd-steps2"), pgd(steps=3, name="alone")]


def callbacks(target: Target) -> list[pl.Callback]:
    """An evaluation with all studies of this target: those of benign batches, the attack, then the others."""
    studies = [case.make() for case in CASES if case.target == target]
    before = [study for study in studies if AttackEvaluation not in study.needs]
    attack = AttackEvaluation(curve_attacks(), target=RandomPatch() if target == "patch" else None)
    return [*before, attack, *(study for study in studies if study not in before)]


def measured(first: Tensor, second: Tensor) -> tuple[float, float]:
    """L1 and IoU of one map and another, pixel by pixel."""
    pairs = list(zip(first.flatten().tolist(), second.flatten().tolist(), strict=True))
    union = sum(a >= 0.5 or b >= 0.5 for a, b in pairs)
    both = sum(a >= 0.5 and b >= 0.5 for a, b in pairs)
    return sum(abs(a - b) for a, b in pairs) / len(pairs), both / union if union else 1.0
