"""Reasons why an image cannot be attacked, in short fixed words; an image with a reason never counts as robust."""

from __future__ import annotations

import torch
from torch import Tensor


def is_finite(values: Tensor) -> Tensor:
    """Whether a row holds neither NaN nor infinity.

    Args:
        values: ``(B, ...)``.

    Returns:
        ``(B,)`` bool.
    """
    return values.flatten(1).isfinite().all(1)


def first_reason(reasons: dict[str, Tensor]) -> list[str]:
    """For each of B images the first reason that holds, or an empty string.

    Args:
        reasons: reason -> ``(B,)`` bool, where it holds; at least one.
    """
    rows = torch.stack(list(reasons.values()), dim=1).tolist()
    return [next((name for name, holds in zip(reasons, row, strict=True) if holds), "") for row in rows]


def unfit_images(images: Tensor, logits: Tensor) -> list[str]:
    """For each of B images the reason why the classifier's answer is void, or an empty string.

    Args:
        images: ``(B, C, H, W)``.
        logits: ``(B, K)``.
    """
    found = {"image not finite": ~is_finite(images).to(logits.device), "logits not finite": ~is_finite(logits)}
    return first_reason(found)


def unfit_maps(benign_map: Tensor, target_map: Tensor) -> list[str]:
    """For each of B images the reason why agreement with a map is void, or an empty string.

    A benign map with one value everywhere explains nothing, so that no map can agree with it.

    Args:
        benign_map: ``(B, 1, h, w)`` in [0, 1].
        target_map: the same shape and range.
    """
    flat = benign_map.flatten(1)
    found = {
        "benign map not finite": ~is_finite(benign_map),
        "constant benign map": flat.amax(1) == flat.amin(1),
        "target map not finite": ~is_finite(target_map),
    }
    return first_reason(found)
