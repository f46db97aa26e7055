from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
from scipy import ndimage
from torch import Tensor

from lightning_adv2.functional.squeeze import (
    BitDepth,
    MedianFilter,
    NonLocalMeans,
    Squeezer,
    bit_depth,
    median,
    straight_through,
)

SQUEEZERS: list[Squeezer] = [BitDepth(2), BitDepth(3), MedianFilter(2), MedianFilter(3), NonLocalMeans()]
NAMES = ["bit2", "bit3", "median2x2", "median3x3", "nlm11-3-4"]


def lattice(*shape: int, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(0, 256, shape, generator=generator).double() / 255


@pytest.mark.parametrize("bits", range(1, 9))
def test_bit_depth_is_the_nearest_level(bits: int) -> None:
    every = (torch.arange(256).double() / 255).view(1, 1, 16, 16)
    levels = np.arange(2**bits) / (2**bits - 1)
    nearest = levels[np.abs(every.numpy()[..., None] - levels).argmin(-1)]
    np.testing.assert_allclose(bit_depth(every, bits).numpy(), nearest, atol=1e-15)
    assert len(bit_depth(every, bits).unique()) == 2**bits


@pytest.mark.parametrize("bits", [0, 9])
def test_bit_depth_out_of_range(bits: int) -> None:
    with pytest.raises(ValueError, match=f"bits={bits}: from 1 to 8"):
        bit_depth(lattice(1, 3, 4, 4), bits)
    with pytest.raises(ValueError, match=f"bits={bits}: from 1 to 8"):
        BitDepth(bits)


@pytest.mark.parametrize("size", [2, 3, 4, 5])
@pytest.mark.parametrize("shape", [(2, 3, 8, 8), (1, 1, 5, 9), (3, 3, 7, 4), (1, 2, 32, 32), (1, 3, 3, 3)])
def test_median_is_scipys(shape: tuple[int, ...], size: int) -> None:
    images = lattice(*shape)
    expected = ndimage.median_filter(images.numpy(), size=(1, 1, size, size), mode="reflect")
    assert (median(images, size).numpy() == expected).all()


def test_median_gradient_goes_to_the_pixel_chosen() -> None:
    # All values differ, so that the choice is stable and finite differences hold.
    order = torch.randperm(2 * 6 * 7, generator=torch.Generator().manual_seed(1)).double()
    images = (order / len(order)).view(1, 2, 6, 7).requires_grad_()
    for size in (2, 3):
        assert torch.autograd.gradcheck(lambda x, s=size: median(x, s), images, eps=1e-6)
    (gradient,) = torch.autograd.grad(median(images, 3).sum(), images)
    assert gradient.sum() == images.numel(), "every output passes a gradient of 1 to one pixel"


def test_median_size() -> None:
    with pytest.raises(ValueError, match="size=1: from 2 to twice the image's side"):
        median(lattice(1, 3, 8, 8), 1)
    with pytest.raises(ValueError, match=r"size=9: .*\(4 x 8\)"):
        median(lattice(1, 3, 4, 8), 9)
    with pytest.raises(ValueError, match="size=1: at least 2"):
        MedianFilter(1)


def test_straight_through() -> None:
    images = lattice(2, 3, 4, 4).float().requires_grad_()
    squeezed = bit_depth(images.detach(), 2)
    result = straight_through(squeezed, images)
    assert torch.equal(result, squeezed), "to the last bit"
    weight = torch.rand(result.shape, generator=torch.Generator().manual_seed(0))
    (gradient,) = torch.autograd.grad((weight * result).sum(), images)
    assert torch.equal(gradient, weight)


def test_names() -> None:
    assert [squeezer.name for squeezer in SQUEEZERS] == NAMES
    assert NonLocalMeans(13, 3, 2.5).name == "nlm13-3-2.5"


@pytest.mark.parametrize("squeezer", SQUEEZERS, ids=NAMES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_contract(squeezer: Squeezer, dtype: torch.dtype, make_images: Callable[..., Tensor]) -> None:
    images = make_images(3, dtype=dtype).requires_grad_()
    squeezed = squeezer(images)
    assert squeezed.shape == images.shape
    assert squeezed.dtype == dtype
    assert squeezed.amin() >= 0
    assert squeezed.amax() <= 1
    assert not torch.equal(squeezed, images)
    (gradient,) = torch.autograd.grad(squeezed.square().sum(), images)
    assert gradient.isfinite().all()
    assert (gradient != 0).any()
    singles = torch.cat([squeezer(images[i : i + 1]) for i in range(3)])
    torch.testing.assert_close(squeezed, singles, rtol=0, atol=0 if dtype == torch.float64 else 1e-6)
    if not isinstance(squeezer, MedianFilter):
        torch.testing.assert_close(gradient, 2 * squeezed, rtol=0, atol=0)
    assert squeezer(images[:0]).shape == images[:0].shape
