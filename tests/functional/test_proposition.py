from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
from captum.attr import IntegratedGradients as CaptumIG
from cases import lattice_images, other_class, small_classifier
from hypothesis import given
from hypothesis import strategies as st
from scipy.integrate import quad, quad_vec
from torch import Tensor, nn
from toys import Linear

from lightning_adv2.functional.proposition import difference_map, judge_bound, prediction_bound

WEIGHT = torch.linspace(-1, 1.5, 12, dtype=torch.float64).view(3, 2, 2)


def linear() -> Linear:
    """Two classes; the logit of class 1 is w x - 0.3, that of class 0 is 0."""
    return Linear(torch.stack([0 * WEIGHT, WEIGHT]).flatten(1), torch.tensor([0.0, -0.3], dtype=torch.float64))


def pair(count: int = 5, size: tuple[int, ...] = (3, 2, 2)) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(2)
    images, moved = (torch.rand(count, *size, generator=generator, dtype=torch.float64) for _ in range(2))
    return images, moved


def test_linear_model_in_closed_form() -> None:
    """sigmoid'(s) along a line integrates to (sigmoid(b) - sigmoid(a)) / (b - a): the map is that times w (x* - x0)."""
    model, (images, moved) = linear(), pair()
    before, after = (model(x).diff(dim=1)[:, 0].detach() for x in (images, moved))
    slope = (after.sigmoid() - before.sigmoid()) / (after - before)
    expected = slope.view(-1, 1, 1, 1) * WEIGHT * (moved - images)
    one = torch.ones(5, dtype=torch.int64)
    torch.testing.assert_close(difference_map(model, images, moved, one, steps=16), expected, rtol=1e-10, atol=1e-12)
    bound = prediction_bound(model, images, moved, one, steps=16)
    torch.testing.assert_close(bound.gain, after.sigmoid() - before.sigmoid())
    torch.testing.assert_close(bound.l1, expected.abs().flatten(1).sum(1))
    torch.testing.assert_close(bound.total, bound.gain, rtol=1e-10, atol=1e-12)
    # The other class gains what this one loses, at the same price.
    other = prediction_bound(model, images, moved, 1 - one, steps=16)
    torch.testing.assert_close(other.gain, -bound.gain)
    torch.testing.assert_close(other.l1, bound.l1)


def test_where_every_pixel_pushes_one_way_the_bound_is_sharp() -> None:
    model, (images, _) = linear(), pair()
    moved = images + 0.1 * WEIGHT.sign()
    bound = prediction_bound(model, images, moved, torch.ones(5, dtype=torch.int64), steps=16)
    torch.testing.assert_close(bound.l1, bound.gain, rtol=1e-9, atol=0)
    assert bool((bound.gain > 0.01).all())


def smooth_network() -> nn.Module:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        return nn.Sequential(nn.Flatten(), nn.Linear(12, 9), nn.Tanh(), nn.Linear(9, 3)).double().requires_grad_(False)


def test_against_scipy_value_by_value() -> None:
    network, (images, moved) = smooth_network(), pair(3)
    target_class = torch.tensor([2, 0, 1])
    found = difference_map(network, images, moved, target_class, steps=32)
    for i in range(3):
        start, change = images[i : i + 1], moved[i : i + 1] - images[i : i + 1]

        def slope(t: float, start: Tensor = start, change: Tensor = change, c: int = int(target_class[i])) -> Any:
            point = (start + t * change).requires_grad_()
            (gradient,) = torch.autograd.grad(network(point).softmax(1)[0, c], point)
            return gradient.flatten().numpy()

        integral, error = quad_vec(slope, 0, 1, epsabs=1e-12)
        assert error < 1e-9
        expected = change.flatten().numpy() * integral
        np.testing.assert_allclose(found[i].flatten().numpy(), expected, rtol=1e-8, atol=1e-11)


def test_against_captum() -> None:
    network, (images, moved) = smooth_network(), pair(4)
    target_class = torch.tensor([2, 0, 1, 1])
    captum = CaptumIG(lambda x: network(x).softmax(1))
    expected = captum.attribute(moved, baselines=images, target=target_class, n_steps=24, method="gausslegendre")
    found = difference_map(network, images, moved, target_class, steps=24)
    torch.testing.assert_close(found, expected, rtol=1e-6, atol=1e-8)  # its weights are in single precision


