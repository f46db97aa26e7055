from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.spatial import ConvexHull
from scipy.stats import kstest

from lightning_adv2.functional.patches import random_patch

SIDES, SEEDS = st.integers(7, 56), st.integers(0, 2**32)


def patch(height: int, width: int, seed: int) -> np.ndarray:
    drawn = random_patch((height, width), torch.Generator().manual_seed(seed))
    assert drawn.shape == (1, height, width)
    assert drawn.dtype == torch.float32
    return drawn[0].numpy()


@given(height=SIDES, width=SIDES, seed=SEEDS)
@settings(max_examples=200)
def test_a_patch_is_binary_and_covers_its_share(height, width, seed):
    drawn = patch(height, width, seed)
    assert np.isin(drawn, (0, 1)).all()
    assert 0.05 <= drawn.mean(dtype=np.float64) <= 0.30
    np.testing.assert_array_equal(drawn, patch(height, width, seed))


@given(height=SIDES, width=SIDES, seed=SEEDS)
@settings(max_examples=60)
def test_a_patch_is_convex(height, width, seed):
    drawn = patch(height, width, seed)
    inside = np.argwhere(drawn).astype(float)
    if np.linalg.matrix_rank(inside - inside[0]) < 2:
        return  # pixels in a line have no hull
    half_planes = ConvexHull(inside).equations
    outside = np.argwhere(drawn == 0)
    reach = (half_planes[:, :2] @ outside.T + half_planes[:, 2:]).max(0)
    assert reach.min() > -1e-9


@pytest.fixture(scope="module")
def shapes() -> dict[str, np.ndarray]:
    """Area, centre and second moments of many large patches: what a rectangle and an ellipse are told apart by."""
    side, found = 160, []
    for seed in range(400):
        rows, columns = np.nonzero(patch(side, side, seed))
        variances, axes = np.linalg.eigh(np.cov(columns, rows, bias=True))
        angle = math.atan2(axes[1, 1], axes[0, 1]) % math.pi / math.pi
        edge = min(rows.min(), columns.min(), side - 1 - rows.max(), side - 1 - columns.max())
        found.append((len(rows), *variances, angle, columns.mean(), rows.mean(), edge))
    names = ("area", "minor", "major", "angle", "x", "y", "edge")
    return dict(zip(names, np.array(found).T, strict=True))


def test_a_patch_is_a_rectangle_or_an_ellipse(shapes):
    # Half axes a, b: a rectangle has area 4ab and variances aa/3 and bb/3, an ellipse pi ab, aa/4 and bb/4.
    # Half a row of pixels more or less on one side, of about 50, moves the quotient by 1 percent.
    form = shapes["area"] / np.sqrt(shapes["minor"] * shapes["major"])
    rectangle, ellipse = np.abs(form - 12) < 0.12, np.abs(form - 4 * math.pi) < 0.12
    assert (rectangle | ellipse).all()
    assert 160 < rectangle.sum() < 240


def test_area_ratio_and_angle_are_random(shapes):
    share = shapes["area"] / 160**2
    assert kstest((share - 0.05) / 0.25, "uniform").pvalue > 0.01
    ratio = np.sqrt(shapes["major"] / shapes["minor"])
    assert ratio.min() > 0.99
    assert ratio.max() < 2.02
    long = ratio > 1.2
    assert long.sum() > 200
    assert kstest(shapes["angle"][long], "uniform").pvalue > 0.01


def test_position_is_random_within_the_map(shapes):
    # Cut off by the border, a shape would no longer have its form either.
    assert shapes["edge"].min() >= 0
    for name in ("x", "y"):
        assert shapes[name].min() < 40
        assert shapes[name].max() > 120
        assert abs(shapes[name].mean() - 79.5) < 6
    assert abs(np.corrcoef(shapes["x"], shapes["y"])[0, 1]) < 0.15


def test_a_patch_leaves_the_global_random_numbers_alone():
    before = torch.get_rng_state()
    patch(20, 20, 0)
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize("size", [(1, 2), (2, 1), (2, 2), (1, 50), (3, 1)])
def test_tiny_maps_are_neither_empty_nor_full(size):
    for seed in range(20):
        assert 0 < patch(*size, seed).mean() < 1


@pytest.mark.parametrize("size", [(1, 1), (0, 5), (5, 0)])
def test_a_map_without_room_is_refused(size):
    with pytest.raises(ValueError, match=r"size=.*two pixels"):
        random_patch(size, torch.Generator())
