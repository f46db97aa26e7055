"""The perturbations that the last attack on each training image ended with, for the next attack to start from."""

from __future__ import annotations

from collections.abc import Sequence
from hashlib import sha256
from typing import Any

import torch
from torch import Tensor

from lightning_adv2.functional.projection import LEVELS


class Perturbations:
    """Additive perturbations of images, by identifier, in whole 8-bit levels.

    Continuing from the last epoch's perturbation is ATTA (Zheng et al. 2020, "Efficient adversarial training with
    transferable adversarial examples"). They lie in the main memory of every process, and in every checkpoint: ``C * H
    * W`` bytes per image. The first perturbation of an image is zero.

    Args:
        image_id: of all N training images.
        shape: ``(C, H, W)``.
    """

    def __init__(self, image_id: Sequence[str], shape: Sequence[int]) -> None:
        self._row = {name: row for row, name in enumerate(image_id)}
        self._images = sha256("\n".join(image_id).encode()).hexdigest()
        self._levels = torch.zeros(len(image_id), *shape, dtype=torch.int8)

    def rows(self, image_id: Sequence[str]) -> Tensor:
        """The rows of B images.

        Args:
            image_id: B identifiers.

        Returns:
            ``(B,)`` int64 in [0, N).

        Raises:
            KeyError: an image that is none of the training images.
        """
        return torch.tensor([self._row[name] for name in image_id])

    def get(self, rows: Tensor, like: Tensor) -> Tensor:
        """The perturbations of B images.

        Args:
            rows: ``(B,)`` int64, from :meth:`rows`.
            like: any shape; gives device and dtype.

        Returns:
            ``(B, C, H, W)``, in units of the pixel range.
        """
        return self._levels[rows].to(device=like.device, dtype=like.dtype) / LEVELS

    def put(self, rows: Tensor, levels: Tensor) -> None:
        """Keep the perturbations of B images.

        Args:
            rows: ``(B,)`` int64, from :meth:`rows`.
            levels: ``(B, C, H, W)`` whole 8-bit levels in [-127, 127].
        """
        self._levels[rows.cpu()] = levels.cpu().to(torch.int8)

    def state_dict(self) -> dict[str, Any]:
        """The perturbations, and a hash of the image ids, for a checkpoint."""
        return {"images": self._images, "levels": self._levels}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore the perturbations from a checkpoint.

        Args:
            state: from :meth:`state_dict`.

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
    """The difference of two images on 8-bit levels.

    Args:
        images: ``(B, C, H, W)`` in [0, 1], benign.
        adv_images: the same shape and range.

    Returns:
        ``(B, C, H, W)`` int8, in levels of 1/255.
    """
    return ((adv_images - images) * LEVELS).round().to(torch.int8)
