"""Class indices: their types, the value of an image's class, and logits over at least two classes."""

from __future__ import annotations

import torch
from torch import Tensor

from lightning_adv2.types import Classes


def class_indices(
    class_idx: Classes, count: int, device: torch.device | None = None, name: str = "class_idx"
) -> Tensor:
    """Class indices as ``(count,)`` int64, from whole numbers of any type; a single class stands for every image.

    Indexing takes uint8 and bool tensors for masks, so that ``weight[class_idx]`` would silently pick other rows.

    Args:
        class_idx: ``(count,)`` whole numbers, as a tensor or a list, or one whole number for all images.
        count: number of images, B.
        device: of the result; by default that of ``class_idx``.
        name: of the caller's argument, for the error.

    Raises:
        TypeError: no numbers at all.
        ValueError: floating-point numbers, booleans, or another shape.
    """
    if isinstance(class_idx, Tensor):
        given = class_idx
    else:
        try:
            given = torch.as_tensor(class_idx)
        except (TypeError, ValueError, RuntimeError) as error:
            raise TypeError(
                f"{name}={class_idx!r}: give class indices, one for each image, or a single one for all"
            ) from error
    whole = not (given.is_floating_point() or given.is_complex() or given.dtype == torch.bool)
    if not whole or given.shape not in ((), (count,)):
        raise ValueError(
            f"{name}: expected {count} whole numbers, class indices, or a single one for all images; got "
            f"{given.dtype} {tuple(given.shape)}{_remedy(given, count, name)}"
        )
    return given.to(device=device, dtype=torch.int64).expand(count)


def _remedy(given: Tensor, count: int, name: str) -> str:
    if given.dtype == torch.bool:
        return f"; booleans are a mask: give {name}.long()"
    if given.dim() == 2 and given.shape[0] == count and given.shape[1] > 1:
        return "; of one-hot vectors or probabilities give .argmax(1)"
    if given.numel() == count and given.is_floating_point():
        return f"; give {name}.long()"
    return ""


def of_class(values: Tensor, class_idx: Classes) -> Tensor:
    """Each image's value for its class, ``(B,)``.

    Args:
        values: ``(B, K)``.
        class_idx: ``(B,)`` whole numbers in [0, K), or one for all images.

    Raises:
        TypeError: see :func:`class_indices`.
        ValueError: see :func:`class_indices`.
    """
    return values.gather(1, class_indices(class_idx, len(values), values.device)[:, None])[:, 0]


def check_logits(logits: Tensor) -> None:
    """Raise a ValueError for logits of another shape than ``(B, K)`` with K >= 2.

    The softmax of a single logit is 1 for every image: every image would count as the target class with certainty.

    Args:
        logits: the classifier's result, ``(B, K)``.

    Raises:
        ValueError: the logits have another number of dimensions, or a single class.
    """
    if logits.dim() != 2:
        raise ValueError(f"logits: expected (B, K), got {tuple(logits.shape)}; a classifier returns one row an image")
    if logits.shape[1] < 2:
        raise ValueError(
            f"logits: the classifier has {logits.shape[1]} class; a softmax needs at least 2. For a network with one "
            "logit z, return the two logits torch.cat([torch.zeros_like(z), z], 1) and set num_classes = 2"
        )
