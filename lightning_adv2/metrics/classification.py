"""Measures of a classifier on unbalanced classes."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torchmetrics.classification import MulticlassConfusionMatrix


class BalancedAccuracy(MulticlassConfusionMatrix):
    """ISIC 2018's balanced multi-class accuracy: the mean recall over the classes, in [0, 1].

    Classes without an image do not count (torchmetrics' macro average counts those that were predicted as 0). NaN
    before the first image.

    Args:
        num_classes: K.
        kwargs: torchmetrics' own, such as ``sync_on_compute``.
    """

    def __init__(self, num_classes: int, **kwargs: Any) -> None:
        super().__init__(num_classes, **kwargs)

    def compute(self) -> Tensor:
        """The mean recall over all images and processes, ``()`` float64 in [0, 1]."""
        return balanced_accuracy(self.confmat)


def recall(counts: Tensor) -> Tensor:
    """The recall of each class: the share of its images that are classified as the class.

    Args:
        counts: ``(K, K)``, confusion matrix with true classes in rows.

    Returns:
        ``(K,)`` float64 in [0, 1]; NaN for a class without images.
    """
    return counts.diagonal().double() / counts.sum(1)


def balanced_accuracy(counts: Tensor) -> Tensor:
    """The mean recall over the classes that have images (ISIC 2018).

    Args:
        counts: ``(K, K)``, confusion matrix with true classes in rows.

    Returns:
        ``()`` float64 in [0, 1]; NaN for no images.
    """
    return torch.nanmean(recall(counts))
