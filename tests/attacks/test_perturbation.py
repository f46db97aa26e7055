from __future__ import annotations

import numpy as np
import pytest
import torch
from cases import BY_NAME, lattice_images, other_class, small_classifier
from scipy.stats import kstest

from lightning_adv2.attacks import Attack, GradientStep, PixelDelta, Ramp, Stage, TargetClass, TargetMap, run_attack
from lightning_adv2.attacks.perturbation import FlowField
from lightning_adv2.functional import optim
from lightning_adv2.functional.flow import warp
from lightning_adv2.functional.random import image_generators

both_types = pytest.mark.parametrize("dtype", [torch.float32, torch.float64])


@pytest.mark.parametrize("epsilon", [0.0, -0.1, 1.5, 8.0, float("nan")])
def test_an_epsilon_outside_the_pixel_range_is_refused(epsilon):
    with pytest.raises(ValueError, match=f"epsilon={epsilon}.*0.031"):
        PixelDelta(epsilon)


@pytest.mark.parametrize("perturbation", [PixelDelta(), FlowField(start=0.0)], ids=["pixel", "flow"])
@pytest.mark.parametrize("high", [255, 10])
@both_types
def test_the_parameter_zero_changes_nothing(perturbation, high, dtype):
    images = lattice_images(3, dtype=dtype, high=high)
    parameter = perturbation.init(images, image_generators(0, list("abc")))
    assert not parameter.any()
    assert parameter.dtype == dtype
    assert torch.equal(perturbation.apply(images, parameter), images)
    assert torch.equal(perturbation.norm(images, parameter), torch.zeros(3, dtype=dtype))


@both_types
@pytest.mark.parametrize("epsilon", [0.031, 8 / 255, 0.5, 1.0])
@pytest.mark.parametrize("high", [255, 10])
def test_every_iterate_is_exactly_on_the_lattice_and_in_the_box(dtype, epsilon, high):
    images, perturbation = lattice_images(16, side=24, dtype=dtype, high=high), PixelDelta(epsilon)
    move = 4 * epsilon * (torch.rand(images.shape, generator=torch.Generator().manual_seed(0)).to(dtype) - 0.5)
    adv_images = perturbation.apply(images, perturbation.project(images, move))
    assert torch.equal(adv_images, (adv_images * 255).round() / 255)
    assert adv_images.min() >= 0
    assert adv_images.max() <= 1


@both_types
@pytest.mark.parametrize("reach", [0.1, 1.0, 30.0])
@pytest.mark.parametrize("high", [255, 10])
def test_every_warped_iterate_is_the_nearest_8_bit_image(dtype, reach, high):
    images = lattice_images(16, side=24, dtype=dtype, high=high)
    flow = 2 * reach * (torch.rand(16, 2, 24, 24, generator=torch.Generator().manual_seed(0)).to(dtype) - 0.5)
    adv_images = FlowField().apply(images, flow)
    assert torch.equal(adv_images, (adv_images * 255).round() / 255)
    assert adv_images.min() >= 0
    assert adv_images.max() <= 1
    assert ((adv_images - warp(images.double(), flow.double())).abs() <= (0.5 + 1e-3) / 255).all()
    assert (adv_images != images).any()


def test_the_gradient_passes_the_rounding_unchanged():
    images, perturbation = lattice_images(2), PixelDelta()
    delta = torch.full_like(images, 0.01).requires_grad_()
    weight = torch.randn(images.shape, generator=torch.Generator().manual_seed(0))
    (gradient,) = torch.autograd.grad((perturbation.apply(images, delta) * weight).sum(), delta)
    assert torch.equal(gradient, weight)
    flow = torch.randn(2, 2, 16, 16, generator=torch.Generator().manual_seed(1)).requires_grad_()
    (through,) = torch.autograd.grad((FlowField().apply(images, flow) * weight).sum(), flow)
    (expected,) = torch.autograd.grad((warp(images, flow) * weight).sum(), flow)
    assert torch.equal(through, expected)


def test_the_first_flow_is_uniform_and_the_images_own():
    images, names = lattice_images(6), list("abcdef")
    perturbation = FlowField(start=0.3)
    torch.manual_seed(4)
    before = torch.get_rng_state()
    together = perturbation.init(images, image_generators(1, names, "attack"))
    assert torch.equal(torch.get_rng_state(), before)
    assert together.shape == (6, 2, 16, 16)
    assert kstest((together.flatten().numpy() / 0.3 + 1) / 2, "uniform").pvalue > 0.01
    for i in (5, 0, 3):
        alone = perturbation.init(images[i : i + 1], image_generators(1, names[i : i + 1], "attack"))
        assert torch.equal(alone[0], together[i])
    assert not torch.equal(together[0], together[1])
    assert perturbation.init(images[:0], []).shape == (0, 2, 16, 16)


