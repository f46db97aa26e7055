"""What all figures are made of: colours, overlays, grids of pictures, grouped bars, and texts that fit."""

from __future__ import annotations

import math
import textwrap
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
from matplotlib.axis import Axis
from matplotlib.figure import Figure
from matplotlib.text import Text
from torch import Tensor

from lightning_adv2.files import written_whole
from lightning_adv2.files.text import visible
from lightning_adv2.functional.agreement import map_iou
from lightning_adv2.functional.masking import resize_map
from lightning_adv2.results.records import to_numpy

Image = np.ndarray[Any, np.dtype[np.uint8]]
GOOD, BAD = "#2a7f3f", "#d1495b"
PALETTE = ("#d1495b", "#00798c", "#edae49", "#66a182", "#6a4c93", "#8d5524", "#30638e", "#b0b0b0", "#e377c2", "#9a8c00")
"""Colours of lines, dots and bars, in their order."""
FORMULA = "formula"
"""``gid`` of a text of this package that is mathematics."""
_NO_TICKS: dict[str, Any] = {"xticks": [], "yticks": []}
"""For axes that are off: matplotlib makes and measures ticks all the same, which takes longer than the picture."""


def overlay(image: Tensor, attribution_map: Tensor, strength: float = 0.55) -> Image:
    """The image in grey with its attribution map laid over it in colour.

    Args:
        image: ``(C, H, W)`` uint8.
        attribution_map: ``(1, h, w)`` in [0, 1]; enlarged bilinearly.
        strength: opacity of the map, in [0, 1].

    Returns:
        ``(H, W, 3)`` uint8.
    """
    heat = resize_map(attribution_map[None].float(), image.shape[-2:])[0, 0].clamp(0, 1).numpy()
    coloured = matplotlib.colormaps["turbo"](heat)[:, :, :3]
    grey = to_numpy(image).mean(2, keepdims=True) / 255
    mixed = (1 - strength) * grey + strength * coloured
    shown: Image = (mixed * 255).round().astype(np.uint8)
    return shown


def amplified(adv_image: Tensor, image: Tensor) -> Image:
    """The perturbation times 10 around mid grey. Two ``(C, H, W)`` uint8 -> ``(H, W, 3)`` uint8."""
    difference = to_numpy(adv_image).astype(np.int16) - to_numpy(image).astype(np.int16)
    shown: Image = (128 + 10 * difference).clip(0, 255).astype(np.uint8)
    return shown


Cell = tuple[Image, str, str]
"""A picture, its caption, and the caption's colour."""


def iou_text(iou: float) -> str:
    """The map IoU of an image as text; NaN stands for two maps that are both empty at the threshold."""
    return "both empty" if math.isnan(iou) else f"IoU {iou:.2f}"


def iou_colour(iou: float) -> str:
    """The colour of a map IoU: green above 0.5 (plausible), red up to 0.5, black for NaN."""
    return "black" if math.isnan(iou) else GOOD if iou > 0.5 else BAD


def map_cell(shown: Tensor, benign: Tensor, image: Tensor) -> Cell:
    """A map laid over the image that it is of, and its IoU with the benign map; both maps are ``(1, h, w)``."""
    shown, benign = shown.float().cpu(), benign.float().cpu()
    iou = float(map_iou(shown[None], benign[None]))
    return overlay(image, shown), iou_text(iou), iou_colour(iou)


def grid(rows: Sequence[Sequence[Cell]], title: str) -> Figure:
    """A figure of pictures with captions of up to two lines, row by row, under a heading.

    Args:
        rows: the cells of each row: picture ``(H, W, 3)`` uint8, caption, colour of the caption.
        title: heading.
    """
    columns = max(len(row) for row in rows)
    figure = Figure(figsize=(1.62 * columns, 1.98 * len(rows) + 0.4), layout="constrained")
    heading(figure, title)
    axes = figure.subplots(len(rows), columns, squeeze=False, subplot_kw=_NO_TICKS)
    for line, row in zip(axes, rows, strict=True):
        for axis in line:
            axis.set_axis_off()
        for axis, (picture, text, colour) in zip(line, row, strict=False):
            axis.imshow(picture, interpolation="nearest" if picture.shape[0] < 100 else "antialiased")
            axis.set_title(caption(text), fontsize=8, color=colour)
    return figure


