from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
from scipy import ndimage
from scipy.special import softmax
from torch import Tensor

from lightning_adv2.detectors import FeatureSqueezing
from lightning_adv2.functional.squeeze import BitDepth, MedianFilter
from lightning_adv2.interpreters import CAM
from lightning_adv2.models import Classifier


def test_score_by_hand(classifier64: Classifier, make_images: Callable[..., Tensor]) -> None:
    images = make_images(6, dtype=torch.float64)

    def probabilities(pixels: np.ndarray) -> np.ndarray:
        with torch.no_grad():
            return softmax(classifier64(torch.from_numpy(pixels)).numpy(), axis=1)

    x = images.numpy()
    bits, smooth = np.rint(x * 3) / 3, ndimage.median_filter(x, size=(1, 1, 3, 3), mode="reflect")
    apart = [np.abs(probabilities(x) - probabilities(y)).sum(1) for y in (bits, smooth)]
    detectors = [FeatureSqueezing([BitDepth(2)]), FeatureSqueezing([MedianFilter(3)])]
    for detector, expected in zip(detectors, apart, strict=True):
        np.testing.assert_allclose(detector.score(classifier64, CAM(), images), expected, atol=1e-12)
    joint = FeatureSqueezing([BitDepth(2), MedianFilter(3)])
    np.testing.assert_allclose(joint.score(classifier64, CAM(), images), np.maximum(*apart), atol=1e-12)
    assert joint.name == "squeezing-bit2-median3x3"


def test_each_image_by_itself(classifier64: Classifier, make_images: Callable[..., Tensor]) -> None:
    images, detector = make_images(5, dtype=torch.float64), FeatureSqueezing([BitDepth(2), MedianFilter(2)])
    singles = [detector.score(classifier64, CAM(), images[i : i + 1]) for i in range(5)]
    torch.testing.assert_close(detector.score(classifier64, CAM(), images), torch.cat(singles), rtol=0, atol=1e-12)


def test_no_squeezers() -> None:
    with pytest.raises(ValueError, match=r"squeezers=\[\]: give at least one"):
        FeatureSqueezing([])