@both_types
@pytest.mark.parametrize("epsilon", [0.031, 1.0])
@pytest.mark.parametrize("high", [255, 10])
def test_a_restart_is_uniform_over_what_is_feasible_and_the_images_own(dtype, epsilon, high):
    names, perturbation = [str(i) for i in range(40)], PixelDelta(epsilon)
    images = lattice_images(40, dtype=dtype, high=high)
    torch.manual_seed(4)
    before = torch.get_rng_state()
    together = perturbation.restart(images, image_generators(1, names, "attack"))
    assert torch.equal(torch.get_rng_state(), before)
    assert together.dtype == dtype
    assert torch.equal(perturbation.project(images, together), together)
    low = np.maximum(-epsilon, -images.double().numpy())
    high_end = np.minimum(epsilon, 1 - images.double().numpy())
    share = (together.double().numpy() - low) / (high_end - low)
    assert kstest(share.ravel(), "uniform").pvalue > 0.01
    for i in (5, 0, 3):
        alone = perturbation.restart(images[i : i + 1], image_generators(1, names[i : i + 1], "attack"))
        assert torch.equal(alone[0], together[i])
    assert not np.array_equal(share[0], share[1])
    assert perturbation.restart(images[:0], []).shape == (0, 3, 16, 16)


def test_a_flow_restarts_from_another_random_one():
    images, generators = lattice_images(3), image_generators(1, list("abc"), "attack")
    perturbation = FlowField(start=0.3, max_flow=0.4)
    first, second = perturbation.init(images, generators), perturbation.restart(images, generators)
    assert first.shape == second.shape
    assert not torch.equal(first, second)
    assert 0.25 < second.abs().amax() <= 0.3
    assert torch.equal(perturbation.project(images, second), second)


def test_a_flow_is_kept_within_its_bound():
    images = lattice_images(2)
    flow = 3 * torch.randn(2, 2, 16, 16, generator=torch.Generator().manual_seed(0))
    assert torch.equal(FlowField().project(images, flow), flow)
    bound = FlowField(max_flow=1.5)
    projected = bound.project(images, flow)
    assert projected.abs().amax() == 1.5
    inside = flow.abs() <= 1.5
    assert torch.equal(projected[inside], flow[inside])
    assert torch.equal(bound.project(images, projected), projected)


def test_sizes_are_the_largest_change_and_the_mean_displacement():
    images = lattice_images(2)
    delta = torch.zeros_like(images)
    delta[0, 1, 2, 3], delta[1, 0, 0, 0] = -0.02, 0.01
    assert torch.equal(PixelDelta().norm(images, delta), torch.tensor([0.02, 0.01]))
    flow = torch.tensor([3.0, -4.0]).view(1, 2, 1, 1) * torch.tensor([1.0, 0.5]).view(2, 1, 1, 1).expand(2, 1, 16, 16)
    torch.testing.assert_close(FlowField().norm(images, flow), torch.tensor([5.0, 2.5]))
    assert (PixelDelta.unit, FlowField.unit) == ("Linf", "px")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"start": -0.1}, "start=-0.1"),
        ({"start": float("nan")}, "start=nan"),
        ({"start": float("inf")}, "start=inf"),
        ({"max_flow": 0.0}, "max_flow=0.0"),
        ({"max_flow": float("nan")}, "max_flow=nan"),
        ({"start": 0.2, "max_flow": 0.1}, "start=0.2.*max_flow=0.1"),
    ],
)
def test_a_senseless_flow_is_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        FlowField(**arguments)


@pytest.mark.parametrize("name", ["cam", "grad"])
def test_a_flow_fools_a_classifier_and_moves_its_map(name):
    case = BY_NAME[name]
    classifier, images = small_classifier(), lattice_images(4, seed=8)
    interpreter, target_class = case.build(classifier), other_class(classifier, images)
    benign = interpreter.explain(classifier, images, (target_class - 1) % 4).attribution_map
    rule, step_size = optim.adam(amsgrad=True), Ramp(0.1, 0.01)
    found = []
    for terms in ([TargetClass()], [TargetClass(), TargetMap(10.0)]):
        step = GradientStep(terms, rule, step_size, case.surrogates[-1])
        attack = Attack("stadv", "test", FlowField(), [Stage(step, 60)])
        result = run_attack(attack, classifier, interpreter, images, target_class, benign)
        assert result.valid.all()
        assert result.success.all()
        found.append(result.score.mean().item())
    assert found[1] < 0.7 * found[0]
