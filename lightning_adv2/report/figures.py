"""Pictures of an attack: people look before they read."""

from __future__ import annotations

import math
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
from lightning_adv2.results.means import iou_label
from lightning_adv2.results.records import BENIGN, AttackRecord, BatchRecord, to_numpy
from lightning_adv2.results.summary import Row
from lightning_adv2.results.traces import Curves

Image = np.ndarray[Any, np.dtype[np.uint8]]
_GOOD, _BAD = "#2a7f3f", "#d1495b"
FORMULA = "formula"
"""``gid`` of a text of our own that is mathematics."""
_NO_TICKS: dict[str, Any] = {"xticks": [], "yticks": []}
"""Of axes that are off: matplotlib makes and measures ticks all the same, which takes longer than the pictures."""
_COLOURS = {"pgd": "#d1495b", "adv2": "#00798c", "noise": "#b0b0b0", "target_class": "#edae49"}
_MORE_COLOURS = ("#66a182", "#6a4c93", "#8d5524", "#30638e", "#e377c2", "#9a8c00")


def overlay(image: Tensor, attribution_map: Tensor, strength: float = 0.55) -> Image:
    """An image with its map laid over it.

    Args:
        image: ``(C, H, W)`` uint8.
        attribution_map: ``(1, h, w)`` in [0, 1]; enlarged bilinearly.
        strength: opacity of the map.

    Returns:
        ``(H, W, 3)`` uint8.
    """
    heat = resize_map(attribution_map[None].float(), image.shape[-2:])[0, 0].clamp(0, 1).numpy()
    coloured = matplotlib.colormaps["turbo"](heat)[:, :, :3]
    grey = to_numpy(image).mean(2, keepdims=True) / 255
    mixed = (1 - strength) * grey + strength * coloured
    shown: Image = (mixed * 255).round().astype(np.uint8)
    return shown


def amplified(adv_image: Tensor, image: Tensor, factor: int = 10) -> Image:
    """The perturbation, times ``factor``, around mid grey. Two ``(C, H, W)`` uint8 -> ``(H, W, 3)`` uint8."""
    difference = to_numpy(adv_image).astype(np.int16) - to_numpy(image).astype(np.int16)
    shown: Image = (128 + factor * difference).clip(0, 255).astype(np.uint8)
    return shown


def gallery(
    record: BatchRecord, attacks: Sequence[AttackRecord], classes: Sequence[str], title: str, rows: int = 8
) -> Figure:
    """One row per image: benign image and map, then image, map and IoU under each attack, then the perturbation.

    A target map that is not the benign one stands beside it.

    Args:
        record: one batch.
        attacks: those of its attacks to show, ADV2 last.
        classes: class names.
        title: heading.
        rows: at most so many images.
    """
    count = min(rows, len(record.image_id))
    return grid([_row(record, attacks, i, classes) for i in range(count)], title)


def overview(records: dict[str, BatchRecord], image_id: str, classes: Sequence[str], title: str) -> Figure:
    """One row per interpreter, all of the same image; see :func:`gallery`.

    Args:
        records: interpreter -> a record of it with the image.
        image_id: which image.
        classes: class names.
        title: heading.
    """
    rows = []
    for name, record in records.items():
        cells = _row(record, shown_attacks(record), record.image_id.index(image_id), classes)
        rows.append([cells[0], (cells[1][0], f"{name.upper()} {cells[1][1]}", "black"), *cells[2:]])
    return grid(rows, title)


def shown_attacks(record: BatchRecord) -> list[AttackRecord]:
    """One schedule of each attack, PGD first, ADV2 last: a picture asks what ADV2 changes, not the schedule."""
    chosen = {attack.attack: attack for attack in reversed(record.attacks) if attack.schedule != "control"}
    return [chosen[name] for name in sorted(chosen, key=lambda n: ("adv2" in n, n != "pgd", n))]


Cell = tuple[Image, str, str]
"""A picture, its caption, and the caption's colour."""


