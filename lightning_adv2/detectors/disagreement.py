"""Disagreement: an adversarial image is one whose maps fit together badly."""

from __future__ import annotations

import torch
from torch import Tensor

from lightning_adv2.detectors.base import Detector, NotApplicableError
from lightning_adv2.interpreters import Interpreter
from lightning_adv2.models import Classifier


class Disagreement(Detector):
    """How far an ensemble's members differ on the class that the classifier predicts (paper section 6, ensembles).

    Needs an interpreter whose ``Interpretation.aux`` holds ``disagreement`` ``(B,)``.
    """

    name = "disagreement"
    needs_interpreter = True

    def score(self, classifier: Classifier, interpreter: Interpreter, images: Tensor) -> Tensor:
        """The ensemble's own measure, ``(B,)``."""
        with torch.no_grad():
            predicted = classifier(images).argmax(1)
        aux = interpreter.explain(classifier, images, predicted).aux
        if "disagreement" not in aux:
            raise NotApplicableError(
                f"{type(interpreter).__name__} gives no aux['disagreement'], which the detector Disagreement needs; "
                "evaluate an ensemble interpreter, or leave this detector out"
            )
        return aux["disagreement"]