@pytest.mark.parametrize("seed", range(3))
def test_it_holds_for_any_network_and_the_sums_come_closer_with_more_points(seed: int) -> None:
    """With ReLUs the gradient jumps along the line, so that the quadrature is no more exact."""
    classifier = small_classifier(seed, dtype=torch.float64)
    images = lattice_images(6, seed, dtype=torch.float64)
    noise = torch.randn(images.shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    moved = (images + 0.06 * noise).clamp(0, 1)
    target_class = other_class(classifier, images)
    errors = []
    for steps in (1, 96):
        bound = prediction_bound(classifier, images, moved, target_class, steps=steps)
        errors.append(float((bound.gain - bound.total).abs().max()))
    assert errors[1] < 0.01
    assert errors[1] < errors[0] / 2
    assert bool((bound.gain <= bound.l1 + 0.01).all())
    verdicts = [judge_bound(*values, 0.01) for values in zip(*(side.tolist() for side in bound), strict=True)]
    assert set(verdicts) == {"held"}


def test_the_gain_is_scipys_integral_along_the_line() -> None:
    """Equation 12, with ReLUs: the directional derivative, integrated adaptively."""
    classifier, images = small_classifier(dtype=torch.float64), lattice_images(1, dtype=torch.float64)
    moved = (images + 0.05).clamp(0, 1)
    target_class = other_class(classifier, images)

    def slope(t: float) -> float:
        point = (images + t * (moved - images)).requires_grad_()
        (gradient,) = torch.autograd.grad(classifier(point).softmax(1)[0, target_class[0]], point)
        return float((gradient * (moved - images)).sum())

    integral, _ = quad(slope, 0, 1, limit=12, epsabs=1e-4)
    bound = prediction_bound(classifier, images, moved, target_class, steps=96)
    assert float(bound.gain) == pytest.approx(integral, abs=2e-3)
    assert float(bound.total) == pytest.approx(integral, abs=5e-3)


def test_no_attack_no_gain() -> None:
    classifier, images = small_classifier(), lattice_images(2)
    bound = prediction_bound(classifier, images, images, torch.tensor([0, 1]), steps=4)
    assert all(bool((side == 0).all()) for side in bound)


def test_a_wrong_gradient_is_found() -> None:
    """A network whose backward pass sees half the slope: the map misses the gain, and half of it is no bound."""

    class Half(torch.autograd.Function):
        @staticmethod
        def forward(ctx: object, x: Tensor) -> Tensor:
            return x.clone()

        @staticmethod
        def backward(ctx: object, gradient: Tensor) -> Tensor:  # type: ignore[override]
            return gradient / 2

    model, (images, _) = linear(), pair()
    moved = images + 0.1 * WEIGHT.sign()  # where the bound is sharp
    bound = prediction_bound(lambda x: model(Half.apply(x)), images, moved, torch.ones(5, dtype=torch.int64), steps=16)
    for values in zip(*(side.tolist() for side in bound), strict=True):
        assert judge_bound(*values, 0.001) == "violated"


@pytest.mark.parametrize(
    ("gain", "total", "l1", "verdict"),
    [
        (0.9, 0.9, 1.2, "held"),
        (0.9, 0.895, 0.895, "held"),
        (0.9, 0.9, 0.5, "violated"),
        (0.9, 0.7, 0.7, "violated"),
        (0.9, 0.7, 1.2, "unresolved"),
        (-0.2, -0.2, 0.3, "held"),
        (math.nan, 0.9, 1.2, "unresolved"),
        (0.9, math.nan, math.nan, "unresolved"),
        (0.9, 0.9, math.nan, "unresolved"),
    ],
)
def test_verdicts(gain: float, total: float, l1: float, verdict: str) -> None:
    assert judge_bound(gain, total, l1, 0.01) == verdict


@given(st.lists(st.floats(-1, 1), min_size=1, max_size=30), st.floats(-0.2, 0.2))
def test_a_map_that_adds_up_is_never_violated(values: list[float], miss: float) -> None:
    """The proof, in three lines: and the rule finds every miss beyond the tolerance."""
    total, l1 = math.fsum(values), math.fsum(map(abs, values))
    verdict = judge_bound(total + miss, total, l1, 0.05)
    if abs(miss) < 0.0499:
        assert verdict == "held"
    if abs(miss) > 0.0501:
        assert verdict != "held"
