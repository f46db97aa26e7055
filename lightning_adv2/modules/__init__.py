"""LightningModules: train a classifier, train an interpreter, hold both for evaluation."""

from lightning_adv2.modules.aid import AIDModule
from lightning_adv2.modules.classifier import ClassifierModule
from lightning_adv2.modules.distillation import DistillationModule
from lightning_adv2.modules.idls import IDLS
from lightning_adv2.modules.objectives import InterpreterLoss, MaskLoss
from lightning_adv2.modules.rts import RTSModule

__all__ = ["IDLS", "AIDModule", "ClassifierModule", "DistillationModule", "InterpreterLoss", "MaskLoss", "RTSModule"]
