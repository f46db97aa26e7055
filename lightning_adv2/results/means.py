"""Means over the images that have a value, and the number of these images."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from typing import Any


def defined(values: Iterable[float | None]) -> list[float]:
    """The values without NaN (the IoU of two empty maps) and without None."""
    return [value for value in values if value is not None and not math.isnan(value)]


def mean_of(values: Iterable[float | None]) -> float | None:
    """The mean of the defined values, None where there is none; summed exactly, so that no order shows."""
    numbers = defined(values)
    return math.fsum(numbers) / len(numbers) if numbers else None


OVER = "in brackets behind a mean: the number of images in it; the two maps of every other image are empty"


def over(text: str, count: int, n: int) -> str:
    """The text of a mean, followed in brackets by the number of images ``count`` where that is below ``n``."""
    return f"{text} ({count:,})" if 0 < count < n else text


def iou_label(row: Mapping[str, Any]) -> str:
    """A row's ``iou`` for a figure, below it over how many of its ``n`` images it is where ``empty`` ones have none."""
    empty = row.get("empty")
    return f"{row['iou']:.2f}\nn={row['n'] - empty}" if empty else f"{row['iou']:.2f}"
