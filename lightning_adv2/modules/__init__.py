"""LightningModules: train a classifier, train RTS, hold a classifier and its interpreter for evaluation."""

from lightning_adv2.modules.classifier import ClassifierModule
from lightning_adv2.modules.idls import IDLS
from lightning_adv2.modules.rts import RTSModule

__all__ = ["IDLS", "ClassifierModule", "RTSModule"]
