"""Localisation errors as bars, and below them the boxes of single images."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from torch import Tensor

from lightning_adv2.files.text import visible
from lightning_adv2.metrics.localization import REQUIRED_IOU
from lightning_adv2.report.figures import PALETTE, overlay, plain_axis
from lightning_adv2.results.records import to_numpy
from lightning_adv2.results.summary import Row

_MAP, _BASELINE = PALETTE[1], PALETTE[7]
_TRUE, _FOUND = "white", "#ff2d2d"


class Picture(NamedTuple):
    """An image with the boxes of its object and of its maps.

    Attributes:
        image_id: identifier.
        image: ``(C, H, W)`` uint8.
        true_boxes: of the object.
        maps: interpreter -> map ``(1, h, w)``.
        boxes: interpreter -> the box made of its map, and the IoU with the best true one; without a chosen rule, or
            with a map that is not finite, an interpreter has none.
    """

    image_id: str
    image: Tensor
    true_boxes: Sequence[Sequence[float]]
    maps: Mapping[str, Tensor]
    boxes: Mapping[str, tuple[Sequence[float], float]]


def localization_figure(rows: Sequence[Row], pictures: Sequence[Picture] = ()) -> Figure:
    """Bars of the error with its interval; then a row per picture: the image, and each interpreter's map with its box.

    Args:
        rows: of the study.
        pictures: all with maps of the same interpreters.
    """
    names, side, top = list(pictures[0].maps) if pictures else [], 1.9, 0.5 + 0.34 * len(rows)
    below = (side + 0.3) * len(pictures)
    figure = Figure((max(6.4, side * (1 + len(names))), top + 1.0 + below), layout="constrained")
    heights = [top + 1.0, below] if pictures else [1.0]
    parts = figure.subfigures(len(heights), 1, squeeze=False, height_ratios=heights)
    _bars(parts[0, 0].subplots(), rows)
    if pictures:
        axes = parts[1, 0].subplots(len(pictures), 1 + len(names), squeeze=False)
        for line, one in zip(axes, pictures, strict=True):
            _picture(line, one)
    return figure


def _picture(axes: Sequence[Any], one: Picture) -> None:
    for axis in axes:
        axis.set_axis_off()
    axes[0].imshow(to_numpy(one.image))
    axes[0].set_title(_short(one.image_id), fontsize=7)
    for axis, (name, shown) in zip(axes[1:], one.maps.items(), strict=True):
        axis.imshow(overlay(one.image, shown))
        for box in one.true_boxes:
            _draw(axes[0], box, _TRUE)
            _draw(axis, box, _TRUE)
        if name in one.boxes:
            found, iou = one.boxes[name]
            _draw(axis, found, _FOUND)
            hit = iou > REQUIRED_IOU
            title = f"{name.upper()} {iou:.2f} {'right' if hit else 'wrong'}"
            axis.set_title(title, fontsize=7, color="black" if hit else _FOUND)


def _bars(axis: Any, rows: Sequence[Row]) -> None:
    shown = [row for row in rows if row["error"] is not None]
    for place, row in enumerate(shown):
        ends = row["error"] - row["error_low"], row["error_high"] - row["error"]
        around = [[max(0.0, 100 * end)] for end in ends]  # rounding leaves an end at 0 or 1 beyond the error itself
        colour = _BASELINE if row["baseline"] else _MAP
        axis.barh(place, 100 * row["error"], 0.7, xerr=around, color=colour, ecolor="black", capsize=2)
        axis.text(100 * row["error_high"] + 1, place, f"{100 * row['error']:.1f}%", va="center", fontsize=8)
    labels = [row["interpreter"] if row["baseline"] else row["interpreter"].upper() for row in shown]
    axis.set_yticks(range(len(shown)), labels)
    axis.invert_yaxis()
    axis.set_xlim(0, 112)
    axis.set_xticks(range(0, 101, 20))
    axis.tick_params(labelsize=8)
    axis.set_xlabel("localisation error, % of images (95% interval)", fontsize=8)
    axis.set_title("Localisation error", fontsize=11, fontweight="bold", loc="left")
    plain_axis(axis)


def _draw(axis: Any, box: Sequence[float], colour: str) -> None:
    left, top, right, bottom = box
    corner = (left - 0.5, top - 0.5)  # a picture's first pixel reaches from -0.5 to 0.5
    for edge, width in (("black", 2.6), (colour, 1.4)):
        axis.add_patch(Rectangle(corner, right - left, bottom - top, fill=False, edgecolor=edge, linewidth=width))


def _short(text: str, width: int = 26) -> str:
    text = visible(text)
    return text if len(text) <= width else "..." + text[3 - width :]
