"""Confidence intervals: the percentile bootstrap of a mean, and Wilson's interval of a share."""

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
    """Percentile bootstrap interval of the mean over images (Efron and Tibshirani 1993, chapter 13).

    With few values the interval is too narrow; for values that are all equal its width is 0: 8 of 8 successes do not
    prove a rate of 1. For shares take :func:`share_interval`.

    Args:
        values: one per image, or several per image, such as one per seed.
        seed: of the resampling.
        draws: number of resamples, at least 1.
        level: share of the resampled means that lie inside, in (0, 1).
        groups: the image of each value; the values of an image are drawn together. None: each value is its own image.

    Returns:
        Lower and upper end, in the unit of the values; NaN twice for no values.

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
    """Wilson's 95% score interval of a share (Wilson 1927), which has a width where all images or none succeed.

    Args:
        successes: number of successes, in [0, n].
        n: number of images.

    Returns:
        Lower and upper end in [0, 1]; NaN twice for n = 0.

    Raises:
        ValueError: ``successes`` is negative or above ``n``.
    """
    if not 0 <= successes <= n:
        raise ValueError(f"successes={successes}, n={n}: give at least 0 successes and at most n")
    if not n:
        return float("nan"), float("nan")
    share, spread = successes / n, NormalDist().inv_cdf(0.975) ** 2 / n
    middle = (share + spread / 2) / (1 + spread)
    half = (spread * (share * (1 - share) + spread / 4)) ** 0.5 / (1 + spread)
    return max(0.0, middle - half), min(1.0, middle + half)
