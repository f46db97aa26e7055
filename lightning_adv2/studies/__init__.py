"""Studies: questions that are asked of an evaluation's records, or of its benign images; one file each."""

from lightning_adv2.studies.base import Study
from lightning_adv2.studies.classifier_transfer import ClassifierTransferEvaluation
from lightning_adv2.studies.confusion import ConfusionMatrix
from lightning_adv2.studies.curves import AttackCurves
from lightning_adv2.studies.detection import DetectionEvaluation
from lightning_adv2.studies.gap import GapEvaluation
from lightning_adv2.studies.localization import LocalizationEvaluation
from lightning_adv2.studies.map_quality import MapQualityEvaluation
from lightning_adv2.studies.noise import NoiseEvaluation
from lightning_adv2.studies.proposition import PropositionEvaluation
from lightning_adv2.studies.resilience import ResilienceReport
from lightning_adv2.studies.transfer import TransferEvaluation

__all__ = [
    "AttackCurves",
    "ClassifierTransferEvaluation",
    "ConfusionMatrix",
    "DetectionEvaluation",
    "GapEvaluation",
    "LocalizationEvaluation",
    "MapQualityEvaluation",
    "NoiseEvaluation",
    "PropositionEvaluation",
    "ResilienceReport",
    "Study",
    "TransferEvaluation",
]
