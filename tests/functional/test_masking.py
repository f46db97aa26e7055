from __future__ import annotations

import numpy as np
import pytest
import torch
from cases import lattice_images
from scipy.ndimage import gaussian_filter

from lightning_adv2.functional.masking import blend, gaussian_blur, resize_map, uninformative
from lightning_adv2.functional.random import image_generators


@pytest.mark.parametrize("sigma", [0.5, 0.8, 1.57, 3.0])
@pytest.mark.parametrize("shape", [(16, 16), (9, 24)])
def test_gaussian_blur_equals_scipy(sigma, shape):
    images = torch.rand(2, 3, *shape, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    radius = round(2.5 * sigma)
    # torch's "reflect" does not repeat the border pixel; scipy calls that "mirror"
    expected = gaussian_filter(images.numpy(), (0, 0, sigma, sigma), mode="mirror", radius=(0, 0, radius, radius))
    np.testing.assert_allclose(gaussian_blur(images, sigma).numpy(), expected, atol=1e-12)


def test_gaussian_blur_keeps_constants_and_works_when_wider_than_the_image():
    images = torch.full((1, 3, 5, 5), 0.3, dtype=torch.float64)
    torch.testing.assert_close(gaussian_blur(images, 11.0), images)


def test_blend_ends_and_middle():
    images, background = lattice_images(2), lattice_images(2, seed=5)
    ones, zeros = torch.ones(2, 1, 4, 4), torch.zeros(2, 1, 4, 4)
    torch.testing.assert_close(blend(images, background, ones), images)
    assert torch.equal(blend(images, background, zeros), background)
    torch.testing.assert_close(blend(images, background, ones / 4), 0.25 * images + 0.75 * background)


def test_blend_is_exact_per_pixel_at_full_size():
    images, background = lattice_images(1), lattice_images(1, seed=5)
    mask = torch.zeros(1, 1, 16, 16)
    mask[..., :8] = 1
    mixed = blend(images, background, mask)
    torch.testing.assert_close(mixed[..., :8], images[..., :8])
    assert torch.equal(mixed[..., 8:], background[..., 8:])


def test_resize_map_of_a_constant_is_constant_and_a_fitting_map_is_returned():
    mask = torch.full((2, 1, 3, 3), 0.4)
    torch.testing.assert_close(resize_map(mask, (7, 9)), torch.full((2, 1, 7, 9), 0.4))
    assert resize_map(mask, (3, 3)) is mask


def test_uninformative_is_legal_and_belongs_to_the_image():
    images, names = lattice_images(8), [str(i) for i in range(8)]
    together = uninformative(images, image_generators(0, names))
    assert ((together >= 0) & (together <= 1)).all()
    for i in reversed(range(8)):
        alone = uninformative(images[i : i + 1], image_generators(0, names[i : i + 1]))
        torch.testing.assert_close(alone[0], together[i], atol=1e-6, rtol=0)


@pytest.mark.parametrize("probability", [0.0, 1.0])
def test_uninformative_takes_the_background_asked_for(probability):
    images = lattice_images(6)
    result = uninformative(images, image_generators(0, [str(i) for i in range(6)]), probability)
    blurred = gaussian_blur(images, 11 / 224 * 16).clamp(0, 1)
    assert torch.equal(result, blurred) == (probability == 1)
    if probability == 0:
        # one random colour and faint noise: what varies within a channel is the noise alone
        deviation = result.std((2, 3))
        assert (deviation < 0.08).all()
        assert (deviation > 0.03).all()
        assert result.mean((2, 3)).std(0).amin() > 0.05


def test_the_background_of_a_transposed_image_is_the_transposed_background():
    wide = torch.rand(2, 3, 24, 72, generator=torch.Generator().manual_seed(0))
    of_wide, of_tall = (uninformative(x, image_generators(0, list("ab")), 1.0) for x in (wide, wide.transpose(2, 3)))
    torch.testing.assert_close(of_tall, of_wide.transpose(2, 3), rtol=0, atol=1e-6)
    assert torch.equal(of_wide, gaussian_blur(wide, 11 / 224 * 24).clamp(0, 1)), "by the shorter side"


@pytest.mark.parametrize("shape", [(60, 1), (1, 60), (1, 1)])
def test_a_side_of_one_pixel_cannot_be_blurred(shape):
    with pytest.raises(ValueError, match=rf"images: {shape[0]} x {shape[1]} pixels"):
        gaussian_blur(torch.rand(1, 3, *shape), 2.0)
