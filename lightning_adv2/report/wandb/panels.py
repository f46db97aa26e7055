"""The row of an evaluation in W&B: all tables, charts and figures, a function of the run's folder.

W&B makes a section of panels of all keys with the same first word: ``results`` (bars and table at a glance),
``convergence`` (charts over the attack's steps), ``images`` (tables with overlays, figures), ``studies``, and
``Custom Chart Tables`` (the numbers of the charts). Besides, ``running`` has the means while an evaluation runs.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from itertools import islice
from typing import Any

import torch

from lightning_adv2.files.text import visible
from lightning_adv2.report.figures import amplified, overlay
from lightning_adv2.report.findings import details_of, read_findings, study_names
from lightning_adv2.report.harmless import harmless
from lightning_adv2.results.records import BatchRecord, record_key, to_numpy
from lightning_adv2.results.run import Run
from lightning_adv2.results.summary import Row

BARS = {"asr": "attack success rate", "iou": "map IoU", "l1": "map L1"}
"""The measures that have bars, and panels that compare runs, with their titles."""
MAX_IMAGES = 16
MAX_CURVE_POINTS = 100
_CURVES = {"success": "asr"}  # measures of a trace that are called otherwise in a table


def report_row(run: Run) -> Row:
    """Tables, charts and figures of a run, by W&B key."""
    stage = run.about["stage"]
    row = {f"results/{stage}/{name}": chart for name, chart in _results(run.summary.rows).items()}
    for name in run.summary.by_interpreter:
        curves = run.summary.traces.get(name, {})
        row |= {f"convergence/{stage}/{name}/{key}": chart for key, chart in _convergence(name, curves).items()}
        images = (image for record in run.records(name) for image in _images(record, run.about["classes"]))
        row |= _image_table(list(islice(images, MAX_IMAGES)), f"images/{stage}/{name}")
    return row | _pictures(run, stage) | _studies(run, stage)


def _results(rows: Sequence[Row]) -> Row:
    """Bars over all attacks and interpreters, and the table."""
    import wandb

    shown: Row = {"table": _table(rows)} if rows else {}
    for metric, title in BARS.items():
        data = [
            [f"{row['interpreter']}, {record_key(row['attack'], row['schedule'])}", float(row[metric])]
            for row in rows
            if row[metric] is not None
        ]
        if data:
            table = wandb.Table(columns=["interpreter, attack", title], data=data)
            shown[metric] = wandb.plot.bar(table, "interpreter, attack", title, title=title, split_table=True)
    return shown


def _convergence(interpreter: str, curves: dict[str, dict[str, list[float]]]) -> Row:
    """A chart for each measure, with a line for each attack."""
    import wandb

    charts: Row = {}
    for name in dict.fromkeys(name for by_name in curves.values() for name in by_name):
        points = {key: curve_points(by_name[name]) for key, by_name in curves.items() if name in by_name}
        points = {key: found for key, found in points.items() if found}
        metric = _CURVES.get(name, name)
        if points:
            charts[metric] = wandb.plot.line_series(
                xs=[[step for step, _ in found] for found in points.values()],
                ys=[[value for _, value in found] for found in points.values()],
                keys=list(points), title=f"{interpreter}: {BARS.get(metric, metric)} over the attack's steps",
                xname="step", split_table=True,
            )  # fmt: skip
    return charts


def curve_points(curve: Sequence[float]) -> list[tuple[int, float]]:
    """Evenly spaced steps, counted from 1, and their values; steps without a value are left out."""
    places = torch.linspace(0, len(curve) - 1, min(len(curve), MAX_CURVE_POINTS)).round().int().tolist()
    return [(k + 1, float(curve[k])) for k in places if not math.isnan(curve[k])]


def _pictures(run: Run, stage: str) -> Row:
    """The figures of the run's own report that exist."""
    import wandb

    folder = run.folder / "figures"
    places = {f"results/{stage}/{name}": folder / f"{name}.png" for name in ("agreement", "overview")}
    names = list(run.summary.by_interpreter)
    for name in names:
        own = folder / name if len(names) > 1 else folder
        places |= {f"images/{stage}/{name}/{kind}": own / f"{kind}.png" for kind in ("gallery", "convergence")}
    return {key: wandb.Image(str(path)) for key, path in places.items() if path.is_file()}


def _studies(run: Run, stage: str) -> Row:
    """The rows of each study as ``table``, further rows by their names, its figures as ``figure``, ``figure_maps``."""
    import wandb

    row: Row = {}
    for name in study_names(run.folder):
        with harmless(f"W&B's part of {run.folder / name}.json", f"'lightning-adv2 sync {run.folder}' logs it"):
            study = read_findings(run.folder, name)
            if study is not None:
                tables = {"table": study.findings.rows, **details_of(study.findings)}
                shown = {key: _table(rows) for key, rows in tables.items() if rows}
                for path in study.figures:
                    shown[f"figure{path.stem.removeprefix(name)}"] = wandb.Image(str(path))
                row |= {f"studies/{stage}/{name}/{key}": value for key, value in shown.items()}
    return row


def _table(rows: Sequence[Row]) -> Any:
    """Rows as a table of W&B; a list or a dictionary becomes one text."""
    import wandb

    columns: list[Any] = list(rows[0])
    return wandb.Table(columns=columns, data=[[_cell(row.get(key)) for key in columns] for row in rows])


def _cell(value: Any) -> Any:
    if isinstance(value, list | dict):
        return visible("; ".join(map(str, value)))
    return visible(value) if isinstance(value, str) else value


def _image_table(rows: Sequence[Row], prefix: str) -> Row:
    """A table of images, and the same overlays as media panels, which need no click to open."""
    import wandb

    if not rows:
        return {}
    overlays = [
        wandb.Image(row[column].image, caption=f"{row['image']}: {column}")
        for row in rows[:6]
        for column in row
        if column.endswith(" map")
    ]
    return {f"{prefix}/table": _table(rows), f"{prefix}/overlays": overlays}


def _images(record: BatchRecord, classes: Sequence[str]) -> Iterator[Row]:
    import wandb

    for i, name in enumerate(record.image_id):
        row: Row = {
            "image": visible(name),
            "label": classes[int(record.label[i])],
            "target": classes[int(record.target_class[i])],
            "benign": wandb.Image(to_numpy(record.images[i])),
            "benign map": wandb.Image(overlay(record.images[i], record.benign_map[i])),
            "target map": wandb.Image(overlay(record.images[i], record.target_map[i])),
        }
        for attack in record.attacks:
            if attack.role == "control":
                continue
            row[f"{attack.key} predicted"] = classes[int(attack.adv_predicted[i])]
            row[f"{attack.key} confidence"] = float(attack.confidence[i])
            row[f"{attack.key}"] = wandb.Image(to_numpy(attack.adv_images[i]))
            row[f"{attack.key} map"] = wandb.Image(overlay(attack.adv_images[i], attack.adv_map[i]))
            row[f"{attack.key} perturbation"] = wandb.Image(amplified(attack.adv_images[i], record.images[i]))
        yield row
