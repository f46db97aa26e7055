"""Types that every layer shares. B batch, C channels, H x W image size, K classes, h x w map size."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, NotRequired, TypeAlias, TypedDict

from torch import Tensor

State: TypeAlias = Any
"""An interpreter's or optimiser's state: a (nested) tuple of tensors, every leaf with B first."""


Classes: TypeAlias = Tensor | int | Sequence[int]
"""Class indices of B images: whole numbers of any type, as a tensor or a list, or a single one for all images."""


class Batch(TypedDict):
    """The batch that every dataloader of this package yields.

    Attributes:
        images: ``(B, C, H, W)`` float32 in [0, 1], exactly ``k / 255`` for whole ``k``.
        label: ``(B,)`` int64, the true class.
        image_id: B strings, unique within the dataset; with the seed they fix all random numbers of an image.
        mask: ``(B, 1, H, W)`` bool, the object's pixels, where the dataset has exact masks.
        boxes: ``(B, M, 4)`` float32, the object's boxes ``xmin, ymin, xmax, ymax`` in pixels, half-open, where the
            dataset has boxes; M is the same for all its images, and rows of zeros fill up.
        target_class: ``(B,)`` int64, the class that the attack aims at, where a manifest fixed it.
        other_images: ``(B, C, H, W)`` like ``images``, for each image another image that does not show its target
            class; where the data module was asked for partners.
        other_label: ``(B,)`` int64, their true classes.
        skipped: identifier and reason of the images of this batch that cannot be read.
    """

    images: Tensor
    label: Tensor
    image_id: list[str]
    mask: NotRequired[Tensor]
    boxes: NotRequired[Tensor]
    target_class: NotRequired[Tensor]
    other_images: NotRequired[Tensor]
    other_label: NotRequired[Tensor]
    skipped: NotRequired[dict[str, str]]


@dataclass
class Interpretation:
    """A classifier's decision and its explanation, from one forward pass.

    Attributes:
        logits: ``(B, K)``, of the classifier.
        attribution_map: ``(B, 1, h, w)`` in [0, 1].
        aux: further results of the interpreter by name (RTS: ``encoder_logits`` ``(B, K)``).
        state: the interpreter's state after this call; ``()`` unless the interpreter is iterative.
    """

    logits: Tensor
    attribution_map: Tensor
    aux: dict[str, Tensor] = field(default_factory=dict)
    state: State = ()


def without_map(logits: Tensor) -> Interpretation:
    """A decision without an explanation, for attacks on the classifier alone.

    Args:
        logits: ``(B, K)``.

    Returns:
        The logits with an empty map ``(B, 1, 0, 0)``.
    """
    return Interpretation(logits, logits.new_zeros(len(logits), 1, 0, 0))
