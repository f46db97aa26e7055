"""Transfer as pictures: the IoUs as heat maps, and one image as every interpreter explains it (Figure 14)."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import torch
from matplotlib.figure import Figure

from lightning_adv2.interpreters import Interpreter
from lightning_adv2.models import Classifier
from lightning_adv2.report.figures import Cell, grid, heading, map_cell, overlay
from lightning_adv2.results.means import over_below
from lightning_adv2.results.records import BatchRecord, record_key, to_numpy
from lightning_adv2.results.summary import Row
from lightning_adv2.studies.transfer.judging import NO_MAP, benign_maps, explain

Matrix = dict[tuple[str, str], Row]
"""Rows by source and explaining interpreter."""


def matrices_of(rows: Sequence[Row]) -> dict[str, Matrix]:
    """Attack -> (source, interpreter) -> row."""
    matrices: dict[str, Matrix] = {}
    for row in rows:
        matrix = matrices.setdefault(record_key(row["attack"], row["schedule"]), {})
        matrix[row["source"], row["interpreter"]] = row
    return matrices


def sides_of(matrix: Matrix) -> tuple[list[str], list[str]]:
    """The interpreters that a matrix's attack aimed at, and those that explain."""
    return list(dict.fromkeys(source for source, _ in matrix)), list(dict.fromkeys(name for _, name in matrix))


def iou_of(row: Row | None) -> float:
    """The IoU of a row; NaN where there is no row, or no IoU."""
    return math.nan if row is None or row["iou"] is None else float(row["iou"])


def transfer_figure(rows: Sequence[Row]) -> Figure:
    """See :meth:`TransferEvaluation.figure`; the rows are of :func:`transfer_rows`, one or more."""
    matrices = matrices_of(rows)
    side = max(2.6, 0.75 * len({row["interpreter"] for row in rows}) + 1.0)
    figure = Figure((side * len(matrices) + 1.0, side + 0.5), layout="constrained")
    heading(figure, "Map IoU, adversarial and benign image")
    for axis, (attack, matrix) in zip(
        figure.subplots(1, len(matrices), squeeze=False)[0], matrices.items(), strict=True
    ):
        sources, names = sides_of(matrix)
        values = [[iou_of(matrix.get((source, name))) for name in names] for source in sources]
        drawn = axis.imshow(values, vmin=0, vmax=1, cmap="viridis")
        for i, line in enumerate(values):
            for j, iou in enumerate(line):
                if math.isfinite(iou):
                    row = matrix[sources[i], names[j]]
                    text = over_below(f"{iou:.2f}", row["n"] - row["empty"], row["n"])
                    axis.text(j, i, text, ha="center", va="center", color="black" if iou > 0.6 else "white")
        axis.set_xticks(range(len(names)), [name.upper() for name in names], fontsize=8, rotation=20, ha="right")
        axis.set_yticks(range(len(sources)), [name if name == NO_MAP else name.upper() for name in sources], fontsize=8)
        axis.set_title(attack, fontsize=9)
        axis.set_xlabel("explained by", fontsize=8)
        axis.set_ylabel("attack aimed at", fontsize=8)
    figure.colorbar(drawn, ax=figure.axes, shrink=0.8)
    return figure


def transfer_maps(
    classifier: Classifier,
    interpreters: Sequence[Interpreter],
    records: Mapping[str, BatchRecord],
    classes: Sequence[str],
    device: torch.device,
    judges: Sequence[Interpreter] = (),
) -> Figure | None:
    """One image: a row per interpreter that the attack was made for, a column per interpreter that explains it.

    The attack is the first that aims at a map. The first row are the benign maps; the image is the first that everyone
    can explain and that every such attack fools.

    Args:
        classifier: in eval mode.
        interpreters: in eval mode; those without a record are left out.
        records: of one batch, by interpreter.
        classes: class names.
        device: where to compute.
        judges: in eval mode; they have no records, and explain beside the others.

    Returns:
        None where there is no such image, or nobody else to explain it.
    """
    benign = benign_maps(classifier, records, judges, device)
    explaining = [one for one in (*interpreters, *judges) if one.name in benign]
    first = {name: next((a for a in record.attacks if a.needs_map), None) for name, record in records.items()}
    attacks = {name: attack for name, attack in first.items() if attack is not None}
    if len(explaining) < 2 or not attacks:
        return None
    known = set.intersection(*(set(maps) for maps in benign.values()))
    for name, attack in attacks.items():
        fooled = (attack.adv_predicted == records[name].target_class).nonzero()[:, 0].tolist()
        known &= {records[name].image_id[i] for i in fooled}
    record = next(iter(records.values()))
    image_id = next((name for name in record.image_id if name in known), None)
    if image_id is None:
        return None
    at = record.image_id.index(image_id)
    pixels, label = record.images[at], classes[int(record.label[at])]
    rows: list[list[Cell]] = [[(to_numpy(pixels), f"benign: {label}", "black")]]
    rows[0] += [(overlay(pixels, benign[one.name][image_id]), f"by {one.name.upper()}", "black") for one in explaining]
    for name, attack in attacks.items():
        i = records[name].image_id.index(image_id)
        adv, predicted = attack.adv_images[i : i + 1], attack.adv_predicted[i : i + 1]
        row: list[Cell] = [(to_numpy(adv[0]), f"made for {name.upper()}: {classes[int(predicted)]}", "black")]
        for one in explaining:
            shown = explain(classifier, one, adv, predicted, device)[0]
            row.append(map_cell(shown, benign[one.name][image_id], adv[0]))
        rows.append(row)
    return grid(rows, "One image, attacked for one interpreter and explained by another")
