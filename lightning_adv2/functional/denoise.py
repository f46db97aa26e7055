"""Non-local means (Buades et al. 2005), in grey and in colour."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

# Linear RGB to CIE XYZ divided by the white point D65: rows add up to 1.
_XYZ = ((0.433953, 0.376219, 0.189828), (0.212671, 0.715160, 0.072169), (0.017758, 0.109476, 0.872766))
_KNEE, _SLOPE, _OFFSET = 0.008856, 7.787, 16 / 116


@torch.no_grad()
def non_local_means(images: Tensor, search: int = 11, patch: int = 3, strength: float = 4.0) -> Tensor:
    """Non-local means (Buades et al. 2005): each pixel's neighbourhood, weighted by the likeness of the surroundings.

    The weight of a pixel is exp(-d / h^2) with d the mean squared difference of the two patches. The defaults are the
    "11-3-4" of Xu et al. 2018 (section 2.3), who ran OpenCV's ``fastNlMeansDenoisingColored`` (h = hColor = 4). As in
    OpenCV, colour images are smoothed in Lab, lightness and colour apart, with the RGB values taken as linear.
    scikit-image's function with the same numbers is another filter (up to 15 grey levels apart from the formula in its
    fast mode, 10 in the slow mode).

    Args:
        images: ``(B, C, H, W)`` in [0, 1]; three channels are RGB, any other number of channels is compared together.
        search: side of the neighbourhood in pixels, odd.
        patch: side of the patches in pixels, odd.
        strength: h on the 8-bit scale, > 0; larger values smooth more.

    Returns:
        The same shape, in [0, 1], without a graph.

    Raises:
        ValueError: an even window, a strength that is not positive, or images too small to reflect at their borders.
    """
    check_windows(search, patch, strength)
    if min(images.shape[-2:]) < (search + patch) // 2:
        raise ValueError(
            f"images: {tuple(images.shape[-2:])} is too small to reflect at its borders for search={search} and "
            f"patch={patch}; take smaller windows"
        )
    h = strength / 255
    if images.shape[1] != 3:
        return _smooth(images, search, patch, h).clamp(0, 1)
    lightness, colour = torch.split(_to_lab(images), [1, 2], dim=1)
    smooth = torch.cat([_smooth(lightness, search, patch, h), _smooth(colour, search, patch, h)], dim=1)
    return _from_lab(smooth).clamp(0, 1)


def check_windows(search: int, patch: int, strength: float) -> None:
    """Raise a ValueError for parameters that :func:`non_local_means` does not take.

    Args:
        search: side of the neighbourhood in pixels; must be odd.
        patch: side of the patches in pixels; must be odd.
        strength: h on the 8-bit scale; must be positive.

    Raises:
        ValueError: names the parameter and the paper's value.
    """
    for name, value in (("search", search), ("patch", patch)):
        if value < 1 or value % 2 == 0:
            raise ValueError(f"{name}={value}: the side of a window around a pixel is odd; the paper takes 11 and 3")
    if not strength > 0:
        raise ValueError(f"strength={strength}: must be above 0; the paper takes 4")


def _smooth(values: Tensor, search: int, patch: int, h: float) -> Tensor:
    height, width = values.shape[-2:]
    reach, margin = search // 2, patch // 2
    padded = F.pad(values, (reach + margin,) * 4, mode="reflect")
    tall, wide = height + 2 * margin, width + 2 * margin
    centre = padded[..., reach : reach + tall, reach : reach + wide]
    total, weights = torch.zeros_like(values), torch.zeros_like(values[:, :1])
    for y in range(search):
        for x in range(search):
            moved = padded[..., y : y + tall, x : x + wide]
            distance = F.avg_pool2d((centre - moved).square().mean(1, keepdim=True), patch, stride=1)
            weight = torch.exp(-distance / h**2)
            total += weight * moved[..., margin : margin + height, margin : margin + width]
            weights += weight
    return total / weights


def _to_lab(images: Tensor) -> Tensor:
    """Linear RGB -> L / 100, a / 255, b / 255: a unit is OpenCV's 8-bit range in each channel."""
    xyz = torch.einsum("ij,bjhw->bihw", images.new_tensor(_XYZ), images)
    f = torch.where(xyz > _KNEE, xyz.clamp(min=_KNEE) ** (1 / 3), _SLOPE * xyz + _OFFSET)
    fx, fy, fz = f.unbind(1)
    return torch.stack([(116 * fy - 16) / 100, 500 * (fx - fy) / 255, 200 * (fy - fz) / 255], dim=1)


def _from_lab(lab: Tensor) -> Tensor:
    lightness, a, b = lab.unbind(1)
    fy = (100 * lightness + 16) / 116
    f = torch.stack([fy + 255 * a / 500, fy, fy - 255 * b / 200], dim=1)
    xyz = torch.where(f > _SLOPE * _KNEE + _OFFSET, f**3, (f - _OFFSET) / _SLOPE)
    return torch.einsum("ij,bjhw->bihw", torch.linalg.inv(lab.new_tensor(_XYZ)), xyz)
