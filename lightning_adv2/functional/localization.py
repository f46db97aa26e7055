"""Weakly supervised localisation: boxes from attribution maps (the paper's Table 2).

A map, enlarged to the image, becomes a box by one of three rules. Each rule cuts the map at a threshold and takes the
tightest box around the pixels that remain (Cao et al. 2015, "Look and think twice"; Fong and Vedaldi 2017; Dabkowski
and Gal 2017, section 4.2):

- ``value``: pixels of at least alpha, once the map's least and greatest value are brought to 0 and 1;
- ``energy``: the most salient pixels that together hold the share alpha of the map's sum;
- ``mean``: pixels of at least alpha times the map's mean.

Boxes are ``xmin, ymin, xmax, ymax`` in pixels of the image, 0-based and half-open: ``xmin <= x < xmax``.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import sqrt
from typing import Literal, get_args

import torch
import torchvision.ops
from torch import Tensor

Rule = Literal["value", "energy", "mean"]
"""The rule by which a map becomes a box."""

RULES: tuple[Rule, ...] = get_args(Rule)


def thresholds(attribution_map: Tensor, rule: Rule, alphas: Sequence[float]) -> Tensor:
    """The value at which a rule cuts each map (paper Table 2; see the head of this file for the rules).

    Args:
        attribution_map: ``(B, 1, H, W)``, finite and not negative.
        rule: ``value``, ``energy`` or ``mean``.
        alphas: A numbers, from 0: up to 1 for ``value`` and ``energy``, times the mean for ``mean``.

    Returns:
        ``(B, A)`` float64; a pixel belongs to the region when its value is at least this. A region is empty where no
        pixel reaches the threshold, and for ``value`` where the map is constant.

    Raises:
        ValueError: no such rule.
    """
    flat = attribution_map.flatten(1).double()  # in float32 the sum over 224 x 224 pixels is off in the sixth digit
    shares = flat.new_tensor(alphas)
    if rule == "value":
        low, high = flat.amin(1), flat.amax(1)
        cut = low[:, None] + shares * (high - low)[:, None]
        return torch.where((high > low)[:, None], cut, torch.inf)
    if rule == "mean":
        return shares * flat.mean(1, keepdim=True)
    if rule != "energy":
        raise ValueError(f"rule={rule!r}: take one of {', '.join(RULES)}")
    ordered = flat.sort(1, descending=True).values
    held = ordered.cumsum(1)
    # The first place by which so much is held; pixels that are equal to the last one count, too.
    last = torch.searchsorted(held, shares * held[:, -1:]).clamp(max=flat.shape[1] - 1)
    return ordered.gather(1, last)


def boxes_above(attribution_map: Tensor, cut: Tensor) -> Tensor:
    """The tightest box around the pixels of at least ``cut``; the whole image where there is no such pixel (Table 2).

    Args:
        attribution_map: ``(B, 1, H, W)``.
        cut: ``(B, A)``, from :func:`thresholds`.

    Returns:
        ``(B, A, 4)`` int64, ``xmin, ymin, xmax, ymax`` in pixels, half-open.
    """
    values = attribution_map[:, 0].double()
    edges = []
    for along in (1, 2):  # the greatest value of each column tells the box's left and right, of each row top and bottom
        present = values.amax(along)[:, None, :] >= cut[:, :, None]
        size = present.shape[-1]
        present |= ~present.any(-1, keepdim=True)
        first = present.int().argmax(-1)  # argmax takes the first of equals
        edges.append((first, size - present.flip(-1).int().argmax(-1)))
    (left, right), (top, bottom) = edges
    return torch.stack([left, top, right, bottom], dim=-1)


def mask_boxes(mask: Tensor) -> Tensor:
    """The tightest box of each mask; the whole image for an empty mask.

    Args:
        mask: ``(B, 1, H, W)`` bool.

    Returns:
        ``(B, 4)`` int64, ``xmin, ymin, xmax, ymax`` in pixels, half-open.
    """
    return boxes_above(mask, mask.new_ones(len(mask), 1, dtype=torch.float64))[:, 0]


def boxes_to_masks(boxes: Tensor, size: Sequence[int]) -> Tensor:
    """The union of each image's boxes: the pixels whose centres lie inside a box.

    Args:
        boxes: ``(B, M, 4)``, ``xmin, ymin, xmax, ymax`` in pixels, half-open.
        size: H, W of the images in pixels.

    Returns:
        ``(B, 1, H, W)`` bool.
    """
    height, width = size
    x = torch.arange(width, device=boxes.device) + 0.5
    y = torch.arange(height, device=boxes.device) + 0.5
    left, top, right, bottom = (edge[..., None] for edge in boxes.unbind(-1))
    across, down = (left <= x) & (x < right), (top <= y) & (y < bottom)
    return (down[..., :, None] & across[..., None, :]).any(1, keepdim=True)


def best_iou(boxes: Tensor, true_boxes: Tensor) -> Tensor:
    """IoU of each box with the best fitting one of its image's true boxes (the criterion of Table 2 is IoU > 0.5).

    Args:
        boxes: ``(B, A, 4)``, ``xmin, ymin, xmax, ymax`` in pixels.
        true_boxes: ``(B, M, 4)``; a box without area, which fills up a batch, fits no box.

    Returns:
        ``(B, A)`` float64 in [0, 1].
    """
    pairs = zip(boxes.double(), true_boxes.double(), strict=True)
    values = [torchvision.ops.box_iou(found, true).amax(1) for found, true in pairs]
    return torch.stack(values) if values else boxes.new_zeros(boxes.shape[:2], dtype=torch.float64)


def region_iou(attribution_map: Tensor, cut: Tensor, mask: Tensor) -> Tensor:
    """IoU of the pixels of at least ``cut`` with the object's pixels, without boxes.

    Where no pixel reaches ``cut`` the region is the whole image.

    Args:
        attribution_map: ``(B, 1, H, W)``.
        cut: ``(B, A)``, from :func:`thresholds`.
        mask: ``(B, 1, H, W)`` bool, not empty.

    Returns:
        ``(B, A)`` float64 in [0, 1].
    """
    values, inside = attribution_map.flatten(1).double(), mask.flatten(1)
    columns = []
    for level in cut.unbind(1):
        region = values >= level[:, None]
        region |= ~region.any(1, keepdim=True)
        columns.append((region & inside).sum(1).double() / (region | inside).sum(1))
    return torch.stack(columns, dim=1)


def pointing_game(attribution_map: Tensor, mask: Tensor) -> Tensor:
    """Whether the map's greatest value lies on the object (Zhang et al. 2016); of equal values the first, row by row.

    A constant map points nowhere.

    Args:
        attribution_map: ``(B, 1, H, W)``.
        mask: ``(B, 1, H, W)`` bool, the object's pixels.

    Returns:
        ``(B,)`` bool.
    """
    flat = attribution_map.flatten(1)
    hit = mask.flatten(1).gather(1, flat.argmax(1, keepdim=True))[:, 0]
    return hit & (flat.amax(1) > flat.amin(1))


def energy_inside(attribution_map: Tensor, mask: Tensor) -> Tensor:
    """Share of the map's sum that lies on the object (Wang et al. 2020, the energy-based pointing game).

    Args:
        attribution_map: ``(B, 1, H, W)``, not negative.
        mask: ``(B, 1, H, W)`` bool, the object's pixels.

    Returns:
        ``(B,)`` float64 in [0, 1]; 0 for a map that is 0 everywhere.
    """
    flat = attribution_map.flatten(1).double()
    total = flat.sum(1)
    held = (flat * mask.flatten(1)).sum(1)
    return torch.where(total > 0, held / total.where(total > 0, torch.ones_like(total)), 0.0)


def central_box(size: Sequence[int]) -> tuple[float, float, float, float]:
    """The box in the middle of an image with half of its area and the same proportions: a baseline for Table 2.

    Args:
        size: H, W of the image in pixels.

    Returns:
        ``xmin, ymin, xmax, ymax`` in pixels.
    """
    height, width = size
    margin = (1 - sqrt(0.5)) / 2
    return margin * width, margin * height, (1 - margin) * width, (1 - margin) * height
