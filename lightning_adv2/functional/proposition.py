"""The paper's proposition 1: what an attack gains in the prediction, the difference of the maps has to show."""

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
    """Integrated Gradients of the target class's probability, from the benign image to the attacked one (eq. 13).

    Args:
        classify: images ``(B, C, H, W)`` -> logits ``(B, K)``.
        images: ``(B, C, H, W)``, x0.
        adv_images: ``(B, C, H, W)``, x*.
        target_class: ``(B,)``, c_t.
        steps: points of the Gauss-Legendre quadrature, at least 1.

    Returns:
        ``(B, C, H, W)``, signed: what each value of the image adds to f_ct(x*) - f_ct(x0).
    """

    def probabilities(points: Tensor) -> Tensor:
        return classify(points).softmax(1)

    return integrated_gradients(probabilities, adv_images, target_class, steps=steps, baseline=images)


def prediction_bound(
    classify: Callable[[Tensor], Tensor], images: Tensor, adv_images: Tensor, target_class: Tensor, *, steps: int
) -> Bound:
    """Both sides of proposition 1 (section 5.3): f_ct(x*) - f_ct(x0) = sum of the difference map <= its L1 norm.

    See :func:`difference_map` for the arguments.
    """
    with torch.no_grad():
        before, after = (class_probability(classify, shown, target_class).double() for shown in (images, adv_images))
    moved = difference_map(classify, images, adv_images, target_class, steps=steps).double().flatten(1)
    return Bound(after - before, moved.sum(1), moved.abs().sum(1))


def judge_bound(gain: float, total: float, l1: float, tolerance: float) -> Verdict:
    """Whether the proposition holds for one image, up to ``tolerance`` in probability.

    ``violated``: the gain is above the L1 norm. No sum exceeds the sum of absolute values, so that then the map does
    not add up to the gain either: the quadrature is too coarse, the gradient is wrong, or f jumps. ``unresolved``: the
    gain is below, but the map misses it, so that this says nothing; NaN is of this kind.
    """
    if gain > l1 + tolerance:
        return "violated"
    return "held" if abs(gain - total) <= tolerance and l1 >= 0 else "unresolved"
