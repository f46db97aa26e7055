"""Perturbations: a parameter, its application to the image, and its feasible set."""

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
    """A parameter ``(B, ...)`` that turns benign images into adversarial images (paper section 4).

    Attributes:
        unit: of :meth:`norm`, for tables.
        threat_model: what the attacker may change, in a word for records and tables.
    """

    unit: str
    threat_model: str

    @abstractmethod
    def init(self, images: Tensor, generators: Sequence[Generator]) -> Tensor:
        """The parameter at the attack's start.

        Args:
            images: ``(B, C, H, W)`` in [0, 1], benign.
            generators: B CPU generators; every random number of an image comes from its own generator.

        Returns:
            ``(B, ...)``.
        """

    def restart(self, images: Tensor, generators: Sequence[Generator]) -> Tensor:
        """The parameter at the start of a further run, random and feasible; by default that of :meth:`init`.

        Args:
            images: ``(B, C, H, W)`` in [0, 1], benign.
            generators: B CPU generators.

        Returns:
            ``(B, ...)``.
        """
        return self.init(images, generators)

    @abstractmethod
    def apply(self, images: Tensor, parameter: Tensor) -> Tensor:
        """The adversarial images, exactly as they would be stored in 8 bits, differentiable.

        Args:
            images: ``(B, C, H, W)`` in [0, 1], benign.
            parameter: ``(B, ...)``.

        Returns:
            ``(B, C, H, W)`` in [0, 1], every value a multiple of 1/255.
        """

    @abstractmethod
    def project(self, images: Tensor, parameter: Tensor) -> Tensor:
        """The feasible parameter closest to ``parameter`` (the paper's Pi, section 3.1).

        Args:
            images: ``(B, C, H, W)`` in [0, 1], benign.
            parameter: ``(B, ...)``.

        Returns:
            ``(B, ...)``.
        """

    @abstractmethod
    def norm(self, images: Tensor, parameter: Tensor) -> Tensor:
        """The size of the change, in ``unit``.

        Args:
            images: ``(B, C, H, W)`` in [0, 1], benign.
            parameter: ``(B, ...)``.

        Returns:
            ``(B,)``, >= 0.
        """


class PixelDelta(Perturbation):
    """An additive change within an L-infinity ball (the PGD framework, paper section 3.1).

    Args:
        epsilon: radius in units of the pixel range, in (0, 1]; the paper's 0.031.
        keep_grey: change all channels of a grey image, whose channels are equal, by the same amount, so that it stays
            grey; False changes each channel by itself. Other images are not affected.

    Raises:
        ValueError: ``epsilon`` is not in (0, 1].
    """

    unit = "Linf"
    threat_model = "linf"

    def __init__(self, epsilon: float = 0.031, keep_grey: bool = True) -> None:
        if not 0 < epsilon <= 1:
            raise ValueError(f"epsilon={epsilon}: must lie in (0, 1]; pixels are in [0, 1], the paper takes 0.031")
        self.epsilon, self.keep_grey = epsilon, keep_grey

    def init(self, images: Tensor, generators: Sequence[Generator]) -> Tensor:
        """Zero, ``(B, C, H, W)`` like the images.

        For the arguments see :meth:`Perturbation.init`.
        """
        return torch.zeros_like(images)

    def restart(self, images: Tensor, generators: Sequence[Generator]) -> Tensor:
        """Uniform over the part of the ball within [0, 1], ``(B, C, H, W)``; for a grey image one number per pixel.

        For the arguments see :meth:`Perturbation.restart`.
        """
        everywhere = torch.full_like(images, self.epsilon)
        low, high = self.project(images, -everywhere), self.project(images, everywhere)
        share = per_image(lambda g: torch.rand(images.shape[1:], generator=g), generators, images)
        return self.project(images, low + self.first_channel(images, share) * (high - low))

    def first_channel(self, images: Tensor, drawn: Tensor) -> Tensor:
        """Random numbers with those of the first channel in all channels, where an image is grey and stays grey.

        The mean over the channels would have another distribution.

        Args:
            images: the benign images ``(B, C, H, W)``.
            drawn: independent numbers of the same shape.

        Returns:
            ``(B, C, H, W)``.
        """
        return torch.where(is_grey(images), drawn[:, :1], drawn) if self.keep_grey else drawn

    def apply(self, images: Tensor, parameter: Tensor) -> Tensor:
        """images + parameter, ``(B, C, H, W)``, rounded to 8 bits within epsilon with a straight-through gradient.

        So every iterate is measured as it would be stored, and nothing is lost at the end. The gradient with respect to
        a grey image's parameter is the mean over its channels. For the arguments see :meth:`Perturbation.apply`.

        Raises:
            ValueError: no 8-bit level lies within epsilon of some benign pixel.
        """
        adv_images = images + self._shared(images, parameter)
        return adv_images + (quantize(adv_images.detach(), images, self.epsilon) - adv_images).detach()

    def project(self, images: Tensor, parameter: Tensor) -> Tensor:
        """The parameter ``(B, C, H, W)`` in the epsilon ball and within [0, 1]; for a grey image equal in all channels.

        For the arguments see :meth:`Perturbation.project` (Pi, paper section 3.1).
        """
        return project_linf(self._shared(images, parameter), images, self.epsilon)

    def _shared(self, images: Tensor, parameter: Tensor) -> Tensor:
        """The parameter; where an image is grey, its mean over the channels in every channel."""
        if not self.keep_grey or images.shape[1] == 1:
            return parameter
        return torch.where(is_grey(images), parameter.mean(1, keepdim=True), parameter)

    def norm(self, images: Tensor, parameter: Tensor) -> Tensor:
        """L-infinity norm of the parameter ``(B, C, H, W)``: ``(B,)`` in units of the pixel range, before the rounding.

        For the arguments see :meth:`Perturbation.norm`.
        """
        return parameter.abs().flatten(1).amax(1)


