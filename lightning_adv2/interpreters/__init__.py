"""Interpreters: one file each; the classifier is an argument, the map is differentiable."""

from lightning_adv2.interpreters.base import Interpreter
from lightning_adv2.interpreters.cam import CAM
from lightning_adv2.interpreters.gradient import Gradient
from lightning_adv2.interpreters.rts import RTS

__all__ = ["CAM", "RTS", "Gradient", "Interpreter"]
