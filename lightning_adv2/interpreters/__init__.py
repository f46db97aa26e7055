"""Interpreters: one file each; the classifier is an argument, the map is differentiable."""

from lightning_adv2.interpreters.attention import Attention
from lightning_adv2.interpreters.base import Interpreter
from lightning_adv2.interpreters.cam import CAM
from lightning_adv2.interpreters.captum import Captum
from lightning_adv2.interpreters.controls import ConstantMap, NoiseMap
from lightning_adv2.interpreters.ensemble import Ensemble
from lightning_adv2.interpreters.grad_cam import GradCAM
from lightning_adv2.interpreters.gradient import Gradient
from lightning_adv2.interpreters.integrated_gradients import IntegratedGradients
from lightning_adv2.interpreters.lrp import LRP
from lightning_adv2.interpreters.mask import MASK
from lightning_adv2.interpreters.rts import RTS
from lightning_adv2.interpreters.smooth_grad import SmoothGrad
from lightning_adv2.interpreters.student import Student
from lightning_adv2.interpreters.trainable import TrainableInterpreter, give_encoders

__all__ = [
    "CAM",
    "LRP",
    "MASK",
    "RTS",
    "Attention",
    "Captum",
    "ConstantMap",
    "Ensemble",
    "GradCAM",
    "Gradient",
    "IntegratedGradients",
    "Interpreter",
    "NoiseMap",
    "SmoothGrad",
    "Student",
    "TrainableInterpreter",
    "give_encoders",
]
