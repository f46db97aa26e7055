from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from lightning_adv2.detectors import Disagreement, NotApplicableError
from lightning_adv2.interpreters import CAM, Interpreter
from lightning_adv2.models import Classifier
from lightning_adv2.types import Interpretation, State


class Pair(Interpreter):
    """Says how bright an image is, and which class it was asked about, in place of a disagreement."""

    def forward(self, classifier: Classifier, images: Tensor, class_idx: Tensor, state: State = ()) -> Interpretation:
        measure = images.mean((1, 2, 3)) + 10 * class_idx
        return Interpretation(classifier(images), images.mean(1, keepdim=True), {"disagreement": measure})


def test_score(classifier: Classifier, make_images: Callable[..., Tensor]) -> None:
    images = make_images(4)
    with torch.no_grad():
        predicted = classifier(images).argmax(1)
    score = Disagreement().score(classifier, Pair(), images)
    torch.testing.assert_close(score, images.mean((1, 2, 3)) + 10 * predicted)


def test_an_interpreter_without(classifier: Classifier, make_images: Callable[..., Tensor]) -> None:
    with pytest.raises(NotApplicableError, match=r"CAM gives no aux\['disagreement'\]") as caught:
        Disagreement().score(classifier, CAM(), make_images(1))
    assert isinstance(caught.value, TypeError)
