"""Callbacks: attack and measure whatever has a classifier and an interpreter."""

from lightning_adv2.callbacks.attack_batch import attack_batch
from lightning_adv2.callbacks.attack_evaluation import AttackEvaluation
from lightning_adv2.callbacks.benign_quality import BenignQuality
from lightning_adv2.callbacks.classifier_transfer import ClassifierTransferEvaluation
from lightning_adv2.callbacks.confusion import ConfusionMatrix
from lightning_adv2.callbacks.curves import AttackCurves
from lightning_adv2.callbacks.detection import DetectionEvaluation
from lightning_adv2.callbacks.gap import GapEvaluation
from lightning_adv2.callbacks.localization import LocalizationEvaluation
from lightning_adv2.callbacks.map_quality import MapQualityEvaluation
from lightning_adv2.callbacks.map_writer import MapWriter
from lightning_adv2.callbacks.noise import NoiseEvaluation
from lightning_adv2.callbacks.proposition import PropositionEvaluation
from lightning_adv2.callbacks.resilience import ResilienceReport
from lightning_adv2.callbacks.training_checkpoint import TrainingCheckpoint
from lightning_adv2.callbacks.transfer import TransferEvaluation

__all__ = [
    "AttackCurves",
    "AttackEvaluation",
    "BenignQuality",
    "ClassifierTransferEvaluation",
    "ConfusionMatrix",
    "DetectionEvaluation",
    "GapEvaluation",
    "LocalizationEvaluation",
    "MapQualityEvaluation",
    "MapWriter",
    "NoiseEvaluation",
    "PropositionEvaluation",
    "ResilienceReport",
    "TrainingCheckpoint",
    "TransferEvaluation",
    "attack_batch",
]
