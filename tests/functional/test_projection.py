from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from lightning_adv2.functional.projection import project_linf, quantize

EPSILON = st.one_of(st.sampled_from([0.031, 1 / 255, 8 / 255, 0.5, 1.0, 1e-6]), st.floats(1e-4, 1.0))
PIXELS = arrays(np.int64, (1, 3, 2, 3), elements=st.integers(0, 255))
MOVES = arrays(np.float32, (1, 3, 2, 3), elements=st.floats(-2, 2, width=32))
DTYPES = st.sampled_from([torch.float32, torch.float64])


def radius_in_levels(epsilon: float) -> int:
    """Whole 8-bit levels within epsilon; a level that misses it by fp32 rounding alone counts as inside."""
    return math.floor(epsilon * 255 + 1e-3)


@given(pixels=PIXELS, moves=MOVES, epsilon=EPSILON, dtype=DTYPES)
@settings(max_examples=200, deadline=None)
def test_quantize_is_legal_and_nearest(pixels, moves, epsilon, dtype):
    images = torch.from_numpy(pixels).to(dtype) / 255
    wanted = images + torch.from_numpy(moves).to(dtype)
    result = quantize(wanted, images, epsilon)
    stored = np.rint(result.numpy() * 255).astype(np.int64)
    # on the lattice, exactly: what an 8-bit file gives back
    np.testing.assert_array_equal(result.numpy(), (torch.from_numpy(stored).to(dtype) / 255).numpy())
    assert ((stored >= 0) & (stored <= 255)).all()
    assert (np.abs(stored - pixels) <= radius_in_levels(epsilon)).all()
    # nearest: no other of the 256 levels is legal and closer
    levels = np.arange(256)
    distance = np.abs(levels - wanted.double().numpy()[..., None] * 255)
    distance[np.abs(levels - pixels[..., None]) > radius_in_levels(epsilon)] = np.inf
    reached = np.abs(stored - wanted.double().numpy() * 255)
    np.testing.assert_allclose(reached, distance.min(-1), atol=1e-3)


def test_the_papers_epsilon_is_seven_levels_not_eight():
    images = torch.full((1, 3, 4, 4), 100 / 255)
    moved = quantize(images + 0.031, images, 0.031)
    assert torch.equal((moved * 255).round(), torch.full_like(moved, 107))
    # What plain rounding would do: leave the ball.
    assert ((images + 0.031) * 255).round().amax() == 108


@given(epsilon=st.floats(1 / 510 + 1e-5, 0.2), seed=st.integers(0, 10**6))
@settings(max_examples=50, deadline=None)
def test_quantize_of_images_off_the_lattice_stays_within_epsilon(epsilon, seed):
    generator = torch.Generator().manual_seed(seed)
    images = torch.rand(1, 3, 4, 4, generator=generator, dtype=torch.float64)
    wanted = images + torch.rand(images.shape, generator=generator, dtype=torch.float64) - 0.5
    result = quantize(wanted, images, epsilon)
    np.testing.assert_allclose(result * 255, (result * 255).round(), atol=1e-9)
    assert ((result - images).abs() <= epsilon + 1e-3 / 255 + 1e-12).all()
    assert ((result >= 0) & (result <= 1)).all()


def test_quantize_refuses_an_epsilon_without_any_level():
    images = torch.full((1, 3, 2, 2), 100.5 / 255)
    with pytest.raises(ValueError, match=r"epsilon=0\.001.*k / 255"):
        quantize(images, images, 0.001)
    on_lattice = torch.full((1, 3, 2, 2), 100 / 255)
    assert torch.equal(quantize(on_lattice + 0.0009, on_lattice, 0.001), on_lattice)


@given(pixels=PIXELS, moves=MOVES, epsilon=EPSILON)
@settings(max_examples=100, deadline=None)
def test_project_linf_is_the_nearest_point_of_ball_and_box(pixels, moves, epsilon):
    images = torch.from_numpy(pixels).double() / 255
    delta = torch.from_numpy(moves).double()
    projected = project_linf(delta, images, epsilon)
    low, high = np.maximum(-epsilon, -images.numpy()), np.minimum(epsilon, 1 - images.numpy())
    np.testing.assert_allclose(projected, np.clip(moves, low, high), atol=1e-12)
    assert torch.equal(project_linf(projected, images, epsilon), projected)
