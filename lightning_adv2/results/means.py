"""Means over images for which a value is defined, and over how many these are."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from typing import Any


def defined(values: Iterable[float | None]) -> list[float]:
    """The values that are numbers: without NaN (as the IoU of two empty maps is) and without None."""
    return [value for value in values if value is not None and not math.isnan(value)]


def mean_of(values: Iterable[float | None]) -> float | None:
    """The mean of the defined values, summed exactly so that no order shows; None where there is none."""
    numbers = defined(values)
    return math.fsum(numbers) / len(numbers) if numbers else None


OVER = "in brackets behind a mean: over so many images alone, for both maps of each other one are empty"


def over(text: str, count: int, n: int) -> str:
    """A mean in words, and in brackets over how many images it is where these are fewer than ``n``."""
    return f"{text} ({count:,})" if 0 < count < n else text


def iou_label(row: Mapping[str, Any]) -> str:
    """A row's ``iou`` for a figure, below it over how many of its ``n`` images it is where ``empty`` ones have none."""
    empty = row.get("empty")
    return f"{row['iou']:.2f}\nn={row['n'] - empty}" if empty else f"{row['iou']:.2f}"
