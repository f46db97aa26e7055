"""Localisation error of an interpreter's maps (paper Table 2), with alpha chosen on other images than are reported."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor

from lightning_adv2.functional.bootstrap import bootstrap_interval, share_interval
from lightning_adv2.functional.localization import (
    Rule,
    best_iou,
    boxes_above,
    boxes_to_masks,
    central_box,
    energy_inside,
    mask_boxes,
    pointing_game,
    region_iou,
    thresholds,
)
from lightning_adv2.functional.masking import resize_map

REQUIRED_IOU = 0.5
"""A box counts when its IoU with one of the object's boxes is above this."""

ALPHAS: dict[Rule, tuple[float, ...]] = {
    "value": tuple(i / 20 for i in range(1, 20)),
    "energy": tuple(i / 20 for i in range(1, 20)),
    "mean": tuple(i / 2 for i in range(1, 21)),
}
"""The alphas to choose from (Fong and Vedaldi 2017, section 5)."""

CANDIDATES: tuple[tuple[Rule, float], ...] = tuple((rule, alpha) for rule, values in ALPHAS.items() for alpha in values)
"""Every rule with every alpha, in the order of the second axis of :class:`Located`."""


@dataclass(frozen=True)
class Located:
    """The localisation of n images of one batch by one interpreter's maps, for A candidates of rule and alpha.

    Attributes:
        batch_index: the batch's index in the manifest.
        image_id: n identifiers.
        true_boxes: ``(n, M, 4)`` in pixels; boxes without area fill up.
        boxes: ``(n, A, 4)`` int16 in pixels.
        iou: ``(n, A)`` in [0, 1], of each box with the best true box; NaN where the map is not finite.
        mask_iou: ``(n, A)`` in [0, 1], of the region itself with the object's exact mask, where there is one.
        pointing: ``(n,)`` bool, whether the map's maximum lies on the object.
        energy: ``(n,)`` in [0, 1], the share of the map's sum on the object.
    """

    batch_index: int
    image_id: list[str]
    true_boxes: Tensor
    boxes: Tensor
    iou: Tensor
    mask_iou: Tensor | None
    pointing: Tensor
    energy: Tensor


class Object(NamedTuple):
    """The position of the object in each of B images.

    Attributes:
        boxes: ``(B, M, 4)`` in pixels; boxes without area fill up.
        mask: ``(B, 1, H, W)`` bool; the union of the boxes where no exact mask is known.
        exact: whether ``mask`` is exact.
    """

    boxes: Tensor
    mask: Tensor
    exact: bool

    @classmethod
    def of(cls, mask: Tensor | None, boxes: Tensor | None, size: Sequence[int]) -> Object:
        """The objects of a batch: its boxes where they are known, else the mask's tightest box.

        Args:
            mask: ``(B, 1, H, W)`` bool, or None.
            boxes: ``(B, M, 4)`` in pixels, or None; of the two, one at least.
            size: H, W of the images in pixels.
        """
        if boxes is not None:
            return cls(boxes, boxes_to_masks(boxes, size), exact=False)
        assert mask is not None  # the caller saw to it
        found = mask_boxes(mask) * mask.flatten(1).any(1)[:, None]
        return cls(found[:, None], mask, exact=True)

    @property
    def largest(self) -> Tensor:
        """The greatest share of the image that a box takes, ``(B,)`` in [0, 1]; 0 where an image has no box."""
        width, height = (self.boxes[..., 2:] - self.boxes[..., :2]).clamp(min=0).unbind(-1)
        return (width * height).amax(1) / (self.mask.shape[-1] * self.mask.shape[-2])

    def only(self, keep: Tensor) -> Object:
        """The objects of some images.

        Args:
            keep: ``(b,)`` indices, or ``(B,)`` bool.
        """
        return Object(self.boxes[keep], self.mask[keep], self.exact)


