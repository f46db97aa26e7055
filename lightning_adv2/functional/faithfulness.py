"""Faithfulness of a map: the classifier's probability on the parts that a map keeps or removes."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from lightning_adv2.functional.classes import check_logits, of_class
from lightning_adv2.functional.masking import blend, resize_map


def class_probability(classifier: Callable[[Tensor], Tensor], images: Tensor, class_idx: Tensor) -> Tensor:
    """f_c(x), the probability of a class (paper section 3.1).

    Args:
        classifier: images -> logits ``(B, K)``, K >= 2.
        images: ``(B, C, H, W)`` in [0, 1].
        class_idx: ``(B,)`` in [0, K), c.

    Returns:
        ``(B,)`` in [0, 1].

    Raises:
        ValueError: the classifier's logits are not ``(B, K)`` with K >= 2.
    """
    logits = classifier(images)
    check_logits(logits)
    return of_class(logits.softmax(1), class_idx)


def preserved_destroyed(
    classifier: Callable[[Tensor], Tensor], images: Tensor, background: Tensor, mask: Tensor, class_idx: Tensor
) -> tuple[Tensor, Tensor]:
    """f_c(phi(x; m)) and f_c(phi(x; 1 - m)): the class with the mask's region kept, and with it removed (Eqn 15).

    Args:
        classifier: images ``(B, C, H, W)`` -> logits ``(B, K)``.
        images: ``(B, C, H, W)`` in [0, 1].
        background: stands where the mask is 0, the same shape.
        mask: ``(B, 1, h, w)`` in [0, 1].
        class_idx: ``(B,)`` in [0, K).

    Returns:
        Two ``(B,)`` in [0, 1].

    Raises:
        ValueError: the classifier's logits are not ``(B, K)`` with K >= 2.
    """
    kept = class_probability(classifier, blend(images, background, mask), class_idx)
    removed = class_probability(classifier, blend(images, background, 1 - mask), class_idx)
    return kept, removed


def deletion_insertion(
    classifier: Callable[[Tensor], Tensor],
    images: Tensor,
    background: Tensor,
    attribution_map: Tensor,
    class_idx: Tensor,
    steps: int = 16,
) -> tuple[Tensor, Tensor]:
    """Areas under the class probability while pixels leave or enter in the map's order (RISE, Petsiuk et al. 2018).

    Args:
        classifier: images ``(B, C, H, W)`` -> logits ``(B, K)``.
        images: ``(B, C, H, W)`` in [0, 1].
        background: replaces the pixels that have left, the same shape.
        attribution_map: ``(B, 1, h, w)``; enlarged to the image bilinearly; ties are broken by position.
        class_idx: ``(B,)`` in [0, K).
        steps: number of equal portions of the pixels, at least 1; costs 2 (steps + 1) forward passes.

    Returns:
        Deletion (lower is better) and insertion (higher is better), each ``(B,)`` in [0, 1].

    Raises:
        ValueError: the classifier's logits are not ``(B, K)`` with K >= 2.
    """
    order = resize_map(attribution_map, images.shape[-2:]).flatten(1).argsort(dim=1, descending=True, stable=True)
    # rank[p]: how many pixels are more important than p, as a share
    rank = torch.empty_like(order).scatter_(
        1, order, torch.arange(order.shape[1], device=order.device).expand_as(order)
    )
    rank = (rank / order.shape[1]).view(len(images), 1, *images.shape[-2:])
    deletion, insertion = [], []
    for k in range(steps + 1):
        top = (rank < k / steps).to(images.dtype)
        deletion.append(class_probability(classifier, blend(images, background, 1 - top), class_idx))
        insertion.append(class_probability(classifier, blend(images, background, top), class_idx))
    width = 1 / steps
    return torch.trapezoid(torch.stack(deletion), dx=width, dim=0), torch.trapezoid(
        torch.stack(insertion), dx=width, dim=0
    )
