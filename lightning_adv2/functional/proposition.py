"""Proposition 1 of the paper: the attack's gain in the prediction is at most the L1 norm of the difference map."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal, NamedTuple

import torch
from torch import Tensor

from lightning_adv2.functional.attribution import integrated_gradients
from lightning_adv2.functional.faithfulness import class_probability

Verdict = Literal["held", "violated", "unresolved"]


class Bound(NamedTuple):
    """Both sides of the proposition for B images, each ``(B,)`` float64.

    Attributes:
        gain: f_ct(x*) - f_ct(x0), the paper's prediction loss (eq. 12).
        total: the sum of the difference map, which the integral makes equal to ``gain``.
        l1: the sum of its absolute values, the paper's interpretation loss.
    """

    gain: Tensor
    total: Tensor
    l1: Tensor


def difference_map(
    classify: Callable[[Tensor], Tensor], images: Tensor, adv_images: Tensor, target_class: Tensor, *, steps: int
) -> Tensor:
    """Integrated Gradients of the target class's probability, from the benign image to the attacked image (Eqn 13).

    Args:
        classify: images ``(B, C, H, W)`` -> logits ``(B, K)``.
        images: ``(B, C, H, W)``, x0.
        adv_images: ``(B, C, H, W)``, x*.
        target_class: ``(B,)`` in [0, K), c_t.
        steps: points of the Gauss-Legendre quadrature, at least 1.

    Returns:
        ``(B, C, H, W)``, signed, in probability: the contribution of each value to f_ct(x*) - f_ct(x0).

    Raises:
        ValueError: ``steps`` below 1.
    """

    def probabilities(points: Tensor) -> Tensor:
        return classify(points).softmax(1)

    return integrated_gradients(probabilities, adv_images, target_class, steps=steps, baseline=images)


def prediction_bound(
    classify: Callable[[Tensor], Tensor], images: Tensor, adv_images: Tensor, target_class: Tensor, *, steps: int
) -> Bound:
    """Both sides of Proposition 1 (section 5.3): f_ct(x*) - f_ct(x0) = sum of the difference map <= its L1 norm.

    Args:
        classify: images ``(B, C, H, W)`` -> logits ``(B, K)``.
        images: ``(B, C, H, W)``, x0.
        adv_images: ``(B, C, H, W)``, x*.
        target_class: ``(B,)`` in [0, K), c_t.
        steps: points of the Gauss-Legendre quadrature, at least 1.

    Returns:
        The gain, the sum and the L1 norm, each ``(B,)`` float64, in probability.

    Raises:
        ValueError: ``steps`` below 1, or logits that are not ``(B, K)`` with K >= 2.
    """
    with torch.no_grad():
        before, after = (class_probability(classify, shown, target_class).double() for shown in (images, adv_images))
    moved = difference_map(classify, images, adv_images, target_class, steps=steps).double().flatten(1)
    return Bound(after - before, moved.sum(1), moved.abs().sum(1))


def judge_bound(gain: float, total: float, l1: float, tolerance: float) -> Verdict:
    """Verdict on Proposition 1 (section 5.3) for one image, up to ``tolerance``.

    Args:
        gain: f_ct(x*) - f_ct(x0), in [-1, 1].
        total: sum of the difference map, in probability.
        l1: sum of its absolute values, >= 0.
        tolerance: in probability.

    Returns:
        ``held``; ``violated`` where the gain exceeds the L1 norm (the quadrature is too coarse, the gradient is wrong,
        or f jumps, for no sum exceeds the sum of absolute values); ``unresolved`` where the gain does not exceed the L1
        norm but the difference map does not add up to the gain, and for NaN.
    """
    if gain > l1 + tolerance:
        return "violated"
    return "held" if abs(gain - total) <= tolerance and l1 >= 0 else "unresolved"
