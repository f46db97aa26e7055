"""What the last attack on each training image left, for the next one to go on from."""

from __future__ import annotations

from collections.abc import Sequence
from hashlib import sha256
from typing import Any

import torch
from torch import Tensor

from lightning_adv2.functional.projection import LEVELS


class Perturbations:
    """Additive perturbations of images, by identifier, in whole 8-bit levels.

    Going on from the last epoch's perturbation is ATTA (Zheng et al. 2020, "Efficient adversarial training with
    transferable adversarial examples"). They lie in the main memory of every process, and in every checkpoint:
    ``C * H * W`` bytes per image. An image that is not there yet has none.

    Args:
        image_id: of all training images.
        shape: ``(C, H, W)``.
    """

    def __init__(self, image_id: Sequence[str], shape: Sequence[int]) -> None:
        self._row = {name: row for row, name in enumerate(image_id)}
        self._images = sha256("\n".join(image_id).encode()).hexdigest()
        self._levels = torch.zeros(len(image_id), *shape, dtype=torch.int8)

    def rows(self, image_id: Sequence[str]) -> Tensor:
        """The places of B images, ``(B,)`` int64."""
        return torch.tensor([self._row[name] for name in image_id])

    def get(self, rows: Tensor, like: Tensor) -> Tensor:
        """In units of the pixel range, ``(B, C, H, W)`` with the device and dtype of ``like``."""
        return self._levels[rows].to(device=like.device, dtype=like.dtype) / LEVELS

    def put(self, rows: Tensor, levels: Tensor) -> None:
        """Keep what an attack left: places ``(B,)`` and whole levels ``(B, C, H, W)``."""
        self._levels[rows.cpu()] = levels.cpu().to(torch.int8)

    def state_dict(self) -> dict[str, Any]:
        """For a checkpoint."""
        return {"images": self._images, "levels": self._levels}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """From a checkpoint.

        Raises:
            ValueError: they are of other images.
        """
        if state["images"] != self._images:
            raise ValueError(
                "the checkpoint's perturbations are of other training images than these; train on the same ones "
                "(num_train, seed, files), or start anew in another folder"
            )
        self._levels = state["levels"]


def in_levels(images: Tensor, adv_images: Tensor) -> Tensor:
    """The difference of images on 8-bit levels, in levels, int8."""
    return ((adv_images - images) * LEVELS).round().to(torch.int8)
