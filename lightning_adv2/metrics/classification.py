"""What a classifier is worth where some classes are rare."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torchmetrics.classification import MulticlassConfusionMatrix


class BalancedAccuracy(MulticlassConfusionMatrix):
    """ISIC 2018's weighted multi-class accuracy: the mean over the classes of the share of their images found.

    Classes without an image do not count (torchmetrics' macro average counts those that were predicted as 0). NaN
    before the first image.

    Args:
        num_classes: K.
    """

    def __init__(self, num_classes: int, **kwargs: Any) -> None:
        super().__init__(num_classes, **kwargs)

    def compute(self) -> Tensor:
        """The mean recall so far."""
        return balanced_accuracy(self.confmat)


def recall(counts: Tensor) -> Tensor:
    """Of each class the share that is classified as it; confusion matrix ``(K, K)``, rows true -> ``(K,)``; 0/0 NaN."""
    return counts.diagonal().double() / counts.sum(1)


def balanced_accuracy(counts: Tensor) -> Tensor:
    """The mean recall over the classes that have images, from a confusion matrix ``(K, K)``, rows true."""
    return torch.nanmean(recall(counts))
