"""Means over the images that have a value, and the number of these images."""

from __future__ import annotations

import math
from collections.abc import Iterable


def defined(values: Iterable[float | None]) -> list[float]:
    """The values without NaN (the IoU of two empty maps) and without None."""
    return [value for value in values if value is not None and not math.isnan(value)]


def mean_of(values: Iterable[float | None]) -> float | None:
    """The mean of the defined values, None where there is none; summed exactly, so that no order shows."""
    numbers = defined(values)
    return math.fsum(numbers) / len(numbers) if numbers else None


def empty_key(metric: str) -> str:
    """The key of the number of images without a value of a metric: ``empty`` for ``iou``, else ``empty_<metric>``."""
    return "empty" if metric == "iou" else f"empty_{metric}"


OVER = "in brackets behind a mean: the number of images in it; the others have no such value (no IoU: two empty maps)"


def over(text: str, count: int, n: int) -> str:
    """The text of a mean, followed in brackets by the number of images ``count`` where that is below ``n``."""
    return f"{text} ({count:,})" if 0 < count < n else text


def over_below(text: str, count: int, n: int) -> str:
    """The text of a mean in a figure, below it the number of images ``count`` where that is below ``n``."""
    return f"{text}\nn={count:,}" if count < n else text
