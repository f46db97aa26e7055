from __future__ import annotations

import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from cases import lattice_images
from scipy.ndimage import map_coordinates
from torch import Tensor

from lightning_adv2.functional.flow import flow_norm, flow_smoothness, warp


def uniform(*shape: int, reach: float = 1.0, seed: int = 0) -> Tensor:
    drawn = torch.rand(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return reach * (2 * drawn - 1)


def off_the_grid(flow: Tensor, margin: float = 0.05) -> Tensor:
    """The same flow, moved away from whole numbers, where the warp has kinks."""
    whole = flow.floor()
    return whole + margin + (1 - 2 * margin) * (flow - whole)


@pytest.mark.parametrize("size", [(9, 12), (12, 7), (1, 8), (8, 1), (1, 1), (2, 2)])
@pytest.mark.parametrize("reach", [0.1, 1.0, 6.0, 40.0])
def test_warp_follows_scipy(size, reach):
    images, flow = uniform(3, 2, *size, seed=1), uniform(3, 2, *size, reach=reach, seed=2)
    rows, columns = np.mgrid[: size[0], : size[1]]
    warped = warp(images, flow).numpy()
    for i in range(3):
        at = np.stack([rows + flow[i, 1].numpy(), columns + flow[i, 0].numpy()])
        for c in range(2):
            expected = map_coordinates(images[i, c].numpy(), at, order=1, mode="nearest")
            np.testing.assert_allclose(warped[i, c], expected, rtol=0, atol=1e-12)


def test_warp_and_its_gradients_follow_grid_sample():
    images, flow = uniform(2, 3, 8, 10, seed=1), off_the_grid(uniform(2, 2, 8, 10, reach=3, seed=2))
    weight = uniform(2, 3, 8, 10, seed=3)

    def reference(images: Tensor, flow: Tensor) -> Tensor:
        rows, columns = torch.meshgrid(torch.arange(8), torch.arange(10), indexing="ij")
        grid = torch.stack([2 * (columns + flow[:, 0]) / 9 - 1, 2 * (rows + flow[:, 1]) / 7 - 1], -1)
        return F.grid_sample(images, grid, padding_mode="border", align_corners=True)

    found = []
    for function in (warp, reference):
        inputs = images.clone().requires_grad_(), flow.clone().requires_grad_()
        found.append(torch.autograd.grad((function(*inputs) * weight).sum(), inputs))
    for ours, theirs in zip(*found, strict=True):
        assert theirs.abs().amax() > 0.1
        torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-10)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_whole_numbered_flow_is_exact_to_the_bit(dtype):
    images = lattice_images(2, side=12, dtype=dtype)
    still = torch.zeros(2, 2, 12, 12, dtype=dtype)
    assert torch.equal(warp(images, still), images)
    assert torch.equal(warp(images, -still), images)
    for right, down in [(1, 0), (0, 1), (-3, 2), (20, -20)]:
        flow = torch.stack([torch.full_like(still[:, 0], right), torch.full_like(still[:, 0], down)], 1)
        # pixel (r, c) shows what is at (r + down, c + right)
        padded = np.pad(images.numpy(), ((0, 0), (0, 0), (20, 20), (20, 20)), mode="edge")
        expected = padded[:, :, 20 + down : 32 + down, 20 + right : 32 + right]
        np.testing.assert_array_equal(warp(images, flow).numpy(), expected)


def test_a_small_flow_keeps_its_digits_far_from_the_corner():
    stripes = (torch.arange(600) % 2).float().expand(1, 1, 3, -1)
    moved = warp(stripes, torch.full((1, 2, 3, 600), 1e-6))
    torch.testing.assert_close(moved[..., 500], torch.full((1, 1, 3), 1e-6), rtol=1e-4, atol=0)


def test_warped_values_stay_between_the_images_extremes():
    images = lattice_images(4, dtype=torch.float32)
    warped = warp(images, 4 * torch.randn(4, 2, 16, 16, generator=torch.Generator().manual_seed(0)))
    assert warped.amin() >= images.amin()
    assert warped.amax() <= images.amax()


@pytest.mark.parametrize("reach", [0.9, 5.0])
def test_gradients_of_warp_in_finite_differences(reach):
    images = uniform(2, 2, 4, 5, seed=1).requires_grad_()
    flow = off_the_grid(uniform(2, 2, 4, 5, reach=reach, seed=2)).requires_grad_()
    assert torch.autograd.gradcheck(warp, (images, flow), eps=1e-6, atol=1e-7)


