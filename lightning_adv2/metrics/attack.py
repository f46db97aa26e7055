"""The paper's measures (section 4) as torchmetrics: means over images, equal whatever the batches or processes."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torchmetrics import Metric, MetricCollection

from lightning_adv2.functional.agreement import map_iou, map_l1, map_l2, perturbation_norm

Agreement = Callable[[Tensor, Tensor], Tensor]


class PerImageMean(Metric):
    """The mean of a per-image value over all images seen; NaN before the first."""

    is_differentiable = False
    full_state_update = False
    total: Tensor
    count: Tensor

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        # float64: the sum over a thousand images does not depend on how they were batched, to the digits reported.
        self.add_state("total", torch.zeros((), dtype=torch.float64), dist_reduce_fx="sum")
        self.add_state("count", torch.zeros((), dtype=torch.int64), dist_reduce_fx="sum")

    def accumulate(self, values: Tensor) -> None:
        """Add one value per image, ``(B,)``; NaN makes the mean NaN."""
        self.total += values.to(torch.float64).sum()
        self.count += values.numel()

    def accumulate_defined(self, values: Tensor) -> None:
        """Add one value per image, ``(B,)``; images with NaN, for which the value is undefined, are left out."""
        self.accumulate(values[~values.isnan()])

    def compute(self) -> Tensor:
        """The mean so far."""
        return self.total / self.count


class ImageMean(PerImageMean):
    """The mean of whatever per-image value it is given."""

    def update(self, values: Tensor) -> None:
        """``(B,)``."""
        self.accumulate(values)


class AttackSuccessRate(PerImageMean):
    """ASR: share of the images that are classified as the target class."""

    def update(self, adv_predicted: Tensor, target_class: Tensor) -> None:
        """Two ``(B,)`` tensors of classes."""
        self.accumulate(adv_predicted == target_class)


class MisclassificationConfidence(PerImageMean):
    """MC: mean probability of the target class."""

    def update(self, confidence: Tensor) -> None:
        """``(B,)`` in [0, 1]."""
        self.accumulate(confidence)


class PlausibleShare(PerImageMean):
    """Share of the images whose map is plausible: an IoU with the target map above 0.5 (section 4).

    Images whose two maps are both empty have no IoU and are left out.

    Args:
        threshold: a pixel belongs to a map's region when its value is at least this, in [0, 1].
    """

    def __init__(self, threshold: float = 0.5, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.threshold = threshold

    def update(self, adv_map: Tensor, target_map: Tensor) -> None:
        """Add a batch: two maps ``(B, 1, h, w)`` in [0, 1]."""
        iou = map_iou(adv_map, target_map, self.threshold)
        self.accumulate((iou > 0.5)[~iou.isnan()])


class PerturbationNorm(PerImageMean):
    """Mean L-infinity size of the perturbation, in units of the pixel range."""

    def update(self, adv_images: Tensor, images: Tensor) -> None:
        """``(B, C, H, W)`` twice, in [0, 1]."""
        self.accumulate(perturbation_norm(adv_images, images))


class NormInUnit(PerImageMean):
    """Mean size of the perturbation in its own unit, pixels for a flow field say."""

    def update(self, size: Tensor) -> None:
        """``(B,)``."""
        self.accumulate(size)


class MapComparison(PerImageMean):
    """The mean of a function of two maps of a record; see ``AGREEMENTS``.

    Args:
        function: two ``(B, 1, h, w)`` -> ``(B,)``; images for which it is undefined (NaN) are left out of the mean.
        first: name of the record's field that is its first argument.
        second: name of the field that is its second.
    """

    def __init__(self, function: Agreement, first: str, second: str, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.function, self.first, self.second = function, first, second

    def update(self, **fields: Tensor) -> None:
        """The fields of a record, by name; those that it does not compare are ignored."""
        self.accumulate_defined(self.function(fields[self.first], fields[self.second]))


AGREEMENTS: dict[str, tuple[Agreement, str, str]] = {
    "l1": (map_l1, "adv_map", "target_map"),
    "l2": (map_l2, "adv_map", "target_map"),
    "iou": (map_iou, "adv_map", "target_map"),
    # Whatever the attack aims at.
    "l1_benign": (map_l1, "adv_map", "benign_map"),
    "iou_benign": (map_iou, "adv_map", "benign_map"),
    # Both explained for one class, so that what differs is the attack's: the question did not change.
    "l1_true_class": (map_l1, "adv_map_true_class", "benign_map"),
    "iou_true_class": (map_iou, "adv_map_true_class", "benign_map"),
    "l1_target_class": (map_l1, "adv_map_target_class", "benign_map_target_class"),
    "iou_target_class": (map_iou, "adv_map_target_class", "benign_map_target_class"),
}
"""How maps are compared: column of every table -> function, and the two fields of a record that it compares.

A new line here is a new column of ``results.json``, ``images.csv``, the logs and W&B.
"""

_FIRST = ("asr", "confidence", "l1", "l2", "iou", "plausible", "linf")
METRICS = (*_FIRST, *(name for name in AGREEMENTS if name not in _FIRST), "size")
"""The keys of :func:`attack_metrics`, in the order of the tables."""


def attack_metrics(threshold: float = 0.5, **kwargs: Any) -> MetricCollection:
    """All of them; ``update`` takes the fields of a record by name and hands each metric what it needs.

    Args:
        threshold: where the IoU cuts the maps.
        kwargs: torchmetrics' own, such as ``sync_on_compute``.
    """
    metrics: dict[str, Metric] = {
        "asr": AttackSuccessRate(**kwargs),
        "confidence": MisclassificationConfidence(**kwargs),
        "plausible": PlausibleShare(threshold, **kwargs),
        "linf": PerturbationNorm(**kwargs),
        "size": NormInUnit(**kwargs),
    }
    for name, (function, first, second) in AGREEMENTS.items():
        cut = partial(map_iou, threshold=threshold) if function is map_iou else function
        metrics[name] = MapComparison(cut, first, second, **kwargs)
    # Compute groups would merge metrics that differ only in an attribute (torchmetrics issue 2596).
    return MetricCollection(metrics, compute_groups=False)  # type: ignore[arg-type]
