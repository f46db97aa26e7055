"""The files that every evaluation leaves: results.json, results.csv, images.csv, status.csv, stamp.json and figures."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import groupby
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from lightning_adv2.files import write_json
from lightning_adv2.functional.agreement import map_iou
from lightning_adv2.metrics import METRICS
from lightning_adv2.report import figures
from lightning_adv2.report.records import BENIGN, BatchRecord, titled
from lightning_adv2.report.summary import Row, Summary
from lightning_adv2.report.tables import write_csv, write_status


def write_results(folder: Path, summary: Summary, stamp: dict[str, Any]) -> Path:
    """Write ``results.json`` (rows, denominators, benign), the tables as CSV, and ``stamp.json``.

    All but the stamp follow from the records alone: they are equal to the byte for any number of processes, and after
    any number of interruptions. What differs each time is the stamp's: seconds, machine, versions, command.
    """
    path = folder / "results.json"
    write_json(path, {"rows": summary.rows, "denominators": summary.denominators, "benign": summary.benign})
    write_json(folder / "stamp.json", stamp | {"seconds": summary.seconds})
    write_csv(summary.rows, folder / "results.csv")
    write_csv(summary.images, folder / "images.csv")
    write_status(summary, folder / "status.csv")
    return path


def logged_values(row: Row) -> dict[str, float]:
    """The row's numbers, without those that repeat others: agreement with the benign map where it is the target."""
    repeated = {
        "l1_benign": row["target"] == BENIGN,
        "iou_benign": row["target"] == BENIGN,
        "size": row["unit"] == "Linf",
    }
    return {name: float(row[name]) for name in METRICS if not repeated.get(name) and row[name] is not None}


def write_figures(folder: Path, records: Iterable[BatchRecord], summary: Summary, classes: Sequence[str]) -> list[Path]:
    """Draw bars over all interpreters, and of each the gallery and convergence.

    With one interpreter all lie in ``folder``; with several each has its own folder below, and ``overview.png`` shows
    one image under all of them.

    Args:
        folder: where to.
        records: of the run, those of an interpreter together.
        summary: of the same records.
        classes: class names.
    """
    if not summary.rows:
        return []  # no image was attacked
    paths = [figures.save(figures.bars(summary.rows), folder / "agreement.png")]
    several = len(summary.parts) > 1
    first: dict[str, BatchRecord] = {}
    for name, group in groupby(records, key=lambda record: record.interpreter):
        own = list(group)
        attacked = next((record for record in own if record.image_id), None)
        if attacked is not None:
            first[name] = attacked
            paths += _write_own(folder / name if several else folder, own, attacked, classes)
    if several and (shown := _telling(first)) is not None:
        heading = f"Same image, {len(first)} interpreters"
        target = next(iter(first.values())).target
        figure = figures.overview(first, shown, classes, titled(heading, target))
        paths.append(figures.save(figure, folder / "overview.png"))
    return paths


def _write_own(folder: Path, records: Sequence[BatchRecord], first: BatchRecord, classes: Sequence[str]) -> list[Path]:
    paths = []
    name = first.interpreter.upper()
    shown = figures.shown_attacks(first)
    if shown:
        listed = " and ".join(", ".join(["benign", *(attack.attack.upper() for attack in shown)]).rsplit(", ", 1))
        figure = figures.gallery(first, shown, classes, titled(f"{name}: {listed}", first.target))
        paths.append(figures.save(figure, folder / "gallery.png"))
    curves = mean_traces(records)
    if curves:
        heading = f"{name}: the joint attack, step by step (means over images)"
        figure = figures.convergence(curves, titled(heading, first.target))
        paths.append(figures.save(figure, folder / "convergence.png"))
    return paths


def _telling(records: dict[str, BatchRecord]) -> str | None:
    """Of the images in all records, that on which the first attack's maps go astray most while the last one's stay."""
    gains: dict[str, list[float]] = {}
    for record in records.values():
        shown = figures.shown_attacks(record)
        if not shown:
            return None
        plain, joint = (map_iou(attack.adv_map, record.target_map) for attack in (shown[0], shown[-1]))
        for image_id, gain in zip(record.image_id, (joint - plain).nan_to_num(-1.0).tolist(), strict=True):
            gains.setdefault(image_id, []).append(gain)
    common = {image_id: sum(gain) for image_id, gain in gains.items() if len(gain) == len(records)}
    return max(common, key=lambda image_id: common[image_id]) if common else None


def mean_traces(records: Sequence[BatchRecord]) -> dict[str, dict[str, Tensor]]:
    """Attack -> name -> mean over all images for which it is defined at each step, ``(T,)``."""
    gathered: dict[str, dict[str, list[Tensor]]] = {}
    for record in records:
        for attack in record.attacks:
            for name, curve in attack.trace.items():
                gathered.setdefault(attack.key, {}).setdefault(name, []).append(curve[:, attack.valid])
    return {key: {n: torch.cat(c, dim=1).nanmean(1) for n, c in curves.items()} for key, curves in gathered.items()}
