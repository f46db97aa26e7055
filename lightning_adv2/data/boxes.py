"""Object boxes from a CSV file, and the masks that they make."""

from __future__ import annotations

from collections import defaultdict
from math import ceil
from pathlib import Path
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from lightning_adv2.data.images import Mask
from lightning_adv2.data.text_files import read_rows

Box: TypeAlias = tuple[float, float, float, float]
"""xmin, ymin, xmax, ymax in pixels, 0-based and half-open: ``xmin <= x < xmax``."""


def read_boxes(path: str | Path) -> dict[str, list[Box]]:
    """Return the boxes of each file, from a CSV with the columns ``file, xmin, ymin, xmax, ymax``; others are ignored.

    Names are in Unicode's composed form (NFC), as image ids are. Boxes are in pixels, 0-based and half-open.

    Raises:
        FileNotFoundError: no such file.
        ValueError: a column is missing, a coordinate is no number, or a box has no area.
    """
    columns, rows = read_rows(path, "boxes", "a CSV with columns file,xmin,ymin,xmax,ymax")
    missing = {"file", "xmin", "ymin", "xmax", "ymax"}.difference(columns)
    if missing:
        raise ValueError(f"boxes={str(path)!r}: no column {', '.join(sorted(missing))}; it has {', '.join(columns)}")
    found: dict[str, list[Box]] = defaultdict(list)
    for line, row in rows:
        try:
            left, top, right, bottom = (float(row[name]) for name in ("xmin", "ymin", "xmax", "ymax"))
        except ValueError:
            raise ValueError(f"boxes={str(path)!r}, line {line}: {row} holds no four numbers") from None
        if not (left < right and top < bottom):
            raise ValueError(f"boxes={str(path)!r}, line {line}: {row} needs xmin < xmax and ymin < ymax")
        found[row["file"]].append((left, top, right, bottom))
    return dict(found)


def boxes_to_mask(boxes: NDArray[np.float64], height: int, width: int) -> Mask:
    """Return the union of half-open boxes, ``(height, width)`` bool: the pixels whose centres lie inside a box.

    Args:
        boxes: ``(n, 4)`` xmin, ymin, xmax, ymax in pixels; parts outside the image do not count.
        height: of the image, in pixels.
        width: of the image, in pixels.
    """
    mask = np.zeros((height, width), np.bool_)
    for box in boxes:
        left, top, right, bottom = (max(ceil(edge - 0.5), 0) for edge in box)
        mask[top:bottom, left:right] = True
    return mask
