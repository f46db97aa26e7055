"""Feature squeezing: psi(x), an image with less room for a perturbation (Xu et al. 2018, section 2.3)."""

from __future__ import annotations

from abc import ABC, abstractmethod

import torch
from torch import Tensor

from lightning_adv2.functional.denoise import check_windows, non_local_means


def bit_depth(images: Tensor, bits: int) -> Tensor:
    """Round to 2^i levels: round(x (2^i - 1)) / (2^i - 1). Its gradient is 0; see :func:`straight_through`.

    Args:
        images: ``(B, C, H, W)`` in [0, 1].
        bits: i in [1, 8].

    Returns:
        The same shape, in [0, 1].
    """
    if not 1 <= bits <= 8:
        raise ValueError(f"bits={bits}: from 1 to 8; 8 leaves an 8-bit image as it is")
    levels: int = 2**bits - 1
    return (images * levels).round() / levels


def median(images: Tensor, size: int) -> Tensor:
    """The median over a square window, per channel, as ``scipy.ndimage.median_filter`` has it.

    That fixes what an even window leaves open: it reaches one pixel further up and left, and takes the upper of the two
    middle values. Beyond the border the image is reflected, its edge repeated. The gradient goes to the pixel chosen.

    Args:
        images: ``(B, C, H, W)``.
        size: side of the window, 2 or more, no more than twice the image's side.

    Returns:
        The same shape.
    """
    height, width = images.shape[-2:]
    if not 2 <= size <= 2 * min(height, width):
        raise ValueError(f"size={size}: from 2 to twice the image's side ({height} x {width}); the paper takes 2 and 3")
    rows, columns = (_reflected(side, size, images.device) for side in (height, width))
    windows: Tensor = images[..., rows, :][..., columns].unfold(2, size, 1).unfold(3, size, 1).flatten(4)
    return windows.sort(-1).values[..., size * size // 2]


def _reflected(side: int, size: int, device: torch.device) -> Tensor:
    """Places of ``side`` pixels with what the windows need on both sides: 1 0 | 0 1 2 ... n | n n-1."""
    index = torch.arange(-(size // 2), side + (size - 1) // 2, device=device)
    index = torch.where(index < 0, -1 - index, index)
    return torch.where(index >= side, 2 * side - 1 - index, index)


def straight_through(squeezed: Tensor, images: Tensor) -> Tensor:
    """The value of ``squeezed`` with the gradient of ``images`` (BPDA, Athalye et al. 2018, section 4.1).

    Args:
        squeezed: psi(x), ``(B, C, H, W)``, exactly what is returned.
        images: x, the same shape.
    """
    return squeezed.detach() + (images - images.detach())


class Squeezer(ABC):
    """psi(x), differentiable: exactly where it can be, otherwise as if it were the identity.

    Attributes:
        name: for tables and log keys.
    """

    name: str

    @abstractmethod
    def __call__(self, images: Tensor) -> Tensor:
        """Squeeze ``(B, C, H, W)`` in [0, 1]; the same shape and range."""


class BitDepth(Squeezer):
    """See :func:`bit_depth`; straight-through gradient.

    Args:
        bits: i in [1, 8]; the paper takes 2 and 3.
    """

    def __init__(self, bits: int = 2) -> None:
        if not 1 <= bits <= 8:
            raise ValueError(f"bits={bits}: from 1 to 8; the paper takes 2 and 3")
        self.bits, self.name = bits, f"bit{bits}"

    def __call__(self, images: Tensor) -> Tensor:
        """Fewer levels."""
        return straight_through(bit_depth(images, self.bits), images)


class MedianFilter(Squeezer):
    """See :func:`median`; exact gradient.

    Args:
        size: side of the window; the paper takes 2 and 3.
    """

    def __init__(self, size: int = 3) -> None:
        if size < 2:
            raise ValueError(f"size={size}: at least 2; the paper takes 2 and 3")
        self.size, self.name = size, f"median{size}x{size}"

    def __call__(self, images: Tensor) -> Tensor:
        """Smoother."""
        return median(images, self.size)


class NonLocalMeans(Squeezer):
    """See :func:`lightning_adv2.functional.denoise.non_local_means`; straight-through gradient.

    It has a gradient of its own, but one that keeps 121 shifted copies of the batch in memory.

    Args:
        search: side of the neighbourhood, odd.
        patch: side of the patches compared, odd.
        strength: h on the 8-bit scale.
    """

    def __init__(self, search: int = 11, patch: int = 3, strength: float = 4.0) -> None:
        check_windows(search, patch, strength)
        self.search, self.patch, self.strength = search, patch, strength
        self.name = f"nlm{search}-{patch}-{strength:g}"

    def __call__(self, images: Tensor) -> Tensor:
        """Smoother, edges kept."""
        return straight_through(non_local_means(images, self.search, self.patch, self.strength), images)
