"""Feature squeezing: psi(x), an image with less room for a perturbation (Xu et al. 2018, section 2.3)."""

from __future__ import annotations

from abc import ABC, abstractmethod

import torch
from torch import Tensor

from lightning_adv2.functional.denoise import check_windows, non_local_means


def bit_depth(images: Tensor, bits: int) -> Tensor:
    """Rounding to 2^i levels, round(x (2^i - 1)) / (2^i - 1) (Xu et al. 2018).

    Args:
        images: ``(B, C, H, W)`` in [0, 1].
        bits: i in [1, 8].

    Returns:
        The same shape, in [0, 1], with zero gradient; see :func:`straight_through`.

    Raises:
        ValueError: ``bits`` outside [1, 8].
    """
    if not 1 <= bits <= 8:
        raise ValueError(f"bits={bits}: from 1 to 8; 8 leaves an 8-bit image as it is")
    levels: int = 2**bits - 1
    return (images * levels).round() / levels


def median(images: Tensor, size: int) -> Tensor:
    """Median over a square window, per channel, as ``scipy.ndimage.median_filter`` computes it (Xu et al. 2018).

    An even window reaches one pixel further up and left, and the upper of its two middle values is taken. Beyond the
    border the image is reflected, its edge repeated. The gradient goes to the pixel chosen.

    Args:
        images: ``(B, C, H, W)``.
        size: side of the window in pixels, from 2 to twice the image's side.

    Returns:
        The same shape, within the range of the image.

    Raises:
        ValueError: ``size`` out of range.
    """
    height, width = images.shape[-2:]
    if not 2 <= size <= 2 * min(height, width):
        raise ValueError(f"size={size}: from 2 to twice the image's side ({height} x {width}); the paper takes 2 and 3")
    rows, columns = (_reflected(side, size, images.device) for side in (height, width))
    windows: Tensor = images[..., rows, :][..., columns].unfold(2, size, 1).unfold(3, size, 1).flatten(4)
    return windows.sort(-1).values[..., size * size // 2]


def _reflected(side: int, size: int, device: torch.device) -> Tensor:
    """Indices of ``side`` pixels with the windows' reflected margins: 1 0 | 0 1 2 ... n | n n-1."""
    index = torch.arange(-(size // 2), side + (size - 1) // 2, device=device)
    index = torch.where(index < 0, -1 - index, index)
    return torch.where(index >= side, 2 * side - 1 - index, index)


def straight_through(squeezed: Tensor, images: Tensor) -> Tensor:
    """The value of ``squeezed`` with the gradient of ``images`` (BPDA, Athalye et al. 2018, section 4.1).

    Args:
        squeezed: ``(B, C, H, W)``, psi(x); the value returned.
        images: ``(B, C, H, W)``, x.

    Returns:
        ``(B, C, H, W)``.
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
        """psi(x) (Xu et al. 2018, section 2.3).

        Args:
            images: ``(B, C, H, W)`` in [0, 1], x.

        Returns:
            The same shape and range, differentiable.

        Raises:
            ValueError: the images are too small for the squeezer.
        """


class BitDepth(Squeezer):
    """:func:`bit_depth` with a straight-through gradient.

    Args:
        bits: i in [1, 8]; the paper takes 2 and 3.

    Raises:
        ValueError: ``bits`` outside [1, 8].
    """

    def __init__(self, bits: int = 2) -> None:
        if not 1 <= bits <= 8:
            raise ValueError(f"bits={bits}: from 1 to 8; the paper takes 2 and 3")
        self.bits, self.name = bits, f"bit{bits}"

    def __call__(self, images: Tensor) -> Tensor:
        """The images ``(B, C, H, W)`` in [0, 1] at 2^bits levels; the same shape and range (Xu et al. 2018)."""
        return straight_through(bit_depth(images, self.bits), images)


class MedianFilter(Squeezer):
    """:func:`median` with its exact gradient.

    Args:
        size: side of the window in pixels; the paper takes 2 and 3.

    Raises:
        ValueError: ``size`` below 2.
    """

    def __init__(self, size: int = 3) -> None:
        if size < 2:
            raise ValueError(f"size={size}: at least 2; the paper takes 2 and 3")
        self.size, self.name = size, f"median{size}x{size}"

    def __call__(self, images: Tensor) -> Tensor:
        """The median-filtered images ``(B, C, H, W)`` in [0, 1]; the same shape and range (Xu et al. 2018).

        Raises:
            ValueError: the window is larger than twice the image's side.
        """
        return median(images, self.size)


class NonLocalMeans(Squeezer):
    """:func:`~lightning_adv2.functional.denoise.non_local_means` with a straight-through gradient.

    The exact gradient would keep 121 shifted copies of the batch in memory.

    Args:
        search: side of the neighbourhood in pixels, odd.
        patch: side of the patches compared in pixels, odd.
        strength: h on the 8-bit scale, > 0.

    Raises:
        ValueError: an even window, or a strength that is not positive.
    """

    def __init__(self, search: int = 11, patch: int = 3, strength: float = 4.0) -> None:
        check_windows(search, patch, strength)
        self.search, self.patch, self.strength = search, patch, strength
        self.name = f"nlm{search}-{patch}-{strength:g}"

    def __call__(self, images: Tensor) -> Tensor:
        """The smoothed images ``(B, C, H, W)`` in [0, 1], edges kept; the same shape and range (Buades et al. 2005).

        Raises:
            ValueError: the images are too small to reflect at their borders.
        """
        return straight_through(non_local_means(images, self.search, self.patch, self.strength), images)
