"""What the attacker may change: a perturbation is a parameter, a way to apply it, and its feasible set."""

from __future__ import annotations

from abc import ABC, abstractmethod

import torch
from torch import Tensor

from lightning_adv2.functional.projection import project_linf, quantize


class Perturbation(ABC):
    """A parameter ``(B, ...)`` that turns benign images into adversarial ones."""

    @abstractmethod
    def init(self, images: Tensor) -> Tensor:
        """The parameter that changes nothing, ``(B, ...)``."""

    @abstractmethod
    def apply(self, images: Tensor, parameter: Tensor) -> Tensor:
        """Adversarial images ``(B, C, H, W)``, exactly as they would be stored in 8 bits, differentiable."""

    @abstractmethod
    def project(self, images: Tensor, parameter: Tensor) -> Tensor:
        """The feasible parameter closest to ``parameter``."""


class PixelDelta(Perturbation):
    """An additive change within an L-infinity ball (the PGD framework, paper section 3.1).

    Args:
        epsilon: radius in units of the pixel range; the paper's 0.031.
    """

    def __init__(self, epsilon: float = 0.031) -> None:
        if not 0 < epsilon <= 1:
            raise ValueError(f"epsilon={epsilon}: must lie in (0, 1]; pixels are in [0, 1], the paper takes 0.031")
        self.epsilon = epsilon

    def init(self, images: Tensor) -> Tensor:
        """Zero."""
        return torch.zeros_like(images)

    def apply(self, images: Tensor, parameter: Tensor) -> Tensor:
        """images + parameter, rounded to 8 bits; the gradient passes the rounding unchanged.

        So every iterate is judged as what a user of the attack would get, and nothing is lost at the end.
        """
        adv_images = images + parameter
        return adv_images + (quantize(adv_images.detach(), images, self.epsilon) - adv_images).detach()

    def project(self, images: Tensor, parameter: Tensor) -> Tensor:
        """Onto the epsilon ball and [0, 1]."""
        return project_linf(parameter, images, self.epsilon)