def locate(attribution_map: Tensor, found: Object, image_id: list[str], batch_index: int) -> Located:
    """The boxes and IoUs of every candidate of rule and alpha on each map (paper Table 2).

    Args:
        attribution_map: ``(B, 1, h, w)`` in [0, 1]; enlarged to the image bilinearly.
        found: the objects of the B images.
        image_id: B identifiers.
        batch_index: the batch's index in the manifest.
    """
    shown = resize_map(attribution_map.float(), found.mask.shape[-2:])
    finite = shown.flatten(1).isfinite().all(1)
    shown = shown.where(finite.view(-1, 1, 1, 1), torch.zeros_like(shown))
    cut = torch.cat([thresholds(shown, rule, alphas) for rule, alphas in ALPHAS.items()], dim=1)
    boxes = boxes_above(shown, cut)
    iou = best_iou(boxes, found.boxes)
    iou[~finite] = math.nan
    mask_iou = region_iou(shown, cut, found.mask).cpu() if found.exact else None
    pointing, energy = pointing_game(shown, found.mask), energy_inside(shown, found.mask)
    rest = (boxes.short().cpu(), iou.cpu(), mask_iou, pointing.cpu(), energy.cpu())
    return Located(batch_index, image_id, found.boxes.cpu(), *rest)


def calibrates(image_id: str, share: float = 0.5) -> bool:
    """Whether an image is one of those that alpha is chosen on; depends on its name alone.

    Args:
        image_id: the image's identifier.
        share: of all images, in [0, 1].
    """
    return int(hashlib.sha256(f"localization/{image_id}".encode()).hexdigest(), 16) < share * 2**256


class Image(NamedTuple):
    """One image under one interpreter, from a :class:`Located`.

    Attributes:
        batch_index: the batch's index in the manifest.
        row: the image's index in the batch.
        image_id: its identifier.
        true_boxes: ``xmin, ymin, xmax, ymax`` in pixels, each with an area.
        boxes: ``(A, 4)`` int16 in pixels.
        iou: ``(A,)`` in [0, 1] or NaN.
        mask_iou: ``(A,)`` in [0, 1], or None.
        pointing: whether the map's maximum lies on the object.
        energy: the share of the map's sum on the object, in [0, 1].
    """

    batch_index: int
    row: int
    image_id: str
    true_boxes: list[list[float]]
    boxes: Tensor
    iou: Tensor
    mask_iou: Tensor | None
    pointing: bool
    energy: float


def images_of(parts: Iterable[Located]) -> list[Image]:
    """The images of all batches in the manifest's order, whatever the order of the parts; duplicates count once.

    Args:
        parts: of one interpreter.
    """
    found: dict[str, Image] = {}
    for part in sorted(parts, key=lambda part: part.batch_index):
        for i, name in enumerate(part.image_id):
            true = [box for box in part.true_boxes[i].tolist() if box[0] < box[2] and box[1] < box[3]]
            mask_iou = None if part.mask_iou is None else part.mask_iou[i]
            values = part.boxes[i], part.iou[i], mask_iou, bool(part.pointing[i]), float(part.energy[i])
            found.setdefault(name, Image(part.batch_index, i, name, true, *values))
    return list(found.values())


class Choice(NamedTuple):
    """The choice of a candidate on the calibration images.

    Attributes:
        best: the index of the best candidate.
        errors: the localisation error of each candidate, in [0, 1].
    """

    best: int
    errors: list[float]


def choose(images: Sequence[Image], candidates: Sequence[int] | None = None) -> Choice | None:
    """The candidate with the least localisation error; of equals the one with the higher mean IoU, then the first.

    Args:
        images: of the calibration part, with finite maps.
        candidates: the indices to choose from; None takes all.

    Returns:
        None where there are no images.
    """
    if not images:
        return None
    iou = torch.stack([image.iou for image in images])
    errors, means = (iou <= REQUIRED_IOU).double().mean(0).tolist(), iou.mean(0).tolist()
    numbers = range(len(errors)) if candidates is None else candidates
    return Choice(min(numbers, key=lambda i: (errors[i], -means[i], i)), errors)


