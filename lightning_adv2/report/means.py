"""Means over images for which a value is defined."""

from __future__ import annotations

import math
from collections.abc import Iterable


def defined(values: Iterable[float | None]) -> list[float]:
    """The values that are numbers: without NaN (as the IoU of two empty maps is) and without None."""
    return [value for value in values if value is not None and not math.isnan(value)]


def mean_of(values: Iterable[float | None]) -> float | None:
    """The mean of the defined values, summed exactly so that no order shows; None where there is none."""
    numbers = defined(values)
    return math.fsum(numbers) / len(numbers) if numbers else None
