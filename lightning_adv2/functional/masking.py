"""phi(x; m): the image where the mask is 1, a background without evidence where the mask is 0 (RTS and MASK)."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Generator, Tensor

from lightning_adv2.functional.random import per_image


def gaussian_blur(images: Tensor, sigma: float) -> Tensor:
    """Separable Gaussian blur with reflected borders, cut off at 2.5 sigma (MASK, Fong and Vedaldi 2017).

    Args:
        images: ``(B, C, H, W)``.
        sigma: standard deviation in pixels, > 0.

    Returns:
        The same shape, within the range of the image.

    Raises:
        ValueError: a side of a single pixel, which has nothing to reflect.
    """
    if min(images.shape[-2:]) < 2:
        height, width = images.shape[-2:]
        raise ValueError(f"images: {height} x {width} pixels; a blur needs at least 2 pixels a side")
    radius = max(1, min(round(2.5 * sigma), min(images.shape[-2:]) - 1))
    x = torch.arange(-radius, radius + 1, device=images.device, dtype=images.dtype)
    kernel = torch.exp(-0.5 * (x / sigma) ** 2)
    kernel = kernel / kernel.sum()
    channels = images.shape[1]
    padded = F.pad(images, (radius, radius, radius, radius), mode="reflect")
    rows = F.conv2d(padded, kernel.view(1, 1, 1, -1).expand(channels, 1, 1, -1), groups=channels)
    return F.conv2d(rows, kernel.view(1, 1, -1, 1).expand(channels, 1, -1, 1), groups=channels)


def uninformative(images: Tensor, generators: Sequence[Generator], blur_probability: float = 0.5) -> Tensor:
    """The background where the mask is 0: at random a blurred copy, or a random colour with noise (RTS, section 4).

    The published figures hold for 224 px and inputs in [-1, 1]: blur sigma 11, colour range 0.66, noise sigma 0.11.
    Here the blur scales with the image's shorter side, and colours and noise with [0, 1].

    Args:
        images: ``(B, C, H, W)`` in [0, 1].
        generators: B CPU generators.
        blur_probability: share of the images that get the blurred copy, in [0, 1].

    Returns:
        ``(B, C, H, W)`` in [0, 1].

    Raises:
        ValueError: a side of a single pixel, which cannot be blurred.
    """
    blurred = gaussian_blur(images, sigma=11 / 224 * min(images.shape[-2:]))
    shape = images.shape[1:]

    def colour_and_noise(generator: Generator) -> Tensor:
        colour = 0.5 + 0.33 * (2 * torch.rand(shape[0], 1, 1, generator=generator) - 1)
        return colour + 0.055 * torch.randn(shape, generator=generator)

    choice = per_image(lambda g: torch.rand(1, 1, 1, generator=g), generators, images)
    noise = per_image(colour_and_noise, generators, images)
    return torch.where(choice < blur_probability, blurred, noise).clamp(0, 1)


def blend(images: Tensor, background: Tensor, mask: Tensor) -> Tensor:
    """phi(x; m) = m x + (1 - m) background, the mask enlarged to the image bilinearly (paper section 3.6, Eqn 15).

    Args:
        images: ``(B, C, H, W)``, x.
        background: the same shape.
        mask: ``(B, 1, h, w)`` in [0, 1], m.

    Returns:
        ``(B, C, H, W)``, between image and background.
    """
    return background + resize_map(mask, images.shape[-2:]) * (images - background)


def resize_map(mask: Tensor, size: Sequence[int]) -> Tensor:
    """A map resized bilinearly, with pixel centres aligned (``align_corners=False``).

    Args:
        mask: ``(B, 1, h, w)``.
        size: H, W of the result in pixels.

    Returns:
        ``(B, 1, H, W)``; the map itself where it has this size already.
    """
    if tuple(mask.shape[-2:]) == tuple(size):
        return mask
    return F.interpolate(mask, size=tuple(size), mode="bilinear", align_corners=False)
