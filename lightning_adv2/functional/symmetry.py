"""The eight symmetries of a square (the dihedral group D4), for images without a preferred orientation."""

from __future__ import annotations

import torch
from torch import Tensor


def apply_dihedral(images: Tensor, symmetry: Tensor) -> Tensor:
    """Square images mirrored and rotated by multiples of 90 degrees, each image by its own symmetry.

    Args:
        images: ``(B, C, S, S)``.
        symmetry: ``(B,)`` whole numbers in [0, 8); 0 is the identity. Bit 0 mirrors top and bottom, bit 1 left and
            right, then bit 2 swaps rows and columns.

    Returns:
        ``(B, C, S, S)``, the same values in other positions.

    Raises:
        ValueError: the images are not square.
    """
    if images.shape[-1] != images.shape[-2]:
        raise ValueError(
            f"images={tuple(images.shape)}: only square images can be rotated by 90 degrees; set the data module's crop"
        )
    bits = symmetry.to(images.device).view(-1, 1, 1, 1)
    images = torch.where((bits & 1).bool(), images.flip(2), images)
    images = torch.where((bits & 2).bool(), images.flip(3), images)
    return torch.where((bits & 4).bool(), images.transpose(2, 3), images)