def map_sheet(images: Tensor, maps: Tensor, names: Sequence[str], limit: int = 16) -> Figure:
    """A figure of images beside their maps, four pairs a row.

    Args:
        images: ``(n, C, H, W)`` uint8.
        maps: ``(n, 1, h, w)`` in [0, 1].
        names: n captions.
        limit: at most this number of images.
    """
    count = min(limit, len(images))
    rows = -(-count // 4)
    figure = Figure(figsize=(12.4, 1.9 * rows), layout="constrained")
    axes = figure.subplots(rows, 8, squeeze=False, subplot_kw=_NO_TICKS)
    for axis in axes.flat:
        axis.set_axis_off()
    for i in range(count):
        left, right = axes[i // 4, 2 * (i % 4)], axes[i // 4, 2 * (i % 4) + 1]
        left.imshow(to_numpy(images[i]))
        left.set_title(caption(names[i]), fontsize=8)
        right.imshow(overlay(images[i], maps[i]))
    return figure


def heading(figure: Figure, text: str) -> None:
    """Set the heading of a figure, wrapped to the figure's width."""
    wide = max(16, int(figure.get_figwidth() / 0.115))
    figure.suptitle("\n".join(textwrap.wrap(visible(text), wide)) or " ", fontsize=12, fontweight="bold")


def legend(figure: Figure, inches: float | None = None) -> None:
    """Add a legend below the axes of a figure, each label once, in as many columns as fit.

    Args:
        figure: with labelled artists.
        inches: width of the legend; None takes the figure's.
    """
    known: dict[str, Any] = {}
    for axis in figure.axes:
        for handle, name in zip(*axis.get_legend_handles_labels(), strict=True):
            known.setdefault(name, handle)
    if known:
        longest = 0.55 + 0.075 * max(map(len, known))
        columns = max(1, min(len(known), int((inches or figure.get_figwidth()) / longest)))
        figure.legend(
            known.values(), known.keys(), loc="outside lower center", ncols=columns, fontsize=8, frameon=False
        )


def plain_axis(axis: Any) -> None:
    """Remove the upper and the right side of an axis' frame."""
    axis.spines[["top", "right"]].set_visible(False)


def save(figure: Figure, path: Path) -> Path:
    """Write a figure as PNG, whole or not at all; returns the path.

    Every text of the figure is shown literally, because names may hold any character: ``$`` starts no formula, and
    control characters are written out.

    Raises:
        OSError: the file cannot be written; an old file is as it was.
    """
    for one in figure.findobj(Axis):  # whose labels come from its formatter, whenever it is drawn
        labels = [text.get_text() for text in one.get_majorticklabels()]
        if any(visible(label, keep="\n") != label for label in labels):
            one.set_ticks(one.get_majorticklocs(), [visible(label, keep="\n") for label in labels])
    for text in figure.findobj(Text):
        text.set_parse_math(text.get_gid() == FORMULA)
        text.set_text(visible(text.get_text(), keep="\n"))
    with written_whole(path) as temporary:
        figure.savefig(temporary, dpi=130, format="png")
    return path


def short(text: str, width: int = 24) -> str:
    """A name in one line of at most ``width`` characters."""
    text = visible(text)
    return text if len(text) <= width else text[: width - 1] + "."


def caption(text: str, width: int = 22) -> str:
    """A text in at most two lines of ``width`` characters, cut at the end where it is longer."""
    lines = textwrap.wrap(visible(text), width) or [""]
    return "\n".join([lines[0], short(" ".join(lines[1:]), width)] if len(lines) > 1 else lines)