def _row(record: BatchRecord, attacks: Sequence[AttackRecord], i: int, classes: Sequence[str]) -> list[Cell]:
    """Picture, caption and the caption's colour of every cell of an image's row."""
    label, target = classes[int(record.label[i])], classes[int(record.target_class[i])]
    cells: list[Cell] = [
        (to_numpy(record.images[i]), f"benign: {label}", "black"),
        (overlay(record.images[i], record.benign_map[i]), f"map for {label}", "black"),
    ]
    if record.target != BENIGN:
        cells.append((overlay(record.images[i], record.target_map[i]), f"target map: {record.target}", "black"))
    for attack in attacks:
        predicted, name = classes[int(attack.adv_predicted[i])], attack.attack.upper()
        fooled = predicted == target
        text = f"{name}: {predicted} {float(attack.confidence[i]):.0%}" if fooled else f"{name}: {predicted}"
        cells.append((to_numpy(attack.adv_images[i]), text, _BAD if fooled else "black"))
        iou = float(map_iou(attack.adv_map[i : i + 1], record.target_map[i : i + 1]))
        picture = overlay(attack.adv_images[i], attack.adv_map[i])
        cells.append((picture, f"map, {iou_text(iou)}", iou_colour(iou)))
    if attacks:
        cells.append((amplified(attacks[-1].adv_images[i], record.images[i]), "perturbation x10", "black"))
    return cells


def iou_text(iou: float) -> str:
    """An image's map IoU in words: two maps that are both empty at the threshold have none."""
    return "both empty" if math.isnan(iou) else f"IoU {iou:.2f}"


def iou_colour(iou: float) -> str:
    """Green where the map is plausible, red where it is not, black where there is nothing to compare."""
    return "black" if math.isnan(iou) else _GOOD if iou > 0.5 else _BAD


def grid(rows: Sequence[Sequence[Cell]], title: str) -> Figure:
    """Pictures with captions, row by row, under a heading."""
    columns = max(len(row) for row in rows)
    figure = Figure(figsize=(1.55 * columns, 1.78 * len(rows) + 0.4), layout="constrained")
    figure.suptitle(title, fontsize=12, fontweight="bold")
    axes = figure.subplots(len(rows), columns, squeeze=False, subplot_kw=_NO_TICKS)
    for line, row in zip(axes, rows, strict=True):
        for axis in line:
            axis.set_axis_off()
        for axis, (picture, text, colour) in zip(line, row, strict=False):
            axis.imshow(picture, interpolation="nearest" if picture.shape[0] < 100 else "antialiased")
            axis.set_title(short(text), fontsize=8, color=colour)
    return figure


