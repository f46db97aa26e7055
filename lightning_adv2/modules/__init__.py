"""LightningModules that train a classifier or an interpreter or hold both, and the callbacks of fit and predict."""

from lightning_adv2.modules.aid import AIDModule
from lightning_adv2.modules.benign_quality import BenignQuality
from lightning_adv2.modules.classifier import ClassifierModule
from lightning_adv2.modules.distillation import DistillationModule
from lightning_adv2.modules.idls import IDLS
from lightning_adv2.modules.map_writer import MapWriter
from lightning_adv2.modules.objectives import InterpreterLoss, MaskLoss
from lightning_adv2.modules.rts import RTSModule
from lightning_adv2.modules.training_checkpoint import TrainingCheckpoint

__all__ = [
    "IDLS",
    "AIDModule",
    "BenignQuality",
    "ClassifierModule",
    "DistillationModule",
    "InterpreterLoss",
    "MapWriter",
    "MaskLoss",
    "RTSModule",
    "TrainingCheckpoint",
]
