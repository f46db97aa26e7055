"""Started by test_shown.py: an evaluation with every study, of classes with names that nobody should trust."""

from __future__ import annotations

import sys
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).parents[1]))

from lab import idls, shapes, trainer

from lightning_adv2.data import AttackDataModule
from lightning_adv2.detectors import FeatureSqueezing
from lightning_adv2.evaluation import AttackEvaluation
from lightning_adv2.functional.squeeze import BitDepth
from lightning_adv2.studies import (
    AttackCurves,
    ClassifierTransferEvaluation,
    ConfusionMatrix,
    DetectionEvaluation,
    LocalizationEvaluation,
    MapQualityEvaluation,
    NoiseEvaluation,
    PropositionEvaluation,
    ResilienceReport,
    TransferEvaluation,
)
from studies.cases import curve_attacks, second_classifier

NAMES = (
    "$x^2$ [red]a[/] <b onclick=1>",
    "wiped\x1b[2J\x07",
    "two\nlines\rhere",
    "\u202eturned round",
    "no UTF-8 \udcff\udcfe",
    "Z\u00fcrich \u2603",
    "l" + "o" * 300 + "ng",
)

if __name__ == "__main__":
    torch.set_num_threads(1)
    folder, source = Path(sys.argv[1]), shapes()
    type(source).class_titles = NAMES  # type: ignore[assignment] - as a data set's folders would have it
    run = trainer(
        folder,
        MapQualityEvaluation(order=True, reference="cam", randomise=True),
        NoiseEvaluation(rates=(0.3,), kinds=("normal",)),
        ConfusionMatrix(),
        LocalizationEvaluation(examples=2),
        AttackEvaluation(curve_attacks()),
        TransferEvaluation(),
        PropositionEvaluation(steps=2),
        ClassifierTransferEvaluation([second_classifier()], ["other"]),
        DetectionEvaluation([FeatureSqueezing([BitDepth(2)])], calibration_images=4),
        AttackCurves(),
        ResilienceReport(reference="cam"),
    )
    run.test(idls("cam", "grad"), AttackDataModule(source, num_images=8, batch_size=4), verbose=False)
