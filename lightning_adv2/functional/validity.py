"""Why an image cannot be attacked: what never counts as robust, in short fixed words."""

from __future__ import annotations

import torch
from torch import Tensor


def is_finite(values: Tensor) -> Tensor:
    """Neither NaN nor infinity in a row. ``(B, ...)`` -> ``(B,)`` bool."""
    return values.flatten(1).isfinite().all(1)


def first_reason(reasons: dict[str, Tensor]) -> list[str]:
    """For each of B images the first reason that holds, or an empty string.

    Args:
        reasons: reason -> ``(B,)`` bool, where it holds.
    """
    rows = torch.stack(list(reasons.values()), dim=1).tolist()
    return [next((name for name, holds in zip(reasons, row, strict=True) if holds), "") for row in rows]


def unfit_images(images: Tensor, logits: Tensor) -> list[str]:
    """Why the classifier's answer says nothing: images ``(B, C, H, W)``, logits ``(B, K)`` -> B reasons or ``""``."""
    found = {"image not finite": ~is_finite(images).to(logits.device), "logits not finite": ~is_finite(logits)}
    return first_reason(found)


def unfit_maps(benign_map: Tensor, target_map: Tensor) -> list[str]:
    """Why agreement with a map says nothing: two ``(B, 1, h, w)`` -> B reasons or ``""``.

    A benign map that has one value everywhere explains nothing, so that there is nothing to agree with.
    """
    flat = benign_map.flatten(1)
    found = {
        "benign map not finite": ~is_finite(benign_map),
        "constant benign map": flat.amax(1) == flat.amin(1),
        "target map not finite": ~is_finite(target_map),
    }
    return first_reason(found)
