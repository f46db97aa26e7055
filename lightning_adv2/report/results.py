"""The files that every evaluation leaves: results.json, results.csv, images.csv and figures."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from lightning_adv2.files import written_whole
from lightning_adv2.report import figures
from lightning_adv2.report.records import BatchRecord
from lightning_adv2.report.tables import Summary, write_csv


def write_results(folder: Path, summary: Summary, stamp: dict[str, Any]) -> Path:
    """Write ``results.json`` (rows, denominators, stamp), ``results.csv`` and, per image, ``images.csv``."""
    content = {"rows": summary.rows, "denominators": summary.denominators, "stamp": stamp}
    path = folder / "results.json"
    with written_whole(path) as temporary:
        temporary.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
    write_csv(summary.rows, folder / "results.csv")
    write_csv(summary.images, folder / "images.csv")
    return path


def merge(summaries: dict[str, Summary]) -> Summary:
    """Several evaluations as one; the denominators stay apart, under the keys given."""
    merged = Summary(denominators={key: summary.denominators for key, summary in summaries.items()})
    for summary in summaries.values():
        merged.rows += summary.rows
        merged.images += summary.images
    return merged


def write_figures(folder: Path, records: Sequence[BatchRecord], summary: Summary, classes: Sequence[str]) -> list[Path]:
    """Draw gallery, bars and convergence into ``folder``."""
    if not summary.rows:
        return []  # no image was attacked
    paths = [figures.save(figures.bars(summary.rows), folder / "agreement.png")]
    first = next((record for record in records if record.image_id), None)
    if first is not None:
        name = summary.rows[0]["interpreter"].upper()
        shown = figures.shown_attacks(first)
        if shown:
            figure = figures.gallery(first, shown, classes, f"{name}: benign, PGD and ADV2")
            paths.append(figures.save(figure, folder / "gallery.png"))
        curves = mean_traces(records)
        if curves:
            figure = figures.convergence(curves, f"{name}: the joint attack, step by step (means over images)")
            paths.append(figures.save(figure, folder / "convergence.png"))
    return paths


def mean_traces(records: Sequence[BatchRecord]) -> dict[str, dict[str, Tensor]]:
    """Attack -> name -> mean over all images at each step, ``(T,)``."""
    gathered: dict[str, dict[str, list[Tensor]]] = {}
    for record in records:
        for attack in record.attacks:
            for name, curve in attack.trace.items():
                gathered.setdefault(attack.key, {}).setdefault(name, []).append(curve[:, attack.valid])
    return {key: {n: torch.cat(c, dim=1).mean(1) for n, c in curves.items()} for key, curves in gathered.items()}
