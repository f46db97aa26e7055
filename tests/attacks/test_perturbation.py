from __future__ import annotations

import pytest
import torch
from cases import lattice_images

from lightning_adv2.attacks import PixelDelta


@pytest.mark.parametrize("epsilon", [0.0, -0.1, 1.5, 8.0, float("nan")])
def test_an_epsilon_outside_the_pixel_range_is_refused(epsilon):
    with pytest.raises(ValueError, match=f"epsilon={epsilon}.*0.031"):
        PixelDelta(epsilon)


def test_the_initial_parameter_changes_nothing():
    images, perturbation = lattice_images(3), PixelDelta()
    assert torch.equal(perturbation.apply(images, perturbation.init(images)), images)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("epsilon", [0.031, 8 / 255, 0.5, 1.0])
@pytest.mark.parametrize("high", [255, 10])
def test_every_iterate_is_exactly_on_the_lattice_and_in_the_box(dtype, epsilon, high):
    images, perturbation = lattice_images(16, side=24, dtype=dtype, high=high), PixelDelta(epsilon)
    move = 4 * epsilon * (torch.rand(images.shape, generator=torch.Generator().manual_seed(0)).to(dtype) - 0.5)
    adv_images = perturbation.apply(images, perturbation.project(images, move))
    assert torch.equal(adv_images, (adv_images * 255).round() / 255)
    assert adv_images.min() >= 0
    assert adv_images.max() <= 1


def test_the_gradient_passes_the_rounding_unchanged():
    images, perturbation = lattice_images(2), PixelDelta()
    delta = torch.full_like(images, 0.01).requires_grad_()
    weight = torch.randn(images.shape, generator=torch.Generator().manual_seed(0))
    (gradient,) = torch.autograd.grad((perturbation.apply(images, delta) * weight).sum(), delta)
    assert torch.equal(gradient, weight)
