"""Per-image losses: every function returns ``(B,)``; all are minimised."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from lightning_adv2.functional.classes import check_logits, class_indices, of_class


def cross_entropy(logits: Tensor, target: Tensor) -> Tensor:
    """l_prd = -log f_ct(x), per image (paper section 3.1).

    Args:
        logits: ``(B, K)``.
        target: ``(B,)`` class indices in [0, K), or ``(B, K)`` class probabilities (label smoothing).

    Returns:
        ``(B,)`` in nats, >= 0.

    Raises:
        ValueError: the logits are not ``(B, K)`` with K >= 2, or ``target`` holds no class indices.
    """
    check_logits(logits)
    target = target if target.is_floating_point() else class_indices(target, len(logits), name="target")
    return F.cross_entropy(logits, target, reduction="none")


def smoothed_target(target_class: Tensor, num_classes: int, smoothing: Tensor) -> Tensor:
    """Label smoothing (paper section 3.2): 1 - s for the target class, s spread evenly over the other classes.

    Args:
        target_class: ``(B,)`` in [0, K).
        num_classes: K >= 2.
        smoothing: ``(B,)``, s in [0, 1).

    Returns:
        ``(B, K)`` in [0, 1]; rows sum to 1.

    Raises:
        ValueError: ``target_class`` holds no class indices.
    """
    # Not F.one_hot, which reads the values and so waits for the device.
    index = class_indices(target_class, len(smoothing), name="target_class")
    one_hot = smoothing.new_zeros(len(index), num_classes).scatter(1, index[:, None], 1.0)
    s = smoothing[:, None]
    return one_hot * (1 - s) + (1 - one_hot) * s / (num_classes - 1)


def map_mse(attribution_map: Tensor, target_map: Tensor) -> Tensor:
    """l_int: mean squared difference over the map's pixels (Eqn 4, divided by the number of pixels).

    Args:
        attribution_map: ``(B, 1, h, w)`` in [0, 1].
        target_map: the same shape and range.

    Returns:
        ``(B,)`` in [0, 1].

    Raises:
        ValueError: the shapes differ.
    """
    if attribution_map.shape != target_map.shape:
        raise ValueError(
            f"target_map: its size is {tuple(target_map.shape[-2:])}, the interpreter's maps have "
            f"{tuple(attribution_map.shape[-2:])}; resize it (functional.masking.resize_map)"
        )
    return (attribution_map - target_map).square().flatten(1).mean(1)


def total_variation(mask: Tensor, power: int = 2) -> Tensor:
    """r_tv: mean difference of neighbouring pixels, raised to a power, horizontal plus vertical (Eqn 15).

    Args:
        mask: ``(B, 1, h, w)`` in [0, 1].
        power: >= 1; RTS takes the square, MASK the cube.

    Returns:
        ``(B,)`` in [0, 2].
    """
    horizontal, vertical = (mask.diff(dim=dim).abs().pow(power).flatten(1) for dim in (3, 2))
    # max(1, ...): a map of one row or column has no neighbours in that direction, and no variation
    return horizontal.sum(1) / max(1, horizontal.shape[1]) + vertical.sum(1) / max(1, vertical.shape[1])


def area(mask: Tensor, power: float = 1.0) -> Tensor:
    """r_av: mean of the mask raised to ``power``, with a finite slope at the empty mask (Eqn 15).

    Args:
        mask: ``(B, 1, h, w)`` in [0, 1].
        power: exponent in (0, 1]; RTS takes 0.3.

    Returns:
        ``(B,)``, 0 for the empty mask and about 1 for the full mask.

    Raises:
        ValueError: ``power`` is not in (0, 1].
    """
    if not 0 < power <= 1:
        raise ValueError(f"power={power}: must lie in (0, 1] (RTS takes 0.3)")
    floor = 1e-4
    mean = mask.flatten(1).mean(1)
    # mean ** 0.3 has an infinite slope at 0; shifting by the floor bounds it and keeps area(0) = 0.
    return (mean + floor) ** power - floor**power if power < 1 else mean


def preservation(logits_preserved: Tensor, class_idx: Tensor) -> Tensor:
    """-log f_c(phi(x; m)): small where the mask keeps enough for the class (Eqn 15).

    Args:
        logits_preserved: ``(B, K)`` for phi(x; m).
        class_idx: ``(B,)`` in [0, K), c.

    Returns:
        ``(B,)`` in nats, >= 0.

    Raises:
        ValueError: the logits are not ``(B, K)`` with K >= 2, or ``class_idx`` holds no class indices.
    """
    return cross_entropy(logits_preserved, class_idx)


def destruction(logits_destroyed: Tensor, class_idx: Tensor, power: float = 0.3) -> Tensor:
    """f_c(phi(x; 1 - m)) ** power: small where the class is lost without the mask's region (Eqn 15).

    Args:
        logits_destroyed: ``(B, K)`` for phi(x; 1 - m).
        class_idx: ``(B,)`` in [0, K), c.
        power: lambda_4 in (0, 1].

    Returns:
        ``(B,)`` in [0, 1].

    Raises:
        ValueError: the logits are not ``(B, K)`` with K >= 2, or ``class_idx`` holds no class indices.
    """
    check_logits(logits_destroyed)
    log_p = of_class(logits_destroyed.log_softmax(1), class_idx)
    # p ** power through its logarithm: no infinite slope where p underflows to 0.
    return torch.exp(power * log_p)
