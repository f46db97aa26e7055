"""Feature squeezing: an adversarial image is one whose prediction changes once it is squeezed."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from lightning_adv2.detectors.base import Detector
from lightning_adv2.functional.squeeze import Squeezer
from lightning_adv2.interpreters import Interpreter
from lightning_adv2.models import Classifier


class FeatureSqueezing(Detector):
    """max over psi of ||f(x) - f(psi(x))||_1 between class probabilities, in [0, 2] (Xu et al. 2018, section 4.1).

    Args:
        squeezers: at least one; the paper's tables take one at a time.

    Raises:
        ValueError: no squeezers.
    """

    def __init__(self, squeezers: Sequence[Squeezer]) -> None:
        if not squeezers:
            raise ValueError("squeezers=[]: give at least one, such as BitDepth(2) or MedianFilter(3)")
        self.squeezers = list(squeezers)
        self.name = "squeezing-" + "-".join(squeezer.name for squeezer in squeezers)

    @torch.no_grad()
    def score(self, classifier: Classifier, interpreter: Interpreter, images: Tensor) -> Tensor:
        """The largest L1 distance of the class probabilities over the squeezers (Xu et al. 2018, section 4.1).

        Args:
            classifier: the network watched, in eval mode.
            interpreter: not used.
            images: ``(B, C, H, W)`` in [0, 1].

        Returns:
            ``(B,)`` float64 in [0, 2].

        Raises:
            ValueError: the images are too small for a squeezer.
        """

        def probabilities(inputs: Tensor) -> Tensor:
            # Double precision: a confident network's distances crowd just below 2, and a threshold lies among them.
            result: Tensor = classifier(inputs).double().softmax(1)
            return result

        plain = probabilities(images)
        distances = [(plain - probabilities(squeezer(images))).abs().sum(1) for squeezer in self.squeezers]
        return torch.stack(distances).amax(0)
