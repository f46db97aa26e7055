"""Whether an attribution map means something: what the classifier makes of the parts that it keeps or removes."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from lightning_adv2.functional.classes import check_logits, of_class
from lightning_adv2.functional.masking import blend, resize_map


def class_probability(classifier: Callable[[Tensor], Tensor], images: Tensor, class_idx: Tensor) -> Tensor:
    """f_c(x): ``(B, C, H, W)`` and ``(B,)`` -> ``(B,)`` in [0, 1].

    Raises:
        ValueError: the classifier's logits are not ``(B, K)`` with K >= 2.
    """
    logits = classifier(images)
    check_logits(logits)
    return of_class(logits.softmax(1), class_idx)


def preserved_destroyed(
    classifier: Callable[[Tensor], Tensor], images: Tensor, background: Tensor, mask: Tensor, class_idx: Tensor
) -> tuple[Tensor, Tensor]:
    """f_c of what the mask keeps, phi(x; m), and of what is left without it, phi(x; 1 - m) (Eqn 15).

    Args:
        classifier: images -> logits.
        images: ``(B, C, H, W)`` in [0, 1].
        background: what replaces the image, the same shape.
        mask: ``(B, 1, h, w)`` in [0, 1].
        class_idx: ``(B,)``.

    Returns:
        Two ``(B,)`` in [0, 1].
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
        classifier: images -> logits.
        images: ``(B, C, H, W)`` in [0, 1].
        background: what replaces a pixel, the same shape.
        attribution_map: ``(B, 1, h, w)``; enlarged to the image bilinearly; ties broken by position.
        class_idx: ``(B,)``.
        steps: number of equal portions of the pixels.

    Returns:
        Deletion (lower is better) and insertion (higher is better), each ``(B,)`` in [0, 1].
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
