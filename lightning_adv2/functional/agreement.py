"""Agreement of two attribution maps, per image: every function returns ``(B,)``."""

from __future__ import annotations

import torch
from torch import Tensor

from lightning_adv2.functional.validity import is_finite


def map_l1(first: Tensor, second: Tensor) -> Tensor:
    """Mean absolute difference per pixel (paper section 4, Figure 5).

    Args:
        first: ``(B, 1, h, w)`` in [0, 1].
        second: the same shape and range.

    Returns:
        ``(B,)`` in [0, 1].
    """
    return (first - second).abs().flatten(1).mean(1)


def map_l2(first: Tensor, second: Tensor) -> Tensor:
    """Euclidean distance divided by the square root of the number of pixels (paper section 4, Table 12).

    Args:
        first: ``(B, 1, h, w)`` in [0, 1].
        second: the same shape and range.

    Returns:
        ``(B,)`` in [0, 1].
    """
    return (first - second).square().flatten(1).mean(1).sqrt()


def map_iou(first: Tensor, second: Tensor, threshold: float = 0.5) -> Tensor:
    """Intersection over union of two maps, each binarised at ``threshold`` (paper section 4, Figure 6).

    Two empty maps have no region to compare: the IoU is undefined (NaN), and such images are counted apart. An empty
    map and a non-empty map do not agree (0).

    Args:
        first: ``(B, 1, h, w)`` in [0, 1].
        second: the same shape and range.
        threshold: a pixel belongs to the region when its value is at least this, in [0, 1].

    Returns:
        ``(B,)`` in [0, 1], or NaN where both maps are empty.
    """
    a, b = (first >= threshold).flatten(1), (second >= threshold).flatten(1)
    intersection, union = (a & b).sum(1), (a | b).sum(1)
    return (intersection / union).to(first.dtype)  # 0/0 is NaN


def perturbation_norm(adv_images: Tensor, images: Tensor) -> Tensor:
    """L-infinity distance of two images (the pixel attack's epsilon, paper section 3.1).

    Args:
        adv_images: ``(B, C, H, W)`` in [0, 1].
        images: the same shape and range.

    Returns:
        ``(B,)`` in [0, 1], in units of the pixel range.
    """
    return (adv_images - images).abs().flatten(1).amax(1)


def compare_maps(shown: Tensor, benign: Tensor) -> tuple[Tensor, Tensor]:
    """:func:`map_l1` and :func:`map_iou` of two maps; NaN where a map is not finite.

    Args:
        shown: ``(B, 1, h, w)`` in [0, 1].
        benign: the same shape and range.

    Returns:
        L1 ``(B,)`` in [0, 1] and IoU ``(B,)`` in [0, 1].
    """
    fine = is_finite(shown) & is_finite(benign)
    l1, iou = map_l1(shown, benign), map_iou(shown, benign)
    return torch.where(fine, l1, torch.nan), torch.where(fine, iou, torch.nan)
