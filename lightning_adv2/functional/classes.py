"""Class indices: what counts as one, and the value that belongs to one."""

from __future__ import annotations

import torch
from torch import Tensor

from lightning_adv2.types import Classes


def class_indices(target_class: Classes, count: int, device: torch.device | None = None) -> Tensor:
    """Class indices as ``(count,)`` int64, from whole numbers of any type; a single class stands for every image.

    Indexing takes uint8 and bool tensors for masks, so that ``weight[target_class]`` would silently pick other rows.

    Args:
        target_class: ``(count,)`` whole numbers, as a tensor or a list, or one whole number for all images.
        count: number of images, B.
        device: where the result lies; by default where ``target_class`` lies.

    Raises:
        TypeError: no numbers at all.
        ValueError: floating-point numbers, booleans, or another shape.
    """
    if isinstance(target_class, Tensor):
        given = target_class
    else:
        try:
            given = torch.as_tensor(target_class)
        except (TypeError, ValueError, RuntimeError) as error:
            raise TypeError(
                f"target_class={target_class!r}: give class indices, one for each image, or a single one for all"
            ) from error
    whole = not (given.is_floating_point() or given.is_complex() or given.dtype == torch.bool)
    if not whole or given.shape not in ((), (count,)):
        raise ValueError(
            f"target_class: expected {count} whole numbers, class indices, or a single one for all images; got "
            f"{given.dtype} {tuple(given.shape)}{_remedy(given, count)}"
        )
    return given.to(device=device, dtype=torch.int64).expand(count)


def _remedy(given: Tensor, count: int) -> str:
    if given.dtype == torch.bool:
        return "; booleans are a mask: give target_class.long()"
    if given.dim() == 2 and given.shape[0] == count and given.shape[1] > 1:
        return "; of one-hot vectors or probabilities give .argmax(1)"
    if given.numel() == count and given.is_floating_point():
        return "; give target_class.long()"
    return ""


def of_class(values: Tensor, target_class: Classes) -> Tensor:
    """Each image's value for its class: ``(B, K)`` and ``(B,)`` -> ``(B,)``."""
    return values.gather(1, class_indices(target_class, len(values), values.device)[:, None])[:, 0]


def check_logits(logits: Tensor) -> None:
    """Raise a ValueError for logits that are not ``(B, K)`` with K >= 2.

    The softmax of a single logit is 1 whatever the image: every image would count as the target class with certainty.
    """
    if logits.dim() != 2:
        raise ValueError(f"logits: expected (B, K), got {tuple(logits.shape)}; a classifier returns one row an image")
    if logits.shape[1] < 2:
        raise ValueError(
            f"logits: the classifier has {logits.shape[1]} class; a softmax needs at least 2. For a network with one "
            "logit z, return the two logits torch.cat([torch.zeros_like(z), z], 1) and set num_classes = 2"
        )
