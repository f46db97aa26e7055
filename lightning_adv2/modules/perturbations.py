"""What the last attack on each training image left, for the next one to go on from."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from lightning_adv2.functional.projection import LEVELS


class Perturbations:
    """Additive perturbations of images, by identifier, in whole 8-bit levels (Zheng et al. 2020, ATTA).

    They lie in the main memory, ``C * H * W`` bytes per image; an image that is not there yet has none.
    """

    def __init__(self, image_id: Sequence[str], shape: Sequence[int]) -> None:
        self._row = {name: row for row, name in enumerate(image_id)}
        self.levels = torch.zeros(len(image_id), *shape, dtype=torch.int8)

    def rows(self, image_id: Sequence[str]) -> Tensor:
        """The places of B images, ``(B,)`` int64."""
        return torch.tensor([self._row[name] for name in image_id])

    def get(self, rows: Tensor, like: Tensor) -> Tensor:
        """In units of the pixel range, ``(B, C, H, W)`` with the device and dtype of ``like``."""
        return self.levels[rows].to(device=like.device, dtype=like.dtype) / LEVELS

    def put(self, rows: Tensor, levels: Tensor) -> None:
        """Keep what an attack left: places ``(B,)`` and whole levels ``(B, C, H, W)``."""
        self.levels[rows.cpu()] = levels.cpu().to(torch.int8)


def in_levels(images: Tensor, adv_images: Tensor) -> Tensor:
    """The difference of images on 8-bit levels, in levels, int8; an L-infinity radius above 127 levels is cut off."""
    return ((adv_images - images) * LEVELS).round().clamp(-127, 127).to(torch.int8)
