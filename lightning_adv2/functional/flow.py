"""Flow fields: moving the pixels of an image instead of changing their colours (StAdv; Xiao et al., ICLR 2018)."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


def warp(images: Tensor, flow: Tensor) -> Tensor:
    """The image with every pixel taken from its position plus its flow (bilinear; StAdv, Eqn 1).

    Beyond the border the image continues with the border's colour. A whole-numbered flow returns the image's own values
    bit for bit, which ``grid_sample`` does not. Where a component of the flow is a whole number the result has a kink;
    its derivative there is the one towards larger flow.

    Args:
        images: ``(B, C, H, W)``.
        flow: ``(B, 2, H, W)`` in pixels; ``flow[:, 0]`` is du, to the right, ``flow[:, 1]`` is dv, downwards.

    Returns:
        ``(B, C, H, W)``, differentiable with respect to both; between the smallest and the largest value of the image.

    Raises:
        ValueError: the shapes do not fit.
    """
    count, channels, height, width = images.shape
    if flow.shape != (count, 2, height, width):
        raise ValueError(
            f"flow: its shape is {tuple(flow.shape)}; images {tuple(images.shape)} need ({count}, 2, {height}, {width})"
        )
    # Split the flow, not the position: adding the column first would cost a small flow its last digits.
    whole = flow.detach().floor()
    rest = flow - whole
    right, down = rest[:, :1], rest[:, 1:]
    # One ring of border pixels stands for all that lies beyond, and makes the four corners four views of one array.
    pixels = F.pad(images, (1, 1, 1, 1), mode="replicate").flatten(2)
    column = whole[:, 0].clamp(-width - 1, width + 1).long() + torch.arange(1, width + 1, device=flow.device)
    row = whole[:, 1].clamp(-height - 1, height + 1).long() + torch.arange(1, height + 1, device=flow.device)[:, None]
    step = width + 2
    corner = row.clamp(0, height) * step + column.clamp(0, width)
    index = corner.flatten(1)[:, None].expand(-1, channels, -1)
    shifts = (0, 1, step, step + 1)
    first, second, third, fourth = (pixels[:, :, shift:].gather(2, index).view_as(images) for shift in shifts)
    return torch.lerp(torch.lerp(first, second, right), torch.lerp(third, fourth, right), down)


def flow_smoothness(flow: Tensor) -> Tensor:
    """l_flow: the differences of neighbouring pixels' flows (StAdv, Eqn 4).

    The sum over all pixels i and their up to four neighbours j of sqrt((du_i - du_j)^2 + (dv_i - dv_j)^2), so that each
    pair counts twice.

    Args:
        flow: ``(B, 2, H, W)`` in pixels.

    Returns:
        ``(B,)`` in pixels, >= 0; at a constant flow its gradient is 0.
    """
    # The root of an exact zero has an infinite slope, and the gradient would be NaN; the shift vanishes in any sum.
    tiny = torch.finfo(flow.dtype).tiny

    def along(dim: int) -> Tensor:
        return (flow.diff(dim=dim).square().sum(1) + tiny).sqrt().flatten(1).sum(1)

    return 2 * (along(2) + along(3))


def flow_norm(flow: Tensor) -> Tensor:
    """Mean Euclidean length of the pixels' flow: the size of a spatial perturbation (StAdv).

    Args:
        flow: ``(B, 2, H, W)`` in pixels.

    Returns:
        ``(B,)`` in pixels, >= 0.
    """
    length: Tensor = torch.linalg.vector_norm(flow, dim=1)
    return length.flatten(1).mean(1)
