from __future__ import annotations

import captum.attr
import pytest
import torch
import torch.nn.functional as F
from cases import lattice_images, small_classifier

from lightning_adv2.interpreters import Gradient, IntegratedGradients
from lightning_adv2.models import TorchvisionClassifier

TARGET = torch.tensor([0, 1, 2, 3])


@pytest.mark.parametrize(("steps", "baseline", "pool"), [(6, 0.0, 2), (1, 0.0, 1), (9, 0.5, 4)])
def test_the_map_is_captums_reduced_as_for_grad(steps, baseline, pool):
    classifier, images = small_classifier(dtype=torch.float64), lattice_images(4, dtype=torch.float64)
    oracle = captum.attr.IntegratedGradients(classifier)
    raw = oracle.attribute(images, baselines=baseline, target=TARGET, n_steps=steps, method="gausslegendre")
    expected = F.avg_pool2d(raw.abs().amax(1, keepdim=True), pool)
    low, high = expected.amin((1, 2, 3), keepdim=True), expected.amax((1, 2, 3), keepdim=True)
    ours = IntegratedGradients(steps, baseline, pool).explain(classifier, images, TARGET)
    torch.testing.assert_close(ours.attribution_map, (expected - low) / (high - low), rtol=0, atol=1e-6)
    torch.testing.assert_close(ours.logits, classifier(images))


def test_the_map_is_the_same_with_and_without_a_graph():
    classifier, images = small_classifier(dtype=torch.float64), lattice_images(4, dtype=torch.float64)
    quiet = IntegratedGradients(3).explain(classifier, images, TARGET)
    graph = IntegratedGradients(3)(classifier, images.requires_grad_(), TARGET)
    torch.testing.assert_close(graph.attribution_map, quiet.attribution_map, rtol=0, atol=1e-12)
    torch.testing.assert_close(graph.logits, quiet.logits, rtol=0, atol=1e-12)


def test_the_default_converges_and_is_not_grad():
    classifier, images = small_classifier(), lattice_images(4)
    maps = [i.explain(classifier, images, TARGET).attribution_map for i in (IntegratedGradients(), Gradient())]
    exact = IntegratedGradients(steps=200).explain(classifier, images, TARGET).attribution_map
    assert (maps[0] - exact).abs().mean() < 0.03
    assert (maps[1] - exact).abs().mean() > 0.06


def test_promise_13_the_baseline_itself_gets_a_zero_map_not_nan():
    classifier = small_classifier()
    leaf = torch.full((4, 3, 16, 16), 0.25).requires_grad_()
    attribution_map = IntegratedGradients(3, baseline=0.25)(classifier, leaf, TARGET).attribution_map
    assert torch.equal(attribution_map, torch.zeros(4, 1, 8, 8))
    (gradient,) = torch.autograd.grad(attribution_map.sum(), leaf)
    assert torch.equal(gradient, torch.zeros_like(gradient))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"steps": 0}, "steps=0"),
        ({"baseline": 1.5}, r"baseline=1\.5"),
        ({"baseline": float("nan")}, "baseline=nan"),
        ({"pool": 0}, "pool=0"),
    ],
)
def test_impossible_options_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        IntegratedGradients(**options)


def test_promise_23_inference_mode_gives_a_clear_error():
    with torch.inference_mode(), pytest.raises(RuntimeError, match=r"IntegratedGradients.*inference_mode=False"):
        IntegratedGradients(2).explain(small_classifier(), lattice_images(4), TARGET)


def test_torchvision_network():
    torch.manual_seed(0)
    classifier = TorchvisionClassifier("resnet18", num_classes=4)
    result = IntegratedGradients(3).explain(classifier, lattice_images(2, side=64), TARGET[:2])
    assert result.attribution_map.shape == (2, 1, 16, 16)
    assert (result.attribution_map.amax((1, 2, 3)) == 1).all()
