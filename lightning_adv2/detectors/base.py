"""The contract of every detector, and where its threshold comes from."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod

import torch
from torch import Tensor

from lightning_adv2.interpreters import Interpreter
from lightning_adv2.models import Classifier


class NotApplicableError(TypeError):
    """A detector cannot work with this interpreter."""


class Detector(ABC):
    """Gives every image a score; what scores above a threshold is taken for adversarial.

    Attributes:
        name: for tables and log keys.
        needs_interpreter: whether the score depends on the interpreter.
    """

    name: str
    needs_interpreter = False

    def fit(self, classifier: Classifier, interpreter: Interpreter, calibration: Tensor, label: Tensor) -> None:
        """Learn what there is to learn from benign images alone; nothing, unless a detector says otherwise.

        Args:
            classifier: the network watched, in eval mode.
            interpreter: its interpreter, in eval mode.
            calibration: ``(N, C, H, W)`` in [0, 1], benign, classified correctly, none of them evaluated later.
            label: ``(N,)``.
        """
        return

    @abstractmethod
    def score(self, classifier: Classifier, interpreter: Interpreter, images: Tensor) -> Tensor:
        """How suspicious each image is: deterministic, and of each image by itself.

        Args:
            classifier: as in :meth:`fit`.
            interpreter: as in :meth:`fit`.
            images: ``(B, C, H, W)`` in [0, 1].

        Returns:
            ``(B,)``, larger is more suspicious.

        Raises:
            NotApplicableError: the detector needs another interpreter.
        """


def threshold_at(scores: Tensor, false_positive_rate: float) -> float:
    """The smallest threshold that at most this share of the scores exceeds (flagged is score > threshold).

    Args:
        scores: ``(N,)`` of benign images, finite.
        false_positive_rate: in [0, 1); the paper takes 0.05.
    """
    if not 0 <= false_positive_rate < 1:
        raise ValueError(f"false_positive_rate={false_positive_rate}: a share in [0, 1); the paper takes 0.05")
    if scores.dim() != 1 or not len(scores) or not scores.isfinite().all():
        raise ValueError(f"scores: expected one or more finite numbers (N,), got {tuple(scores.shape)}; check the fit")
    # The small number undoes 0.29 * 100 = 28.999...
    allowed = math.floor(false_positive_rate * len(scores) + 1e-9)
    return float(scores.sort(descending=True).values[allowed])


def in_chunks(images: Tensor, size: int = 64) -> list[Tensor]:
    """Cut ``(N, ...)`` into pieces that fit into memory."""
    return list(torch.split(images, size))