@pytest.mark.parametrize("whole", [0.0, 1.0, -2.0])
def test_at_a_whole_number_the_derivative_is_the_one_to_the_right(whole):
    images, weight = uniform(1, 3, 6, 7, seed=1), uniform(1, 3, 6, 7, seed=2)
    flow = torch.full((1, 2, 6, 7), whole, dtype=torch.float64, requires_grad=True)
    (gradient,) = torch.autograd.grad((warp(images, flow) * weight).sum(), flow)
    padded = np.pad(images.numpy(), ((0, 0), (0, 0), (9, 9), (9, 9)), mode="edge")
    there = slice(9 + int(whole), 15 + int(whole)), slice(9 + int(whole), 16 + int(whole))
    for axis, component in ((3, 0), (2, 1)):
        slope = np.roll(padded, -1, axis)[:, :, *there] - padded[:, :, *there]
        np.testing.assert_allclose(gradient[:, component].numpy(), (slope * weight.numpy()).sum(1), atol=1e-12)
    assert (gradient != 0).float().mean() > 0.5


def test_gradient_maps_can_be_attacked_through_the_warp():
    images, target = uniform(1, 2, 5, 5, seed=1), uniform(1, 2, 5, 5, seed=2)
    kernel = uniform(3, 2, 3, 3, seed=3)

    def distance(flow: Tensor) -> Tensor:
        warped = warp(images, flow)
        score = F.conv2d(warped, kernel).tanh().square().sum()
        (gradient,) = torch.autograd.grad(score, warped, create_graph=True)
        return (gradient - target).square().sum()

    flow = off_the_grid(uniform(1, 2, 5, 5, seed=4)).requires_grad_()
    assert torch.autograd.gradcheck(distance, (flow,), eps=1e-6, atol=1e-6)


def test_a_batch_equals_its_images():
    images, flow = lattice_images(5), uniform(5, 2, 16, 16, reach=3, seed=2).float()
    together = warp(images, flow), flow_smoothness(flow), flow_norm(flow)
    for i in range(5):
        own = slice(i, i + 1)
        alone = warp(images[own], flow[own]), flow_smoothness(flow[own]), flow_norm(flow[own])
        assert all(torch.equal(whole[own], part) for whole, part in zip(together, alone, strict=True))


def test_a_flow_without_bounds_does_no_harm():
    images, flow = lattice_images(2), torch.zeros(2, 2, 16, 16)
    flow[0, :, 3, 4] = float("nan")
    flow[1, 0], flow[1, 1] = 1e30, -1e30
    warped = warp(images, flow)
    nan = torch.zeros(16, 16, dtype=torch.bool)
    nan[3, 4] = True
    assert torch.equal(warped[0].isnan(), nan.expand(3, -1, -1))
    assert torch.equal(warped[0, :, ~nan], images[0, :, ~nan])
    assert torch.equal(warped[1], images[1, :, :1, -1:].expand(-1, 16, 16))


@pytest.mark.parametrize("shape", [(2, 2, 8, 9), (1, 2, 8, 8), (2, 3, 8, 8), (2, 8, 8, 2)])
def test_a_flow_of_another_shape_is_refused(shape):
    with pytest.raises(ValueError, match=r"flow: its shape is .*need \(2, 2, 8, 8\)"):
        warp(torch.zeros(2, 3, 8, 8), torch.zeros(shape))


def naive_smoothness(flow: np.ndarray) -> float:
    _, height, width = flow.shape
    total = 0.0
    for r in range(height):
        for c in range(width):
            for i, j in ((r - 1, c), (r + 1, c), (r, c - 1), (r, c + 1)):
                if 0 <= i < height and 0 <= j < width:
                    total += math.hypot(flow[0, r, c] - flow[0, i, j], flow[1, r, c] - flow[1, i, j])
    return total


@pytest.mark.parametrize("size", [(5, 7), (1, 6), (6, 1), (1, 1)])
def test_smoothness_counts_every_pair_twice(size):
    flow = uniform(3, 2, *size, reach=2)
    expected = [naive_smoothness(one.numpy()) for one in flow]
    np.testing.assert_allclose(flow_smoothness(flow).numpy(), expected, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("scale", [1.0, 2.0**40])
def test_smoothness_has_no_gradient_at_a_constant_flow(dtype, scale):
    flow = torch.full((2, 2, 4, 4), 0.3, dtype=dtype, requires_grad=True)
    smoothness = flow_smoothness(flow)
    (gradient,) = torch.autograd.grad(smoothness.sum() * scale, flow)
    assert (smoothness < 1e-15).all()
    assert torch.equal(gradient, torch.zeros_like(flow))


def test_gradient_of_smoothness_in_finite_differences():
    flow = uniform(2, 2, 3, 4, seed=3).requires_grad_()
    assert torch.autograd.gradcheck(flow_smoothness, (flow,), eps=1e-6, atol=1e-6)


def test_size_is_the_mean_displacement():
    flow = torch.tensor([[3.0, 0.0], [4.0, 1.0]]).view(1, 2, 1, 2)
    torch.testing.assert_close(flow_norm(flow), torch.tensor([3.0]))
    random = uniform(4, 2, 5, 6)
    expected = np.hypot(random[:, 0].numpy(), random[:, 1].numpy()).mean((1, 2))
    np.testing.assert_allclose(flow_norm(random).numpy(), expected, rtol=1e-12)
