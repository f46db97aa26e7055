"""Weights & Biases: what is logged of a finished evaluation, row by row, so that each row is logged once."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

import torch
from pytorch_lightning.loggers import WandbLogger
from pytorch_lightning.utilities import rank_zero_warn

from lightning_adv2.report.figures import amplified, overlay
from lightning_adv2.report.records import BatchRecord, record_key, to_numpy
from lightning_adv2.report.results import logged_values, mean_traces
from lightning_adv2.report.run import Run
from lightning_adv2.report.wandb_files import MARK, read_state, row_number, rows_of, starts
from lightning_adv2.report.wandb_logger import SYNC, RunLogger, attempt

MAX_IMAGES = 16
MAX_CURVE_POINTS = 100

Row = dict[str, Any]


def log_run(logger: WandbLogger, run: Run, pictures: Sequence[Path]) -> None:
    """Log a whole evaluation, each row once, however often this is called and wherever an earlier call was killed.

    The report is a fixed sequence of rows, and each carries its number. What the same W&B run has already (by the files
    of earlier offline starts, and by the server's summary) is left out. An error becomes a warning.

    Args:
        logger: where to.
        run: what to log.
        pictures: its figures.
    """
    digest = report_digest(run)
    if read_state(run.folder).get("reported") != digest:
        attempt(logger, lambda: _log_run(logger, run, pictures, digest))


def report_digest(run: Run) -> str:
    """Tells reports apart: SHA-256 over the experiment and its results."""
    content = [run.experiment, run.summary.rows, run.summary.denominators, is_whole(run)]
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def is_whole(run: Run) -> bool:
    """Whether the run came to its end: ``results.json`` is there and says what the records say."""
    try:
        written = json.loads((run.folder / "results.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return False
    return bool(written == json.loads(json.dumps({"rows": run.summary.rows, "denominators": run.summary.denominators})))


def _log_run(logger: WandbLogger, run: Run, pictures: Sequence[Path], digest: str) -> None:
    experiment: Any = logger.experiment
    if getattr(experiment, "disabled", False):
        return
    folder, own = Path(logger.save_dir or "."), Path(experiment.dir).parent
    done = max([rows_of(path, digest) for path in starts(folder, experiment.id) if path != own], default=0)
    if not experiment.offline:
        done = max(done, row_number(experiment.summary.get(MARK), digest))
    elif any(rows_of(path, digest) for path in starts(folder, experiment.id, "run") if path != own):
        # What that start sent the server alone knows; a row logged twice cannot be taken back.
        if not (isinstance(logger, RunLogger) and logger.failed):
            rank_zero_warn(f"a part of this report was logged online; '{SYNC} {run.folder}' completes it there")
        return
    experiment.define_metric(MARK, hidden=True)
    for name in run.interpreters:
        step = f"{_prefix(run, name)}/attack_step"
        experiment.define_metric(step, hidden=True)
        experiment.define_metric(f"{_prefix(run, name)}/curve/*", step_metric=step)
    for number, row in enumerate(report_rows(run, pictures), 1):
        if number > done:
            experiment.log({MARK: f"{digest}/{number}", **row})
    experiment.summary.update(_means(run))  # sets values, so once or twice is the same
    if isinstance(logger, RunLogger):
        logger.reported(run.folder, digest)


def _prefix(run: Run, interpreter: str) -> str:
    return f"{run.about['stage']}/{interpreter}"


def _means(run: Run) -> dict[str, float]:
    """What the loop logs at the end, under the same keys."""
    stage, values = run.about["stage"], dict[str, float]()
    for row in run.summary.rows:
        prefix = f"{stage}/{record_key(row['attack'], row['schedule'])}/{row['interpreter']}"
        values |= {f"{prefix}/{name}": value for name, value in logged_values(row).items()}
    return values


def report_rows(run: Run, pictures: Sequence[Path]) -> Iterator[Row]:
    """What is logged of a run, one W&B row after the other, always in the same order.

    For each interpreter the attack's curves over its steps (only of a run that came to its end, for W&B takes no point
    back), then a table of images with maps overlaid and the figures; at last the figures that interpreters share.

    Args:
        run: what to log.
        pictures: PNG files.
    """
    import wandb

    whole, several = is_whole(run), len(run.interpreters) > 1
    for name in run.interpreters:
        records = list(run.records(name))
        prefix = _prefix(run, name)
        if whole:
            yield from _curve_rows(records, prefix)
        own = [path for path in pictures if not several or path.parent.name == name]
        content: Row = {f"{prefix}/figures/{path.stem}": wandb.Image(str(path)) for path in own}
        images = (row for record in records for row in _image_rows(record, run.about["classes"]))
        content |= _table(list(islice(images, MAX_IMAGES)), prefix)
        if content:
            yield content
    shared = [path for path in pictures if several and path.parent.name not in run.interpreters]
    if shared:
        yield {f"{run.about['stage']}/figures/{path.stem}": wandb.Image(str(path)) for path in shared}


def _curve_rows(records: Sequence[BatchRecord], prefix: str) -> Iterator[Row]:
    curves = mean_traces(records)
    length = max((len(c["iou"]) for c in curves.values()), default=0)
    for k in torch.linspace(0, length - 1, min(length, MAX_CURVE_POINTS)).round().long().tolist():
        point = {
            f"{prefix}/curve/{attack}/{'asr' if name == 'success' else name}": float(curve[k])
            for attack, by_name in curves.items()
            for name, curve in by_name.items()
            if k < len(curve)
        }
        yield {f"{prefix}/attack_step": k + 1, **point}


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
    return {f"{prefix}/images": table, f"{prefix}/overlays": overlays}


def _image_rows(record: BatchRecord, classes: Sequence[str]) -> Iterator[Row]:
    import wandb

    for i, name in enumerate(record.image_id):
        row: Row = {
            "image": name,
            "label": classes[int(record.label[i])],
            "target": classes[int(record.target_class[i])],
            "benign": wandb.Image(to_numpy(record.images[i])),
            "benign map": wandb.Image(overlay(record.images[i], record.benign_map[i])),
            "target map": wandb.Image(overlay(record.images[i], record.target_map[i])),
        }
        for attack in record.attacks:
            if attack.schedule == "control":
                continue
            row[f"{attack.key} predicted"] = classes[int(attack.adv_predicted[i])]
            row[f"{attack.key} confidence"] = float(attack.confidence[i])
            row[f"{attack.key}"] = wandb.Image(to_numpy(attack.adv_images[i]))
            row[f"{attack.key} map"] = wandb.Image(overlay(attack.adv_images[i], attack.adv_map[i]))
            row[f"{attack.key} perturbation"] = wandb.Image(amplified(attack.adv_images[i], record.images[i]))
        yield row
