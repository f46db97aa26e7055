"""Random patches: target maps that do not depend on the image (paper section 4)."""

from __future__ import annotations

import math

import torch
from torch import Generator, Tensor


def random_patch(size: tuple[int, int], generator: Generator) -> Tensor:
    """A target map with a random rectangle or ellipse, 1 inside and 0 outside (paper section 4, random patch).

    Both shapes have equal chances, and size, angle and position are random. The patch covers between 5 and 30 percent
    of the map's pixels, every number of pixels with equal chances. Its sides (or axes) have a ratio between 1 : 1 and 1
    : 2. The patch lies within the map where it fits, which is always so on a square.

    Args:
        size: height and width of the map in pixels, at least two pixels in all.
        generator: a CPU generator, the only source of randomness.

    Returns:
        ``(1, h, w)`` float32 of zeros and ones, neither empty nor full.

    Raises:
        ValueError: a map of a single pixel, or of none.
    """
    height, width = size
    pixels = height * width
    if min(size) < 1 or pixels < 2:
        raise ValueError(f"size={tuple(size)}: a patch needs a map of at least two pixels")
    kind, area, ratio, angle, x, y = torch.rand(6, generator=generator, dtype=torch.float64).tolist()
    least = -(-pixels // 20)
    most = max(least, 3 * pixels // 10)
    count = least + int(area * (most - least + 1))
    rectangle = kind < 0.5
    long = math.sqrt(count / (4 if rectangle else math.pi) * 2**ratio)
    short = long / 2**ratio
    cosine, sine = math.cos(math.pi * angle), math.sin(math.pi * angle)
    if rectangle:
        reach_x = abs(long * cosine) + abs(short * sine)
        reach_y = abs(long * sine) + abs(short * cosine)
    else:
        reach_x, reach_y = math.hypot(long * cosine, short * sine), math.hypot(long * sine, short * cosine)
    centre_x = _between(reach_x, width - reach_x, x)
    centre_y = _between(reach_y, height - reach_y, y)
    # Pixel (i, j) is the point (j + 1/2, i + 1/2).
    across = torch.arange(width, dtype=torch.float64) + 0.5 - centre_x
    along = torch.arange(height, dtype=torch.float64)[:, None] + 0.5 - centre_y
    u = (across * cosine + along * sine) / long
    v = (along * cosine - across * sine) / short
    distance = torch.maximum(u.abs(), v.abs()) if rectangle else torch.hypot(u, v)
    # The pixels nearest to the centre in the shape's own norm, by number: on a coarse map a thin shape could otherwise
    # slip between the pixels' centres.
    nearest = distance.flatten().argsort(stable=True)[:count]
    patch = torch.zeros(pixels)
    patch[nearest] = 1
    return patch.view(1, height, width)


def _between(low: float, high: float, share: float) -> float:
    return low + share * (high - low) if low < high else (low + high) / 2
