"""Disagreement: an adversarial image is one whose maps contradict each other."""

from __future__ import annotations

import torch
from torch import Tensor

from lightning_adv2.detectors.base import Detector, NotApplicableError
from lightning_adv2.interpreters import Interpreter
from lightning_adv2.models import Classifier


class Disagreement(Detector):
    """The distance of an ensemble's maps for the predicted class (paper section 6, ensembles).

    Needs an interpreter whose ``Interpretation.aux`` holds ``disagreement`` ``(B,)``, such as :class:`Ensemble`.
    """

    name = "disagreement"
    needs_interpreter = True

    def score(self, classifier: Classifier, interpreter: Interpreter, images: Tensor) -> Tensor:
        """The ensemble's mean pairwise L1 distance of its members' maps (paper section 6).

        Args:
            classifier: the network watched, in eval mode.
            interpreter: its interpreter, in eval mode.
            images: ``(B, C, H, W)`` in [0, 1].

        Returns:
            ``(B,)`` in [0, 1].

        Raises:
            NotApplicableError: the interpreter has no ``aux["disagreement"]``.
        """
        with torch.no_grad():
            predicted = classifier(images).argmax(1)
        aux = interpreter.explain(classifier, images, predicted).aux
        if "disagreement" not in aux:
            raise NotApplicableError(
                f"{type(interpreter).__name__} gives no aux['disagreement'], which the detector Disagreement needs; "
                "evaluate an ensemble interpreter, or leave this detector out"
            )
        return aux["disagreement"]
