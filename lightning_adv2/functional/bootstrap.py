"""Confidence intervals of a mean, by resampling images (Efron's percentile bootstrap)."""

from __future__ import annotations

from collections.abc import Sequence
from statistics import NormalDist

import torch


def bootstrap_interval(
    values: Sequence[float],
    seed: int = 0,
    draws: int = 2000,
    level: float = 0.95,
    groups: Sequence[str] | None = None,
) -> tuple[float, float]:
    """The interval in which the mean of as many other images would lie, as far as these images can tell.

    With few values it is too narrow, and of values that are all the same it has no width: 8 of 8 successes do not prove
    a rate of 1. For shares, :func:`share_interval` has no such gap.

    Args:
        values: one per image; or several, as under several seeds.
        seed: of the resampling.
        draws: how many resamples.
        level: share of the resampled means that lie inside, in (0, 1).
        groups: the image that each value is of; values of an image are drawn together. None: each has its own.

    Returns:
        Lower and upper end; NaN twice for no values.

    Raises:
        ValueError: ``groups`` is not as long as ``values``, or ``level`` or ``draws`` is out of range.
    """
    if not 0 < level < 1 or draws < 1:
        raise ValueError(f"level={level}, draws={draws}: a level in (0, 1), such as 0.95, and at least 1 draw")
    if groups is not None and len(groups) != len(values):
        raise ValueError(f"groups has {len(groups)} entries for {len(values)} values: give one for each")
    if not len(values):
        return float("nan"), float("nan")
    names = range(len(values)) if groups is None else groups
    numbers = {name: number for number, name in enumerate(dict.fromkeys(names))}
    index, n = torch.tensor([numbers[name] for name in names]), len(numbers)
    total = torch.zeros(n, dtype=torch.float64).index_add_(0, index, torch.tensor(values, dtype=torch.float64))
    count = torch.zeros(n, dtype=torch.float64).index_add_(0, index, torch.ones(len(values), dtype=torch.float64))
    chosen = torch.randint(n, (draws, n), generator=torch.Generator().manual_seed(seed))
    means = total[chosen].sum(1) / count[chosen].sum(1)
    low, high = means.quantile(torch.tensor([(1 - level) / 2, (1 + level) / 2], dtype=torch.float64)).tolist()
    return low, high


def share_interval(successes: int, n: int) -> tuple[float, float]:
    """Wilson's score interval of a share at 95%, which stays honest where all or none succeed.

    Args:
        successes: how many of the n.
        n: how many images.

    Returns:
        Lower and upper end in [0, 1]; NaN twice for n = 0.

    Raises:
        ValueError: ``successes`` is not in 0 to ``n``.
    """
    if not 0 <= successes <= n:
        raise ValueError(f"successes={successes}, n={n}: give at least 0 successes and at most n")
    if not n:
        return float("nan"), float("nan")
    share, spread = successes / n, NormalDist().inv_cdf(0.975) ** 2 / n
    middle = (share + spread / 2) / (1 + spread)
    half = (spread * (share * (1 - share) + spread / 4)) ** 0.5 / (1 + spread)
    return max(0.0, middle - half), min(1.0, middle + half)
