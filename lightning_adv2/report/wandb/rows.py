"""The rows of W&B's report of an evaluation.

W&B makes a section of panels of all keys with the same first word: ``results`` (bars, convergence and table at a
glance), ``images`` (tables with overlays, figures), ``convergence`` (curves over the attack's steps), ``running``
(means while it ran), ``studies``.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

import torch

from lightning_adv2.files.text import visible
from lightning_adv2.report.figures import amplified, overlay
from lightning_adv2.results.records import BatchRecord, record_key, to_numpy
from lightning_adv2.results.run import Run
from lightning_adv2.results.summary import Row as SummaryRow
from lightning_adv2.results.traces import Curves

MAX_IMAGES = 16
MAX_CURVE_POINTS = 100
_BARS = {"asr": "attack success rate", "iou": "map IoU", "l1": "map L1"}
_SHARED = ("agreement", "overview")  # figures of all interpreters; see results.write_figures

Row = dict[str, Any]


def attack_step(stage: str, interpreter: str) -> str:
    """The x-axis of an interpreter's curves."""
    return f"convergence/{stage}/{interpreter}/attack_step"


def report_rows(run: Run, pictures: Sequence[Path], whole: bool) -> Iterator[Row]:
    """What is logged of a run, one W&B row after the other, always in the same order.

    For each interpreter the attack's curves over its steps, then a table of images with maps overlaid and its figures;
    at last what shows all interpreters side by side.

    Args:
        run: what to log.
        pictures: PNG files.
        whole: the run came to its end; only then curves are logged, for W&B takes no point back.
    """
    import wandb

    several, stage = len(run.interpreters) > 1, run.about["stage"]
    curves: dict[str, Curves] = {}
    for name in run.interpreters:
        if whole:
            curves[name] = run.summary.traces.get(name, {})
            yield from _curve_rows(curves[name], stage, name)
        own = [path for path in pictures if path.stem not in _SHARED and (not several or path.parent.name == name)]
        content: Row = {f"images/{stage}/{name}/{path.stem}": wandb.Image(str(path)) for path in own}
        images = (row for record in run.records(name) for row in _image_rows(record, run.about["classes"]))
        content |= _table(list(islice(images, MAX_IMAGES)), f"images/{stage}/{name}")
        if content:
            yield content
    shared = [path for path in pictures if path.stem in _SHARED]
    content = {f"results/{stage}/{path.stem}": wandb.Image(str(path)) for path in shared}
    content |= {f"results/{stage}/{name}": chart for name, chart in _charts(run.summary.rows, curves).items()}
    if content:
        yield content


def _charts(rows: Sequence[SummaryRow], curves: dict[str, Curves]) -> dict[str, Any]:
    """Bars over all attacks and interpreters, a line for each attack's way there, and the numbers."""
    import wandb

    charts: dict[str, Any] = {}
    for metric, title in _BARS.items():
        data = [
            [f"{row['interpreter']}, {record_key(row['attack'], row['schedule'])}", float(row[metric])]
            for row in rows
            if row[metric] is not None
        ]
        if data:
            table = wandb.Table(columns=["interpreter, attack", title], data=data)
            charts[metric] = wandb.plot.bar(table, "interpreter, attack", title, title=title)
    for interpreter, by_attack in curves.items():
        for name, title in (("iou", "map IoU"), ("success", "attack success rate")):
            lines = {attack: by_name[name] for attack, by_name in by_attack.items() if name in by_name}
            if lines:
                points = {attack: _thinned(len(line)) for attack, line in lines.items()}
                charts[f"{interpreter} {'asr' if name == 'success' else name} by step"] = wandb.plot.line_series(
                    xs=[[k + 1 for k in ks] for ks in points.values()],
                    ys=[[float(lines[attack][k]) for k in ks] for attack, ks in points.items()],
                    keys=list(points), title=f"{interpreter}: {title} over the attack's steps", xname="step",
                )  # fmt: skip
    if rows:
        columns: list[Any] = [name for name in rows[0] if name != "flags"]
        charts["table"] = wandb.Table(columns=columns, data=[[row[name] for name in columns] for row in rows])
    return charts


def _thinned(length: int) -> list[int]:
    """Evenly spaced places, the first and the last among them."""
    return [int(k) for k in torch.linspace(0, length - 1, min(length, MAX_CURVE_POINTS)).round()]


def _curve_rows(curves: Curves, stage: str, interpreter: str) -> Iterator[Row]:
    length = max((len(c["iou"]) for c in curves.values()), default=0)
    for k in _thinned(length):
        point = {
            f"convergence/{stage}/{interpreter}/{attack}/{'asr' if name == 'success' else name}": float(curve[k])
            for attack, by_name in curves.items()
            for name, curve in by_name.items()
            if k < len(curve)
        }
        yield {attack_step(stage, interpreter): k + 1, **point}


def _table(rows: Sequence[Row], prefix: str) -> Row:
    """One table, and the same overlays as media panels, which need no click to open."""
    import wandb

    if not rows:
        return {}
    overlays = [
        wandb.Image(row[column].image, caption=f"{row['image']}: {column}")
        for row in rows[:6]
        for column in row
        if column.endswith(" map")
    ]
    table = wandb.Table(columns=list(rows[0]), data=[list(row.values()) for row in rows])
    return {f"{prefix}/table": table, f"{prefix}/overlays": overlays}


def _image_rows(record: BatchRecord, classes: Sequence[str]) -> Iterator[Row]:
    import wandb

    for i, name in enumerate(record.image_id):
        row: Row = {
            "image": visible(name),
            "label": visible(classes[int(record.label[i])]),
            "target": visible(classes[int(record.target_class[i])]),
            "benign": wandb.Image(to_numpy(record.images[i])),
            "benign map": wandb.Image(overlay(record.images[i], record.benign_map[i])),
            "target map": wandb.Image(overlay(record.images[i], record.target_map[i])),
        }
        for attack in record.attacks:
            if attack.schedule == "control":
                continue
            row[f"{attack.key} predicted"] = visible(classes[int(attack.adv_predicted[i])])
            row[f"{attack.key} confidence"] = float(attack.confidence[i])
            row[f"{attack.key}"] = wandb.Image(to_numpy(attack.adv_images[i]))
            row[f"{attack.key} map"] = wandb.Image(overlay(attack.adv_images[i], attack.adv_map[i]))
            row[f"{attack.key} perturbation"] = wandb.Image(amplified(attack.adv_images[i], record.images[i]))
        yield row