def is_grey(images: Tensor) -> Tensor:
    """Whether an image has equal values in all channels.

    Args:
        images: ``(B, C, H, W)``.

    Returns:
        ``(B, 1, 1, 1)`` bool.
    """
    return (images == images[:, :1]).flatten(1).all(1).view(-1, 1, 1, 1)


class FlowField(Perturbation):
    """A displacement of every pixel (the StAdv framework, paper section 4, appendix A1; Xiao et al. 2018).

    The parameter is the flow ``(B, 2, H, W)`` in pixels; see :func:`~lightning_adv2.functional.flow.warp`. It has no
    radius: the loss on the flow's smoothness keeps the change small.

    Args:
        start: every component of the first flow is drawn from U(-start, start), in pixels; the authors' 0.1. At 0 the
            attack starts from the benign image, where the image has a kink in every direction.
        max_flow: keeps both components of every pixel's flow within [-max_flow, max_flow], in pixels; None leaves them
            free.

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
        """A random flow ``(B, 2, H, W)`` in pixels, U(-start, start); at ``start=0`` a restart repeats the first run.

        For the arguments see :meth:`Perturbation.init`.
        """
        size = images.shape[-2:]
        drawn = per_image(lambda g: 2 * torch.rand(2, *size, generator=g) - 1, generators, images)
        return self.start * drawn.view(len(images), 2, *size)

    def apply(self, images: Tensor, parameter: Tensor) -> Tensor:
        """The warped images ``(B, C, H, W)``, rounded to the nearest 8 bits with a straight-through gradient.

        For the arguments see :meth:`Perturbation.apply` (StAdv, Eqn 1).

        Raises:
            ValueError: the flow is not ``(B, 2, H, W)``.
        """
        adv_images = warp(images, parameter)
        stored = ((adv_images.detach() * LEVELS).round() / LEVELS).clamp(0, 1)
        return stored + (adv_images - adv_images.detach())

    def project(self, images: Tensor, parameter: Tensor) -> Tensor:
        """The flow ``(B, 2, H, W)`` with each component within ``max_flow`` pixels.

        For the arguments see :meth:`Perturbation.project`.
        """
        return parameter if self.max_flow is None else parameter.clamp(-self.max_flow, self.max_flow)

    def norm(self, images: Tensor, parameter: Tensor) -> Tensor:
        """Mean Euclidean length of the pixels' flow ``(B, 2, H, W)``: ``(B,)`` in pixels.

        For the arguments see :meth:`Perturbation.norm`.
        """
        return flow_norm(parameter)
