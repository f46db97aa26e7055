"""The feasible images: within epsilon of the benign image, in [0, 1], and storable in 8 bits."""

from __future__ import annotations

from torch import Tensor

LEVELS = 255
# An 8-bit level that lies on the ball's boundary up to fp32 rounding counts as inside.
_TOLERANCE = 1e-3


def project_linf(delta: Tensor, images: Tensor, epsilon: float) -> Tensor:
    """Pi: the closest delta with |delta| <= epsilon and images + delta in [0, 1] (paper section 3.1).

    Args:
        delta: ``(B, C, H, W)``, in units of the pixel range.
        images: ``(B, C, H, W)`` in [0, 1], the benign images.
        epsilon: radius in units of the pixel range.

    Returns:
        ``(B, C, H, W)``, in units of the pixel range.
    """
    return delta.clamp(-epsilon, epsilon).clamp(-images, 1 - images)


def quantize(adv_images: Tensor, images: Tensor, epsilon: float) -> Tensor:
    """The nearest 8-bit image within epsilon of the benign image (the ball of paper section 3.1, as it is stored).

    Plain rounding would leave the ball: epsilon 0.031 is 7.9 levels, so that a fully moved pixel would round to 8.

    Args:
        adv_images: ``(B, C, H, W)``.
        images: ``(B, C, H, W)`` in [0, 1], the benign images.
        epsilon: radius in units of the pixel range.

    Returns:
        ``(B, C, H, W)`` in [0, 1], every value a multiple of 1/255.

    Raises:
        ValueError: no 8-bit level lies within epsilon of some benign pixel.
    """
    low = ((images - epsilon).clamp(min=0) * LEVELS - _TOLERANCE).ceil()
    high = ((images + epsilon).clamp(max=1) * LEVELS + _TOLERANCE).floor()
    if epsilon * LEVELS < 0.5 and bool((low > high).any()):
        raise ValueError(
            f"epsilon={epsilon}: no 8-bit level lies within it of some benign pixel; "
            "load the images as 8-bit (k / 255) or take epsilon >= 1/510"
        )
    return (adv_images * LEVELS).round().clamp(low, high) / LEVELS
