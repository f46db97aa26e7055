"""Plain noise on images, and the noise level at which a classifier begins to err (paper section 6, Figure 15)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Literal

import torch
from torch import Tensor

from lightning_adv2.functional.projection import LEVELS
from lightning_adv2.functional.random import image_generators, per_image

Kind = Literal["normal", "uniform"]
KINDS: tuple[Kind, ...] = ("normal", "uniform")

_LOWEST, _HIGHEST = 2.0**-8, 4.0  # one grey level; far beyond what leaves anything of an image
_HALVINGS = 7  # to within 0.4% of the level


def add_noise(images: Tensor, image_id: Sequence[str], kind: Kind, level: float, seed: int = 0) -> Tensor:
    """Images under noise whose direction is fixed by (seed, kind, image id) and whose length is the level (Figure 15).

    Args:
        images: ``(B, C, H, W)`` in [0, 1].
        image_id: B identifiers.
        kind: ``normal`` with standard deviation ``level``, or ``uniform`` in [-level, level].
        level: in units of the pixel range, >= 0.
        seed: of the directions.

    Returns:
        ``(B, C, H, W)`` in [0, 1], every value a multiple of 1/255.
    """
    shape = images.shape[1:]

    def draw(generator: torch.Generator) -> Tensor:
        if kind == "normal":
            return torch.randn(shape, generator=generator)
        return 2 * torch.rand(shape, generator=generator) - 1

    noise = per_image(draw, image_generators(seed, image_id, f"noise_{kind}"), images)
    return ((images + level * noise).clamp(0, 1) * LEVELS).round() / LEVELS


def find_level(count: Callable[[float], int], needed: int) -> float:
    """The lowest level at which at least ``needed`` images are misclassified (the 3% and 30% levels of Figure 15).

    The level is doubled until enough images are misclassified, then the interval is halved 7 times. Where the count is
    not monotone, the result is one of the levels at which the count crosses ``needed``.

    Args:
        count: number of misclassified images at a level.
        needed: at least 1.

    Returns:
        A level in units of the pixel range; the highest level tried (4) where even there too few are misclassified.
    """
    low, high = 0.0, _LOWEST
    while count(high) < needed:
        if high >= _HIGHEST:
            return high
        low, high = high, 2 * high
    for _ in range(_HALVINGS):
        middle = (low + high) / 2
        if count(middle) >= needed:
            high = middle
        else:
            low = middle
    return high