def map_sheet(images: Tensor, maps: Tensor, names: Sequence[str], limit: int = 16) -> Figure:
    """Images beside their maps, four pairs a row: ``(n, C, H, W)`` uint8, ``(n, 1, h, w)`` in [0, 1], n captions."""
    count = min(limit, len(images))
    rows = -(-count // 4)
    figure = Figure(figsize=(12.4, 1.78 * rows), layout="constrained")
    axes = figure.subplots(rows, 8, squeeze=False, subplot_kw=_NO_TICKS)
    for axis in axes.flat:
        axis.set_axis_off()
    for i in range(count):
        left, right = axes[i // 4, 2 * (i % 4)], axes[i // 4, 2 * (i % 4) + 1]
        left.imshow(to_numpy(images[i]))
        left.set_title(short(names[i]), fontsize=8)
        right.imshow(overlay(images[i], maps[i]))
    return figure


def bars(rows: Sequence[Row], title: str | None = None) -> Figure:
    """Map IoU and L1 of every attack and control, grouped by interpreter; numbers above bars where they have room.

    Args:
        rows: of a summary.
        title: heading; by default it says what the maps are compared with.
    """
    interpreters = list(dict.fromkeys(row["interpreter"] for row in rows))
    labels = list(dict.fromkeys((row["attack"], row["schedule"]) for row in rows))
    if not rows:
        raise ValueError("rows=[]: nothing to draw; no image was attacked")
    target = rows[0]["target"]
    title = title or f"Agreement of adversarial and {'benign map' if target == BENIGN else f'target map: {target}'}"
    width, needed = 0.8 / len(labels), 0.24  # of a bar, where a group is 1; inches that a number takes
    places = len(interpreters) * (len(labels) + 1)
    wide = len(interpreters) * len(labels) > 16  # the two axes no longer fit side by side
    if wide:
        size = (max(7.0, min(16.0, 0.2 * places)), 6.4)
    else:
        size = (max(3.2 + 2.4 * len(interpreters), 1.4 + 0.62 * places), 3.9)
    figure = Figure(size, layout="constrained")
    figure.suptitle(title, fontsize=12, fontweight="bold")
    colours = attack_colours([name for name, _ in labels])
    all_axes = figure.subplots(2, 1) if wide else figure.subplots(1, 2)
    for axis, (metric, name) in zip(all_axes, (("iou", "map IoU"), ("l1", "map L1")), strict=True):
        across = figure.get_figwidth() * (0.92 if wide else 0.42)  # inches, about
        for j, (attack, schedule) in enumerate(labels):
            found = {r["interpreter"]: r for r in rows if (r["attack"], r["schedule"]) == (attack, schedule)}
            shown = {i: found[n] for i, n in enumerate(interpreters) if n in found and found[n][metric] is not None}
            drawn = axis.bar(
                [i + (j - (len(labels) - 1) / 2) * width for i in shown],
                [row[metric] for row in shown.values()],
                width * 0.92,
                label=attack if schedule == "control" else f"{attack} ({schedule})",
                color=colours[attack],
                alpha=0.55 if schedule == "paper" else 1.0,
            )
            if across / len(interpreters) * width >= needed:
                texts = [iou_label(row) if metric == "iou" else f"{row[metric]:.2f}" for row in shown.values()]
                axis.bar_label(drawn, texts, fontsize=7)
        axis.set_xlim(-0.55, len(interpreters) - 0.45)
        axis.set_xticks(range(len(interpreters)), [name.upper() for name in interpreters])
        axis.set_ylabel(name)
        axis.spines[["top", "right"]].set_visible(False)
        if metric == "iou":
            axis.set_ylim(0, 1.05)
            axis.axhline(0.5, color="black", linewidth=0.8, linestyle=":")
    handles, names = all_axes[0].get_legend_handles_labels()
    columns = min(len(names), int(size[0] / 1.4))
    figure.legend(handles, names, loc="outside lower center", ncols=columns, fontsize=8, frameon=False)
    return figure


def attack_colours(attacks: Sequence[str]) -> dict[str, str]:
    """A colour for each attack, the same in all figures for those that all figures have."""
    more = iter(_MORE_COLOURS * len(attacks))
    return {name: _COLOURS.get(name) or next(more) for name in dict.fromkeys(attacks)}


def convergence(curves: Curves, title: str) -> Figure:
    """Map IoU, map L1 and target confidence over the steps of each attack.

    Args:
        curves: means over images.
        title: heading.
    """
    names = (("iou", "map IoU"), ("l1", "map L1"), ("confidence", "target confidence"))
    figure = Figure(figsize=(10, 3.2), layout="constrained")
    figure.suptitle(title, fontsize=12, fontweight="bold")
    for axis, (name, label) in zip(figure.subplots(1, 3), names, strict=True):
        for attack, curve in curves.items():
            axis.plot(range(1, len(curve[name]) + 1), curve[name], label=attack)
        axis.set_xlabel("joint gradient step")
        axis.set_ylabel(label)
        axis.set_ylim(0, 1.02 if name != "l1" else None)
        axis.spines[["top", "right"]].set_visible(False)
    axis.legend(fontsize=8, frameon=False)
    return figure


def save(figure: Figure, path: Path) -> Path:
    """Write a figure as PNG, whole or not at all.

    Every text in it stands as it is, for names may hold anything: ``$`` is no mathematics, and what has no look of its
    own is written out.
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
    """A name in one line of at most so many characters."""
    text = visible(text)
    return text if len(text) <= width else text[: width - 1] + "."
