"""The contract of every detector, and its threshold."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod

import torch
from torch import Tensor

from lightning_adv2.interpreters import Interpreter
from lightning_adv2.models import Classifier


class NotApplicableError(TypeError):
    """A detector does not apply to this interpreter."""


class Detector(ABC):
    """Gives every image a score; an image whose score exceeds a threshold is flagged as adversarial (paper section 6).

    Attributes:
        name: for tables and log keys.
        needs_interpreter: whether the score depends on the interpreter.
    """

    name: str
    needs_interpreter = False

    def fit(self, classifier: Classifier, interpreter: Interpreter, calibration: Tensor, label: Tensor) -> None:
        """Learn from benign images alone; a detector without parameters does nothing.

        Args:
            classifier: the network watched, in eval mode.
            interpreter: its interpreter, in eval mode.
            calibration: ``(N, C, H, W)`` in [0, 1], benign, classified correctly, none of them evaluated later.
            label: ``(N,)`` in [0, K), the true classes.

        Raises:
            ValueError: too few images.
        """
        return

    @abstractmethod
    def score(self, classifier: Classifier, interpreter: Interpreter, images: Tensor) -> Tensor:
        """The suspicion of each image: deterministic, and independent of the other images.

        Args:
            classifier: the network watched, in eval mode.
            interpreter: its interpreter, in eval mode.
            images: ``(B, C, H, W)`` in [0, 1].

        Returns:
            ``(B,)``, larger is more suspicious.

        Raises:
            NotApplicableError: the detector needs another interpreter.
            RuntimeError: the detector must be fitted first.
        """


def threshold_at(scores: Tensor, false_positive_rate: float) -> float:
    """The smallest threshold that at most this share of the scores exceeds (5% of the benign images, paper section 6).

    Args:
        scores: ``(N,)`` of benign images, finite; an image is flagged when its score is above the threshold.
        false_positive_rate: in [0, 1); the paper takes 0.05.

    Returns:
        One of the scores.

    Raises:
        ValueError: no scores, scores that are not finite, or a rate out of range.
    """
    if not 0 <= false_positive_rate < 1:
        raise ValueError(f"false_positive_rate={false_positive_rate}: a share in [0, 1); the paper takes 0.05")
    if scores.dim() != 1 or not len(scores) or not scores.isfinite().all():
        raise ValueError(f"scores: expected one or more finite numbers (N,), got {tuple(scores.shape)}; check the fit")
    # The small number undoes 0.29 * 100 = 28.999...
    allowed = math.floor(false_positive_rate * len(scores) + 1e-9)
    return float(scores.sort(descending=True).values[allowed])


def in_chunks(images: Tensor, size: int = 64) -> list[Tensor]:
    """Pieces of a tensor that fit into memory.

    Args:
        images: ``(N, ...)``.
        size: images per piece, at least 1.

    Returns:
        ``[(n, ...), ...]`` with n <= ``size``, in order.
    """
    return list(torch.split(images, size))
