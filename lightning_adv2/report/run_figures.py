"""The figures of a run: its images and maps under the attacks, agreement of the maps, and the attacks step by step."""

from __future__ import annotations

from collections.abc import Sequence

from matplotlib.figure import Figure

from lightning_adv2.functional.agreement import map_iou
from lightning_adv2.report.bars import Metric, grouped_bars
from lightning_adv2.report.figures import (
    BAD,
    Cell,
    amplified,
    grid,
    heading,
    iou_colour,
    iou_text,
    legend,
    overlay,
    plain_axis,
)
from lightning_adv2.report.table import Column
from lightning_adv2.results.records import BENIGN, AttackRecord, BatchRecord, to_numpy
from lightning_adv2.results.summary import Row
from lightning_adv2.results.traces import Curves


def gallery(
    record: BatchRecord, attacks: Sequence[AttackRecord], classes: Sequence[str], title: str, rows: int = 8
) -> Figure:
    """A figure with one row per image: benign image and map, image and map under each attack, perturbation.

    A target map that is not the benign one stands beside it.

    Args:
        record: one batch.
        attacks: the attacks to show, joint attacks last.
        classes: class names.
        title: heading.
        rows: at most this number of images.
    """
    count = min(rows, len(record.image_id))
    return grid([_row(record, attacks, i, classes) for i in range(count)], title)


def overview(records: dict[str, BatchRecord], image_id: str, classes: Sequence[str], title: str) -> Figure:
    """A figure with one row per interpreter, all of the same image; see :func:`gallery`.

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
    """One schedule of each attack in the record, joint attacks last; controls are left out."""
    chosen: dict[str, AttackRecord] = {}
    for attack in record.attacks:
        if attack.role != "control":
            chosen.setdefault(attack.attack, attack)
    return sorted(chosen.values(), key=lambda attack: attack.needs_map)


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
        cells.append((to_numpy(attack.adv_images[i]), text, BAD if fooled else "black"))
        iou = float(map_iou(attack.adv_map[i : i + 1], record.target_map[i : i + 1]))
        picture = overlay(attack.adv_images[i], attack.adv_map[i])
        cells.append((picture, f"map, {iou_text(iou)}", iou_colour(iou)))
    if attacks:
        cells.append((amplified(attacks[-1].adv_images[i], record.images[i]), "perturbation x10", "black"))
    return cells


def bars(rows: Sequence[Row], title: str = "") -> Figure:
    """A figure with bars of map IoU and L1 under every attack and control, grouped by interpreter.

    Args:
        rows: of a summary.
        title: heading; an empty one names the map that the maps are compared with.

    Raises:
        ValueError: there is no row.
    """
    if not rows:
        raise ValueError("rows=[]: nothing to draw; no image was attacked")
    target = rows[0]["target"]
    against = "benign map" if target == BENIGN else f"target map: {target}"
    metrics = (Metric(Column("iou", "map IoU", ".2f"), limit=1.05, level=0.5), Metric(Column("l1", "map L1", ".2f")))
    return grouped_bars(rows, metrics, title or f"Map agreement: attacked image and {against}")


def convergence(curves: Curves, title: str) -> Figure:
    """A figure with map IoU, map L1 and target confidence over the steps of each attack.

    Args:
        curves: means over images.
        title: heading.
    """
    names = (("iou", "map IoU"), ("l1", "map L1"), ("confidence", "target confidence"))
    figure = Figure(figsize=(10, 3.4), layout="constrained")
    heading(figure, title)
    for axis, (name, label) in zip(figure.subplots(1, 3), names, strict=True):
        for attack, curve in curves.items():
            axis.plot(range(1, len(curve[name]) + 1), curve[name], label=attack)
        axis.set_xlabel("joint gradient step")
        axis.set_ylabel(label)
        axis.set_ylim(0, 1.02 if name != "l1" else None)
        plain_axis(axis)
    legend(figure)
    return figure
