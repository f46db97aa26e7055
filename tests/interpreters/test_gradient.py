from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from captum.attr import Saliency
from cases import lattice_images, small_classifier

from lightning_adv2.interpreters import CAM, Gradient
from lightning_adv2.models import TorchvisionClassifier

TARGET = torch.tensor([0, 1, 2, 3])


@pytest.mark.parametrize("pool", [1, 2, 4])
def test_the_map_is_captums_saliency_pooled_and_scaled(pool):
    classifier, images = small_classifier(), lattice_images(4)
    raw = Saliency(classifier).attribute(images.clone().requires_grad_(), target=TARGET, abs=True)
    expected = F.avg_pool2d(raw.amax(1, keepdim=True), pool)
    low, high = expected.amin((1, 2, 3), keepdim=True), expected.amax((1, 2, 3), keepdim=True)
    ours = Gradient(pool).explain(classifier, images, TARGET).attribution_map
    torch.testing.assert_close(ours, (expected - low) / (high - low), atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize(("side", "map_side"), [(32, 16), (63, 32), (64, 16), (96, 24)])
def test_the_default_pooling_is_the_authors(side, map_side):
    images = lattice_images(1, side=side)
    result = Gradient().explain(small_classifier(), images, TARGET[:1])
    assert result.attribution_map.shape[-1] == map_side


@pytest.mark.parametrize("pool", [0, -2])
def test_a_pool_below_one_is_refused(pool):
    with pytest.raises(ValueError, match=f"pool={pool}"):
        Gradient(pool)


def test_promise_13_a_constant_map_is_zero_not_nan():
    classifier = small_classifier()
    with torch.no_grad():
        classifier.linear.weight.zero_()
    images = lattice_images(4)
    assert torch.equal(Gradient(2).explain(classifier, images, TARGET).attribution_map, torch.zeros(4, 1, 8, 8))
    leaf = images.requires_grad_()
    (gradient,) = torch.autograd.grad(Gradient(2)(classifier, leaf, TARGET).attribution_map.sum(), leaf)
    assert torch.equal(gradient, torch.zeros_like(gradient))


def test_promise_23_inference_mode_gives_a_clear_error():
    classifier, images = small_classifier(), lattice_images(4)
    for call in (Gradient(), Gradient().explain):
        with torch.inference_mode(), pytest.raises(RuntimeError, match=r"inference_mode.*inference_mode=False"):
            call(classifier, images, TARGET)


def test_an_interpreter_that_needs_no_gradient_explains_in_inference_mode():
    classifier, images = small_classifier(), lattice_images(4)
    with torch.inference_mode():
        result = CAM().explain(classifier, images, TARGET)
    assert torch.equal(result.attribution_map, CAM().explain(classifier, images, TARGET).attribution_map)


def test_torchvision_network():
    torch.manual_seed(0)
    classifier = TorchvisionClassifier("resnet18", num_classes=4)
    result = Gradient().explain(classifier, lattice_images(2, side=64), TARGET[:2])
    assert result.attribution_map.shape == (2, 1, 16, 16)
    assert (result.attribution_map.amax((1, 2, 3)) == 1).all()
