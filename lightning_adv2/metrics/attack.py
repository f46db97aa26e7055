"""The paper's measures (section 4) as torchmetrics: means over images, equal for any batches and processes."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torchmetrics import Metric, MetricCollection

from lightning_adv2.functional import agreement

Agreement = Callable[[Tensor, Tensor], Tensor]


class PerImageMean(Metric):
    """The mean of a per-image value over all images seen; NaN before the first image.

    Args:
        kwargs: torchmetrics' own, such as ``sync_on_compute``.
    """

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
        """Add one value per image.

        Args:
            values: ``(B,)``; NaN makes the mean NaN.
        """
        self.total += values.to(torch.float64).sum()
        self.count += values.numel()

    def accumulate_defined(self, values: Tensor) -> None:
        """Add one value per image; images without a value (NaN) are left out.

        Args:
            values: ``(B,)``.
        """
        self.accumulate(values[~values.isnan()])

    def compute(self) -> Tensor:
        """The mean over all images and processes, ``()`` float64; NaN for no images."""
        return self.total / self.count


class ImageMean(PerImageMean):
    """The mean of any per-image value."""

    def update(self, values: Tensor) -> None:
        """Add a batch.

        Args:
            values: ``(B,)``; NaN makes the mean NaN.
        """
        self.accumulate(values)


class AttackSuccessRate(PerImageMean):
    """ASR: share of the images that are classified as the target class (paper section 4), in [0, 1]."""

    def update(self, adv_predicted: Tensor, target_class: Tensor) -> None:
        """Add a batch.

        Args:
            adv_predicted: ``(B,)``, the classes predicted for the attacked images.
            target_class: ``(B,)``, c_t.
        """
        self.accumulate(adv_predicted == target_class)


class MisclassificationConfidence(PerImageMean):
    """MC: mean probability of the target class (paper section 4), in [0, 1]."""

    def update(self, confidence: Tensor) -> None:
        """Add a batch.

        Args:
            confidence: ``(B,)`` in [0, 1], f_ct(x*).
        """
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
        """Add a batch.

        Args:
            adv_map: ``(B, 1, h, w)`` in [0, 1].
            target_map: the same shape and range.
        """
        iou = agreement.map_iou(adv_map, target_map, self.threshold)
        self.accumulate((iou > 0.5)[~iou.isnan()])


class PerturbationNorm(PerImageMean):
    """Mean L-infinity norm of the perturbation (paper section 4), in units of the pixel range."""

    def update(self, adv_images: Tensor, images: Tensor) -> None:
        """Add a batch.

        Args:
            adv_images: ``(B, C, H, W)`` in [0, 1].
            images: the same shape and range, benign.
        """
        self.accumulate(agreement.perturbation_norm(adv_images, images))


class NormInUnit(PerImageMean):
    """Mean norm of the perturbation in its own unit, such as pixels for a flow field (paper section 4)."""

    def update(self, size: Tensor) -> None:
        """Add a batch.

        Args:
            size: ``(B,)``, >= 0, the record's field of this name.
        """
        self.accumulate(size)


class MapComparison(PerImageMean):
    """The mean of a function of two maps of a record; see ``AGREEMENTS``.

    Args:
        function: two maps ``(B, 1, h, w)`` -> ``(B,)``; images without a value (NaN) are left out of the mean.
        first: name of the record's field that is the function's first argument.
        second: name of the field that is its second argument.
        kwargs: torchmetrics' own, such as ``sync_on_compute``.
    """

    def __init__(self, function: Agreement, first: str, second: str, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.function, self.first, self.second = function, first, second

    def update(self, **fields: Tensor) -> None:
        """Add a batch.

        Args:
            fields: the fields of a record by name, maps ``(B, 1, h, w)`` in [0, 1]; other fields are ignored.

        Raises:
            KeyError: a field that is compared is missing.
        """
        self.accumulate_defined(self.function(fields[self.first], fields[self.second]))


AGREEMENTS: dict[str, tuple[Agreement, str, str]] = {
    "l1": (agreement.map_l1, "adv_map", "target_map"),
    "l2": (agreement.map_l2, "adv_map", "target_map"),
    "iou": (agreement.map_iou, "adv_map", "target_map"),
    # Whatever the attack aims at.
    "l1_benign": (agreement.map_l1, "adv_map", "benign_map"),
    "iou_benign": (agreement.map_iou, "adv_map", "benign_map"),
    # Both explained for one class, so that what differs is the attack's: the question did not change.
    "l1_true_class": (agreement.map_l1, "adv_map_true_class", "benign_map"),
    "iou_true_class": (agreement.map_iou, "adv_map_true_class", "benign_map"),
    "l1_target_class": (agreement.map_l1, "adv_map_target_class", "benign_map_target_class"),
    "iou_target_class": (agreement.map_iou, "adv_map_target_class", "benign_map_target_class"),
}
"""How maps are compared: column of every table -> function, and the two fields of a record that it compares.

A new line here is a new column of ``results.json``, ``images.csv``, the logs and W&B.
"""

_FIRST = ("asr", "confidence", "l1", "l2", "iou", "plausible", "linf")
METRICS = (*_FIRST, *(name for name in AGREEMENTS if name not in _FIRST), "size")
"""The keys of :func:`attack_metrics`, in the order of the tables."""


def attack_metrics(threshold: float = 0.5, **kwargs: Any) -> MetricCollection:
    """All measures of an attack by name; ``update`` takes the fields of a record and hands each metric its arguments.

    Args:
        threshold: a pixel belongs to a map's region when its value is at least this, in [0, 1].
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
        cut = partial(agreement.map_iou, threshold=threshold) if function is agreement.map_iou else function
        metrics[name] = MapComparison(cut, first, second, **kwargs)
    # Compute groups would merge metrics that differ only in an attribute (torchmetrics issue 2596).
    return MetricCollection(metrics, compute_groups=False)  # type: ignore[arg-type]