def evaluate(images: Sequence[Image], share: float = 0.5) -> tuple[dict[str, Any], int | None]:
    """One interpreter's row, and the index of its candidate; a pure function of its images (paper Table 2).

    Args:
        images: all of them, from :func:`images_of`.
        share: of the images, to choose rule and alpha on; nothing in the row but ``calibration_*`` and ``rules``'
            ``calibration_error`` comes from them.

    Returns:
        ``n`` reported images, ``invalid`` whose map is not finite (in both parts); ``error`` in [0, 1] with
        ``error_low`` and ``error_high`` (95% bootstrap interval; Wilson's where all or none are missed), ``iou``
        (mean), ``mask_iou``, ``pointing``, ``energy_inside``; the chosen ``rule`` and ``alpha``, ``calibration_n``,
        ``calibration_error``; ``rules``: for each rule its own best ``alpha`` and ``error``. None where there is
        nothing to choose on or to report.
    """
    fine = [image for image in images if bool(image.iou.isfinite().all())]
    held_out = [image for image in fine if calibrates(image.image_id, share)]
    reported = [image for image in fine if not calibrates(image.image_id, share)]
    choice = choose(held_out)
    best = None if choice is None else choice.best
    row: dict[str, Any] = {"n": len(reported), "invalid": len(images) - len(fine)}
    row |= _scores([float(image.iou[best]) for image in reported] if best is not None else [])
    exact = [float(image.mask_iou[best]) for image in reported if best is not None and image.mask_iou is not None]
    row |= {"mask_iou": _mean(exact)}
    row |= {
        "pointing": _mean([float(i.pointing) for i in reported]),
        "energy_inside": _mean([i.energy for i in reported]),
    }
    rule, alpha = (None, None) if best is None else CANDIDATES[best]
    row |= {"rule": rule, "alpha": alpha, "calibration_n": len(held_out)}
    row |= {"calibration_error": choice and choice.errors[choice.best], "rules": {}}
    for rule in ALPHAS if choice is not None else ():
        own = choose(held_out, [i for i, (name, _) in enumerate(CANDIDATES) if name == rule])
        assert own is not None
        error = _scores([float(image.iou[own.best]) for image in reported])["error"]
        row["rules"][rule] = {
            "alpha": CANDIDATES[own.best][1], "calibration_error": own.errors[own.best], "error": error,
        }  # fmt: skip
    return row, best


def baselines(images: Sequence[Image], size: Sequence[int], share: float = 0.5) -> dict[str, dict[str, Any]]:
    """The scores of boxes that no map made, on the reported images: the whole image, and half of it in the middle.

    Args:
        images: all of them, from :func:`images_of`.
        size: H, W of the images in pixels.
        share: of the images that alpha is chosen on, in [0, 1]; these are not reported.

    Returns:
        ``n``, ``error``, ``error_low``, ``error_high`` and ``iou``, each in [0, 1], by the baseline's name.
    """
    height, width = size
    boxes = {"whole image": (0.0, 0.0, float(width), float(height)), "central box": central_box(size)}
    reported = [image for image in images if not calibrates(image.image_id, share)]
    rows = {}
    for name, box in boxes.items():
        given = torch.tensor([[box]])
        iou = [float(best_iou(given, torch.tensor([image.true_boxes]))) for image in reported]
        rows[name] = {"n": len(reported), **_scores(iou)}
    return rows


def _scores(iou: Sequence[float]) -> dict[str, float | None]:
    """Error with its interval and mean IoU."""
    missed = [float(value <= REQUIRED_IOU) for value in iou]
    count, low, high = int(sum(missed)), None, None
    if missed:  # the bootstrap of values that are all the same has no width
        low, high = bootstrap_interval(missed) if 0 < count < len(iou) else share_interval(count, len(iou))
    return {"error": _mean(missed), "error_low": low, "error_high": high, "iou": _mean(iou)}


def _mean(values: Sequence[float]) -> float | None:
    return math.fsum(values) / len(values) if values else None  # exact, so that no order shows
