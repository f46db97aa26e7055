"""How far one map is from another."""

from __future__ import annotations

import torch
from torch import Tensor

from lightning_adv2.functional.agreement import map_iou, map_l1
from lightning_adv2.functional.validity import is_finite


def compare_maps(shown: Tensor, benign: Tensor) -> tuple[Tensor, Tensor]:
    """L1 and IoU of two maps ``(B, 1, h, w)``, each ``(B,)``; NaN where one of the two maps is not finite."""
    fine = is_finite(shown) & is_finite(benign)
    l1, iou = map_l1(shown, benign), map_iou(shown, benign)
    return torch.where(fine, l1, torch.nan), torch.where(fine, iou, torch.nan)
