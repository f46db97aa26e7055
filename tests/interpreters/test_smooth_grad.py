from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from captum.attr import Saliency
from cases import lattice_images, small_classifier

from lightning_adv2.interpreters import Gradient, SmoothGrad

TARGET = torch.tensor([0, 1, 2, 3])


@pytest.mark.parametrize(("samples", "pool"), [(2, 1), (6, 2), (10, 4)])
def test_the_map_is_captums_saliency_averaged_over_the_noisy_copies_and_reduced_as_for_grad(samples, pool):
    classifier, images = small_classifier(dtype=torch.float64), lattice_images(4, dtype=torch.float64)
    interpreter, saliency = SmoothGrad(samples, sigma=0.15, seed=5, pool=pool), Saliency(classifier)
    points = [(images + n).requires_grad_() for n in interpreter.noise(images)]
    assert len(points) == samples
    raw = torch.stack([saliency.attribute(p, target=TARGET, abs=False) for p in points]).mean(0)
    expected = F.avg_pool2d(raw.abs().amax(1, keepdim=True), pool)
    low, high = expected.amin((1, 2, 3), keepdim=True), expected.amax((1, 2, 3), keepdim=True)
    ours = interpreter.explain(classifier, images, TARGET)
    torch.testing.assert_close(ours.attribution_map, (expected - low) / (high - low), rtol=0, atol=1e-9)
    torch.testing.assert_close(ours.logits, classifier(images))


@pytest.mark.parametrize("sigma", [0.1, 0.2])
def test_the_noise_is_gaussian_of_the_given_width_in_pairs_of_both_signs(sigma):
    noise = torch.stack(SmoothGrad(samples=40, sigma=sigma).noise(lattice_images(2)))
    assert noise.shape == (40, 3, 16, 16)
    assert torch.equal(noise.sort(dim=0).values, -noise.sort(dim=0, descending=True).values)
    half = noise[:20].flatten()
    assert half.unique().numel() > 0.99 * half.numel()  # every copy is a draw of its own
    # Standard errors of mean, standard deviation and share within one: 0.008, 0.006 and 0.004 of 15,360 draws.
    assert abs(half.mean() / sigma) < 0.03
    assert abs(half.std() / sigma - 1) < 0.03
    assert abs((half.abs() < sigma).double().mean() - 0.6827) < 0.02


def test_the_noise_belongs_to_the_interpreter():
    one, many = lattice_images(1), lattice_images(3, seed=9)
    noise = torch.stack(SmoothGrad(4, 0.1).noise(one))
    assert torch.equal(noise, torch.stack(SmoothGrad(4, 0.1).noise(many)))
    assert not torch.equal(noise, torch.stack(SmoothGrad(4, 0.1, seed=1).noise(one)))
    torch.testing.assert_close(torch.stack(SmoothGrad(4, 0.1).noise(one.double())).float(), noise)


def test_the_map_is_the_same_with_and_without_a_graph():
    classifier, images = small_classifier(dtype=torch.float64), lattice_images(4, dtype=torch.float64)
    quiet = SmoothGrad(4).explain(classifier, images, TARGET)
    graph = SmoothGrad(4)(classifier, images.requires_grad_(), TARGET)
    torch.testing.assert_close(graph.attribution_map, quiet.attribution_map, rtol=0, atol=1e-12)
    torch.testing.assert_close(graph.logits, quiet.logits, rtol=0, atol=1e-12)


def test_vanishing_noise_gives_grad():
    classifier, images = small_classifier(dtype=torch.float64), lattice_images(4, dtype=torch.float64)
    ours = SmoothGrad(2, sigma=1e-9).explain(classifier, images, TARGET).attribution_map
    torch.testing.assert_close(ours, Gradient().explain(classifier, images, TARGET).attribution_map)


def test_promise_13_a_constant_map_is_zero_not_nan():
    classifier = small_classifier()
    with torch.no_grad():
        classifier.linear.weight.zero_()
    leaf = lattice_images(4).requires_grad_()
    attribution_map = SmoothGrad(2)(classifier, leaf, TARGET).attribution_map
    assert torch.equal(attribution_map, torch.zeros(4, 1, 8, 8))
    (gradient,) = torch.autograd.grad(attribution_map.sum(), leaf)
    assert torch.equal(gradient, torch.zeros_like(gradient))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"samples": 0}, "samples=0"),
        ({"samples": 5}, "samples=5.*even"),
        ({"sigma": 0.0}, r"sigma=0\.0"),
        ({"sigma": float("nan")}, "sigma=nan"),
        ({"pool": -1}, "pool=-1"),
    ],
)
def test_impossible_options_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        SmoothGrad(**options)


def test_promise_23_inference_mode_gives_a_clear_error():
    with torch.inference_mode(), pytest.raises(RuntimeError, match=r"SmoothGrad.*inference_mode=False"):
        SmoothGrad(2).explain(small_classifier(), lattice_images(4), TARGET)
