"""What all figures are made of: colours, overlays, grids of pictures, grouped bars, and texts that fit."""

from __future__ import annotations

import math
import textwrap
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

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
from lightning_adv2.results.records import record_key, to_numpy
from lightning_adv2.results.summary import Row

Image = np.ndarray[Any, np.dtype[np.uint8]]
GOOD, BAD = "#2a7f3f", "#d1495b"
PALETTE = ("#d1495b", "#00798c", "#edae49", "#66a182", "#6a4c93", "#8d5524", "#30638e", "#b0b0b0", "#e377c2", "#9a8c00")
"""Colours of lines, dots and bars, in their order."""
_BY_ROLE = {
    "class": ("#d1495b", "#e07a5f", "#8d5524", "#b56576"),
    "joint": ("#00798c", "#30638e", "#66a182", "#6a4c93", "#2a9d8f", "#457b9d"),
    "control": ("#b0b0b0", "#edae49", "#d9d9d9"),
}
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


class Metric(NamedTuple):
    """A measure that bars show.

    Attributes:
        key: of the value in a row; where the row has ``<key>_low`` and ``<key>_high``, an interval is drawn, and where
            it has ``<key>_published``, a diamond.
        label: of the axis.
        limit: upper end of the axis; None fits the bars.
        level: a level to mark; None marks none.
        empty: key of the number of images without the value, which the bar's label then says.
    """

    key: str
    label: str
    limit: float | None = None
    level: float | None = None
    empty: str = "empty"


def attack_label(row: Row) -> str:
    """The label of a row's attack: name and schedule, the name alone for a control."""
    return record_key(row["attack"], row["schedule"])


def by_interpreter(row: Row) -> str:
    """The label of a row's interpreter, in capitals."""
    return str(row["interpreter"]).upper()


def colours_of(rows: Iterable[Row], series: Callable[[Row], str] = attack_label) -> dict[str, str]:
    """A colour for each series, by the attack's role: reds for the class alone, blues and greens for class and map.

    Args:
        rows: with ``role``, where the series are attacks.
        series: label of a row's series.
    """
    known: dict[str, str] = {}
    for row in rows:
        name, role = series(row), row.get("role", "")
        if name not in known:
            choice = _BY_ROLE.get(role, PALETTE)
            known[name] = next((colour for colour in choice if colour not in known.values()), choice[0])
    return known


def grouped_bars(
    rows: Sequence[Row],
    metrics: Sequence[Metric],
    title: str,
    *,
    group: Callable[[Row], str] = by_interpreter,
    series: Callable[[Row], str] = attack_label,
    panel: Callable[[Row], str] | None = None,
    colours: Mapping[str, str] | None = None,
) -> Figure:
    """A figure of bars in groups, one axis per metric and panel; numbers stand above the bars where they have room.

    Args:
        rows: flat rows; those without a value of a metric have no bar there.
        metrics: what is measured.
        title: heading; wrapped where it is longer than the figure is wide.
        group: label of a row's group.
        series: label of a row's bar within its group, which the legend explains.
        panel: heading of a row's axis; None draws all rows in one.
        colours: of the series; None takes :func:`colours_of`.
    """
    panels = list(dict.fromkeys(panel(row) for row in rows)) if panel else [""]
    labels = list(dict.fromkeys(map(series, rows)))
    groups = {p: list(dict.fromkeys(group(r) for r in rows if panel is None or panel(r) == p)) for p in panels}
    most, count = max(map(len, groups.values()), default=1), len(panels) * len(metrics)
    across = max(2.6, min(15.0, 0.9 + 0.36 * most * (len(labels) + 1)))  # inches of an axis
    columns = 2 if count > 1 and 2 * across <= 12.5 else 1
    lines = -(-count // columns)
    tilted = max((len(g) for names in groups.values() for g in names), default=0) * 0.09 > 0.92 * across / most
    figure = Figure((max(4.4, columns * across), lines * (3.0 if tilted else 2.6) + 0.9), layout="constrained")
    heading(figure, title)
    colours = colours or colours_of(rows, series)
    axes = list(figure.subplots(lines, columns, squeeze=False).flat)
    for axis, (name, metric) in zip(axes, [(p, m) for p in panels for m in metrics], strict=False):
        shown = [row for row in rows if panel is None or panel(row) == name]
        _bars(axis, shown, metric, groups[name], labels, (group, series), colours, across)
        axis.set_xticks(range(len(groups[name])), groups[name], fontsize=8,
                        **({"rotation": 25, "ha": "right", "rotation_mode": "anchor"} if tilted else {}))  # fmt: skip
        axis.set_title(name, fontsize=9)
    for axis in axes[count:]:
        axis.set_axis_off()
    legend(figure, across * columns)
    return figure


def _bars(
    axis: Any,
    rows: Sequence[Row],
    metric: Metric,
    groups: Sequence[str],
    labels: Sequence[str],
    by: tuple[Callable[[Row], str], Callable[[Row], str]],
    colours: Mapping[str, str],
    inches: float,
) -> None:
    group, series = by
    width = 0.8 / len(labels)
    roomy = inches / max(1, len(groups)) * width >= 0.24  # inches that a number takes
    for j, label in enumerate(labels):
        own = {group(row): row for row in rows if series(row) == label and row.get(metric.key) is not None}
        found = [(i + (j - (len(labels) - 1) / 2) * width, own[one]) for i, one in enumerate(groups) if one in own]
        values = [row[metric.key] for _, row in found]
        ends = [[row.get(f"{metric.key}{end}") for _, row in found] for end in ("_low", "_high")]
        some = found and all(end is not None for side in ends for end in side)
        spread = [[max(0.0, abs(v - e)) for v, e in zip(values, side, strict=True)] for side in ends] if some else None
        drawn = axis.bar([x for x, _ in found], values, width * 0.92, yerr=spread, error_kw={"linewidth": 0.8},
                         label=label, color=colours[label])  # fmt: skip
        if roomy:
            axis.bar_label(drawn, [_bar_text(row, metric) for _, row in found], fontsize=7, padding=1)
        stated = [(x, row[key]) for x, row in found if row.get(key := f"{metric.key}_published") is not None]
        if stated:
            axis.plot(*zip(*stated, strict=True), "D", color="white", markeredgecolor="black", ms=5, label="paper")
    axis.set_xlim(-0.55, len(groups) - 0.45)
    shown = [row[metric.key] for row in rows if row.get(metric.key) is not None]
    lowest, highest = min(shown, default=0.0), metric.limit or max(shown, default=0.0)
    axis.set_ylim(lowest - 0.12 * (highest - lowest) if lowest < 0 else 0, metric.limit)
    axis.set_ylabel(metric.label)
    if metric.level is not None:
        axis.axhline(metric.level, color="black", linewidth=0.8, linestyle=":")
    plain_axis(axis)


def _bar_text(row: Row, metric: Metric) -> str:
    empty = row.get(metric.empty) if "iou" in metric.key else 0
    text = f"{row[metric.key]:.2f}"
    return f"{text}\nn={row['n'] - empty}" if empty else text


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
