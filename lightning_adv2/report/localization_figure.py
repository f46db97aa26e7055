"""Localisation errors as bars, and below them what the boxes look like."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from torch import Tensor

from lightning_adv2.files.text import visible
from lightning_adv2.metrics.localization import REQUIRED_IOU, Image
from lightning_adv2.report.figures import overlay
from lightning_adv2.results.records import to_numpy
from lightning_adv2.results.summary import Row

_MAP, _BASELINE = "#00798c", "#b0b0b0"
_TRUE, _FOUND = "white", "#ff2d2d"


def localization_figure(
    rows: Sequence[Row],
    pictures: Sequence[tuple[str, Tensor, Mapping[str, Tensor]]],
    images: Mapping[str, Sequence[Image]],
    chosen: Mapping[str, int | None],
) -> Figure:
    """Bars of the error with its interval; then a row per picture: the image, and each interpreter's map with its box.

    Args:
        rows: of ``localization.json``.
        pictures: identifier, image ``(C, H, W)`` uint8, interpreter -> map ``(1, h, w)``.
        images: of each interpreter.
        chosen: number of each interpreter's candidate.
    """
    names, side, top = list(images), 1.9, 0.5 + 0.34 * len(rows)
    width = max(6.4, side * (1 + len(names)))
    figure = Figure((width, top + 1.0 + (side + 0.3) * len(pictures)), layout="constrained")
    parts = figure.subfigures(2 if pictures else 1, 1, squeeze=False, height_ratios=_heights(top, side, len(pictures)))
    _bars(parts[0, 0].subplots(), rows)
    if pictures:
        by_name = {name: {one.image_id: one for one in own} for name, own in images.items()}
        axes = parts[1, 0].subplots(len(pictures), 1 + len(names), squeeze=False)
        for line, (image_id, image, maps) in zip(axes, pictures, strict=True):
            for axis in line:
                axis.set_axis_off()
            line[0].imshow(to_numpy(image))
            line[0].set_title(_short(image_id), fontsize=7)
            for axis, name in zip(line[1:], names, strict=True):
                found, best = by_name[name][image_id], chosen[name]
                axis.imshow(overlay(image, maps[name]))
                for box in found.true_boxes:
                    _draw(line[0], box, _TRUE)
                    _draw(axis, box, _TRUE)
                if best is not None and bool(found.iou.isfinite().all()):
                    _draw(axis, found.boxes[best].tolist(), _FOUND)
                    hit = found.iou[best] > REQUIRED_IOU
                    title = f"{name.upper()} {found.iou[best]:.2f} {'right' if hit else 'wrong'}"
                    axis.set_title(title, fontsize=7, color="black" if hit else _FOUND)
    return figure


def _heights(top: float, side: float, pictures: int) -> list[float]:
    return [top + 1.0, (side + 0.3) * pictures] if pictures else [1.0]


def _bars(axis: Any, rows: Sequence[Row]) -> None:
    shown = [row for row in rows if row["error"] is not None]
    for place, row in enumerate(shown):
        ends = row["error"] - row["low"], row["high"] - row["error"]
        around = [[max(0.0, 100 * end)] for end in ends]  # rounding leaves an end at 0 or 1 beyond the error itself
        colour = _MAP if "rule" in row else _BASELINE
        axis.barh(place, 100 * row["error"], 0.7, xerr=around, color=colour, ecolor="black", capsize=2)
        axis.text(100 * row["high"] + 1, place, f"{100 * row['error']:.1f}%", va="center", fontsize=8)
    labels = [row["interpreter"].upper() if "rule" in row else row["interpreter"] for row in shown]
    axis.set_yticks(range(len(shown)), labels)
    axis.invert_yaxis()
    axis.set_xlim(0, 112)
    axis.set_xticks(range(0, 101, 20))
    axis.tick_params(labelsize=8)
    axis.set_xlabel("localisation error, % of images (95% interval)", fontsize=8)
    axis.set_title("Localisation error", fontsize=11, fontweight="bold", loc="left")
    axis.spines[["top", "right"]].set_visible(False)


def _draw(axis: Any, box: Sequence[float], colour: str) -> None:
    left, top, right, bottom = box
    corner = (left - 0.5, top - 0.5)  # a picture's first pixel reaches from -0.5 to 0.5
    for edge, width in (("black", 2.6), (colour, 1.4)):
        axis.add_patch(Rectangle(corner, right - left, bottom - top, fill=False, edgecolor=edge, linewidth=width))


def _short(text: str, width: int = 26) -> str:
    text = visible(text)
    return text if len(text) <= width else "..." + text[3 - width :]
