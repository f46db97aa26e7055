"""What the attacker may change: a perturbation is a parameter, a way to apply it, and its feasible set."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Sequence

import torch
from torch import Generator, Tensor

from lightning_adv2.functional.flow import flow_norm, warp
from lightning_adv2.functional.projection import LEVELS, project_linf, quantize
from lightning_adv2.functional.random import per_image


class Perturbation(ABC):
    """A parameter ``(B, ...)`` that turns benign images into adversarial ones."""

    unit: str
    """Of :meth:`norm`, for tables."""
    threat_model: str
    """What the attacker may change, in a word for records and tables."""

    @abstractmethod
    def init(self, images: Tensor, generators: Sequence[Generator]) -> Tensor:
        """Where the attack starts, ``(B, ...)``; whatever is drawn comes from the image's own generator."""

    def restart(self, images: Tensor, generators: Sequence[Generator]) -> Tensor:
        """Where a further run starts, random and feasible; by default as the first does."""
        return self.init(images, generators)

    @abstractmethod
    def apply(self, images: Tensor, parameter: Tensor) -> Tensor:
        """Adversarial images ``(B, C, H, W)``, exactly as they would be stored in 8 bits, differentiable."""

    @abstractmethod
    def project(self, images: Tensor, parameter: Tensor) -> Tensor:
        """The feasible parameter closest to ``parameter``."""

    @abstractmethod
    def norm(self, images: Tensor, parameter: Tensor) -> Tensor:
        """How large the change is, in the perturbation's own unit: ``(B,)``, >= 0."""


class PixelDelta(Perturbation):
    """An additive change within an L-infinity ball (the PGD framework, paper section 3.1).

    Args:
        epsilon: radius in units of the pixel range; the paper's 0.031.
        keep_grey: change all channels of a grey image, one whose channels are equal, by the same amount, so that it
            stays grey; False changes each channel for itself. Other images are not affected.
    """

    unit = "Linf"
    threat_model = "linf"

    def __init__(self, epsilon: float = 0.031, keep_grey: bool = True) -> None:
        if not 0 < epsilon <= 1:
            raise ValueError(f"epsilon={epsilon}: must lie in (0, 1]; pixels are in [0, 1], the paper takes 0.031")
        self.epsilon, self.keep_grey = epsilon, keep_grey

    def init(self, images: Tensor, generators: Sequence[Generator]) -> Tensor:
        """Zero."""
        return torch.zeros_like(images)

    def restart(self, images: Tensor, generators: Sequence[Generator]) -> Tensor:
        """Uniform over what the ball and [0, 1] leave of each pixel; of a grey image, of each pixel's brightness."""
        everywhere = torch.full_like(images, self.epsilon)
        low, high = self.project(images, -everywhere), self.project(images, everywhere)
        share = per_image(lambda g: torch.rand(images.shape[1:], generator=g), generators, images).view_as(images)
        return self.project(images, low + self.first_channel(images, share) * (high - low))

    def first_channel(self, images: Tensor, drawn: Tensor) -> Tensor:
        """Random numbers with those of the first channel in all channels where the image is grey and stays so.

        Their mean over the channels would have another distribution.

        Args:
            images: the benign images ``(B, C, H, W)``.
            drawn: independent numbers of the same shape.
        """
        return torch.where(is_grey(images), drawn[:, :1], drawn) if self.keep_grey else drawn

    def apply(self, images: Tensor, parameter: Tensor) -> Tensor:
        """images + parameter, rounded to 8 bits; the gradient passes the rounding unchanged.

        So every iterate is judged as what a user of the attack would get, and nothing is lost at the end. The gradient
        with respect to a grey image's parameter is the mean over its channels.
        """
        adv_images = images + self._shared(images, parameter)
        return adv_images + (quantize(adv_images.detach(), images, self.epsilon) - adv_images).detach()

    def project(self, images: Tensor, parameter: Tensor) -> Tensor:
        """Onto the epsilon ball and [0, 1], and for a grey image onto changes that all channels share."""
        return project_linf(self._shared(images, parameter), images, self.epsilon)

    def _shared(self, images: Tensor, parameter: Tensor) -> Tensor:
        """The parameter; where an image is grey, its mean over the channels in every channel."""
        if not self.keep_grey or images.shape[1] == 1:
            return parameter
        return torch.where(is_grey(images), parameter.mean(1, keepdim=True), parameter)

    def norm(self, images: Tensor, parameter: Tensor) -> Tensor:
        """Its largest component, in units of the pixel range (before the rounding to 8 bits)."""
        return parameter.abs().flatten(1).amax(1)


def is_grey(images: Tensor) -> Tensor:
    """Which images have equal values in all channels. ``(B, C, H, W)`` -> ``(B, 1, 1, 1)`` bool."""
    return (images == images[:, :1]).flatten(1).all(1).view(-1, 1, 1, 1)


class FlowField(Perturbation):
    """A displacement of every pixel (the StAdv framework, paper section 4, appendix A1; Xiao et al., 2018).

    The parameter is the flow ``(B, 2, H, W)`` in pixels; see :func:`~lightning_adv2.functional.flow.warp`. It has no
    radius: what keeps the change small is the loss on the flow's smoothness.

    Args:
        start: every component of the first flow is drawn from U(-start, start); the authors' 0.1. At 0 the attack
            starts from the benign image, where the image has a kink in every direction.
        max_flow: keeps both components of every pixel's flow within [-max_flow, max_flow]; None leaves them free.

    Raises:
        ValueError: a negative ``start``, a ``max_flow`` that is not positive, or below ``start``.
    """

    unit = "px"
    threat_model = "spatial"

    def __init__(self, start: float = 0.1, max_flow: float | None = None) -> None:
        if not 0 <= start < math.inf:
            raise ValueError(f"start={start}: give pixels, 0 or more; the authors take 0.1")
        if max_flow is not None and not 0 < max_flow < math.inf:
            raise ValueError(f"max_flow={max_flow}: give pixels, more than 0, or None for no bound")
        if max_flow is not None and start > max_flow:
            raise ValueError(f"start={start}: lies beyond max_flow={max_flow}; give at most that")
        self.start, self.max_flow = start, max_flow

    def init(self, images: Tensor, generators: Sequence[Generator]) -> Tensor:
        """A small random flow, ``(B, 2, H, W)``; at ``start=0`` a restart repeats the first run."""
        size = images.shape[-2:]
        drawn = per_image(lambda g: 2 * torch.rand(2, *size, generator=g) - 1, generators, images)
        return self.start * drawn.view(len(images), 2, *size)

    def apply(self, images: Tensor, parameter: Tensor) -> Tensor:
        """The warped images, rounded to the nearest 8 bits; the gradient passes the rounding unchanged."""
        adv_images = warp(images, parameter)
        stored = ((adv_images.detach() * LEVELS).round() / LEVELS).clamp(0, 1)
        return stored + (adv_images - adv_images.detach())

    def project(self, images: Tensor, parameter: Tensor) -> Tensor:
        """Each component to within ``max_flow``."""
        return parameter if self.max_flow is None else parameter.clamp(-self.max_flow, self.max_flow)

    def norm(self, images: Tensor, parameter: Tensor) -> Tensor:
        """How far a pixel moves on average, in pixels."""
        return flow_norm(parameter)
