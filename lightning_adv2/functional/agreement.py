"""How alike two attribution maps are, per image: every function returns ``(B,)``."""

from __future__ import annotations

import torch
from torch import Tensor

from lightning_adv2.functional.validity import is_finite


def map_l1(first: Tensor, second: Tensor) -> Tensor:
    """Mean absolute difference per pixel (paper section 4, Figure 5). ``(B, 1, h, w)`` twice -> ``(B,)`` in [0, 1]."""
    return (first - second).abs().flatten(1).mean(1)


def map_l2(first: Tensor, second: Tensor) -> Tensor:
    """Euclidean distance over the root of the pixels (Table 12). ``(B, 1, h, w)`` twice -> ``(B,)`` in [0, 1]."""
    return (first - second).square().flatten(1).mean(1).sqrt()


def map_iou(first: Tensor, second: Tensor, threshold: float = 0.5) -> Tensor:
    """Intersection over union of the two maps, each binarised at ``threshold`` (paper section 4, Figure 6).

    Two empty maps have no region to compare: the IoU is undefined (NaN), and such images are counted apart. An empty
    and a non-empty one do not agree (0).

    Args:
        first: ``(B, 1, h, w)`` in [0, 1].
        second: the same shape.
        threshold: a pixel belongs to the region when its value is at least this.

    Returns:
        ``(B,)`` in [0, 1], or NaN where both maps are empty.
    """
    a, b = (first >= threshold).flatten(1), (second >= threshold).flatten(1)
    intersection, union = (a & b).sum(1), (a | b).sum(1)
    return (intersection / union).to(first.dtype)  # 0/0 is NaN


def perturbation_norm(adv_images: Tensor, images: Tensor) -> Tensor:
    """L-infinity distance of the images themselves. ``(B, C, H, W)`` twice -> ``(B,)`` in [0, 1]."""
    return (adv_images - images).abs().flatten(1).amax(1)


def compare_maps(shown: Tensor, benign: Tensor) -> tuple[Tensor, Tensor]:
    """L1 and IoU of two maps ``(B, 1, h, w)``, each ``(B,)``; NaN where one of the two maps is not finite."""
    fine = is_finite(shown) & is_finite(benign)
    l1, iou = map_l1(shown, benign), map_iou(shown, benign)
    return torch.where(fine, l1, torch.nan), torch.where(fine, iou, torch.nan)
