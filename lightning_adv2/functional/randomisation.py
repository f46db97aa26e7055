"""Parameter randomisation: dependence of a map on the learnt parameters (Adebayo et al. 2018)."""

from __future__ import annotations

from copy import deepcopy
from typing import TypeVar

import torch
from torch import Tensor, nn

Module = TypeVar("Module", bound=nn.Module)


def randomised(module: Module, seed: int = 0) -> Module:
    """A copy of a network with the entries of every parameter in random order (Adebayo et al. 2018).

    The scale of each parameter stays. Buffers, such as BatchNorm's statistics, and the mode are copied unchanged; the
    original is not touched.

    Args:
        module: a classifier or an interpreter.
        seed: of the order.
    """
    copy = deepcopy(module)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in copy.parameters():
            order = torch.randperm(parameter.numel(), generator=generator).to(parameter.device)
            parameter.copy_(parameter.flatten()[order].view_as(parameter))
    return copy


def rank_correlation(first: Tensor, second: Tensor) -> Tensor:
    """Spearman's correlation of two maps' pixels, per image; ties share their mean rank (Adebayo et al. 2018).

    A constant map and a map that varies have nothing in common (0); two constant maps agree (1).

    Args:
        first: ``(B, 1, h, w)``, any range.
        second: the same shape.

    Returns:
        ``(B,)`` in [-1, 1]; NaN where a map holds NaN or infinity.

    Raises:
        ValueError: the shapes differ, or the maps have no pixels.
    """
    if first.shape != second.shape or (not first[:1].numel() and len(first)):
        raise ValueError(
            f"maps of shapes {tuple(first.shape)} and {tuple(second.shape)}: give two of the same, with pixels"
        )
    a, b = _centred_ranks(first), _centred_ranks(second)
    spread = (a.square().sum(1) * b.square().sum(1)).sqrt()
    both_flat = ((a == 0) & (b == 0)).all(1).to(a.dtype)
    found = torch.where(spread > 0, (a * b).sum(1) / torch.where(spread > 0, spread, 1.0), both_flat)
    finite = (first.isfinite() & second.isfinite()).flatten(1).all(1)
    return torch.where(finite, found.clamp(-1, 1), torch.nan).to(first.dtype)


def _centred_ranks(maps: Tensor) -> Tensor:
    """Each pixel's mean rank among its image's, less the mean of all ranks: ``(B, h * w)`` float64."""
    values = maps.detach().flatten(1)
    ordered = values.sort(dim=1).values
    below = torch.searchsorted(ordered, values)
    up_to = torch.searchsorted(ordered, values, right=True)
    return (below + up_to - values.shape[1]).double() / 2
