from __future__ import annotations

import math
import warnings

import numpy as np
import pytest
import torch
from cases import BY_NAME, lattice_images, other_class, small_classifier
from scipy.stats import spearmanr

from lightning_adv2.functional.randomisation import randomised
from lightning_adv2.interpreters import CAM, ConstantMap, Interpreter, NoiseMap
from lightning_adv2.metrics.randomisation import RandomisationCheck
from lightning_adv2.models import weights_hash


def measured(interpreter: Interpreter, batches: int = 1, broken: bool = False) -> float:
    classifier, images = small_classifier(), lattice_images(12)
    label = other_class(classifier, images)
    shown = interpreter.explain(classifier, images, label).attribution_map
    if broken:
        shown[3, 0, 0, 0] = float("nan")
    check = RandomisationCheck(classifier, interpreter, seed=5)
    for part in torch.arange(12).chunk(batches):
        check.update(images[part], label[part], shown[part])
    return check.compute()


@pytest.mark.parametrize("name", ["cam", "rts", "gradcam"])
@pytest.mark.parametrize("skip", [None, 3])
def test_the_mean_over_images_is_the_one_of_scipy(name, skip):
    classifier, images = small_classifier(), lattice_images(12)
    interpreter, label = BY_NAME[name].build(classifier), other_class(classifier, images)
    unlearnt = randomised(classifier, 5), images, label
    after = randomised(interpreter, 5).explain(*unlearnt).attribution_map
    before = interpreter.explain(classifier, images, label).attribution_map
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Grad-CAM's are empty for some images
        single = [spearmanr(before[i].ravel(), after[i].ravel()).statistic for i in range(12) if i != skip]
    found = measured(interpreter, broken=skip is not None)
    assert found == pytest.approx(np.nan_to_num(single).mean(), abs=1e-6)
    assert abs(found) < 0.7, "these maps come from what was learnt"
    assert measured(interpreter, batches=3, broken=skip is not None) == pytest.approx(found, abs=1e-6)


@pytest.mark.parametrize("control", [ConstantMap, NoiseMap])
def test_promise_22_a_map_that_does_not_ask_the_model_is_found_out(control):
    assert measured(control(map_stride=2)) == pytest.approx(1, abs=1e-6)


def test_the_model_is_left_as_it_is_and_without_images_there_is_no_mean():
    classifier, images = small_classifier(), lattice_images(2)
    interpreter = BY_NAME["rts"].build(classifier)
    before = weights_hash(classifier), weights_hash(interpreter)
    check = RandomisationCheck(classifier, interpreter)
    check.update(images[:0], torch.zeros(0, dtype=torch.int64), torch.zeros(0, 1, 8, 8))
    assert math.isnan(check.compute())
    label = torch.tensor([0, 1])
    check.update(images, label, interpreter.explain(classifier, images, label).attribution_map)
    assert math.isfinite(check.compute())
    assert (weights_hash(classifier), weights_hash(interpreter)) == before
    check.reset()
    check.update(images[:0], label[:0], torch.zeros(0, 1, 8, 8))
    assert math.isnan(check.compute())


def test_maps_of_another_size_are_refused():
    check = RandomisationCheck(small_classifier(), CAM())
    with pytest.raises(ValueError, match="give two of the same"):
        check.update(lattice_images(2), torch.tensor([0, 1]), torch.zeros(2, 1, 8, 8))
