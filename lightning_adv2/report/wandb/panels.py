"""Weights & Biases: a finished evaluation is logged row by row, so that each row is logged once."""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from pytorch_lightning.loggers import WandbLogger
from pytorch_lightning.utilities import rank_zero_warn

from lightning_adv2.files import read_json
from lightning_adv2.files.text import visible
from lightning_adv2.report.wandb.about import STEP, as_tags
from lightning_adv2.report.wandb.files import MARK, read_state, row_number, rows_of, starts, sync_command
from lightning_adv2.report.wandb.logger import RunLogger, attempt
from lightning_adv2.report.wandb.rows import attack_step, report_rows
from lightning_adv2.results.records import record_key
from lightning_adv2.results.run import Run
from lightning_adv2.results.writing import logged_values

_SHOWN = ("/asr", "/iou", "/l1")  # as panels that compare runs; the other measures stay in the summary
_SHORT = ("asr", "confidence", "l1", "iou")


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
        written = read_json(run.folder / "results.json")
    except (OSError, ValueError):
        return False
    stated = {"rows": run.summary.rows, "denominators": run.summary.denominators}
    said = {key: written.get(key) for key in stated} if isinstance(written, dict) else {}
    return bool(said == json.loads(json.dumps(stated)))


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
            rank_zero_warn(f"a part of this report was logged online; complete it there by: {sync_command(run.folder)}")
        return
    _describe(experiment, run)
    for number, row in enumerate(report_rows(run, pictures, is_whole(run)), 1):
        if number > done:
            experiment.log({MARK: f"{digest}/{number}", **row})
    experiment.summary.update(_means(run))
    if isinstance(logger, RunLogger):
        logger.reported(run.folder, digest)


def _describe(experiment: Any, run: Run) -> None:
    """Axes, tags, and what it takes to get the same again; it sets values, so once or twice is the same."""
    experiment.define_metric(MARK, hidden=True)
    stage = run.about["stage"]
    for name in run.interpreters:
        step = attack_step(stage, name)
        experiment.define_metric(step, hidden=True)
        experiment.define_metric(f"convergence/{stage}/{name}/*", step_metric=step)
    attacks = [row["attack"] for row in run.summary.rows if row["schedule"] != "control"]
    tags = (*experiment.tags, run.about["dataset"], run.about["classifier"], *run.interpreters, *attacks)
    experiment.tags = as_tags(visible(str(tag)) for tag in tags)
    known = {name: value for name, value in run.about.items() if name not in ("classes", "passed_over")}
    experiment.config.update(
        {"about": known, "experiment": run.experiment, "stamp": _stamp(run.folder)}, allow_val_change=True
    )
    if stage != "test":
        return  # during fit each of them is a curve
    for key in _every(run):
        if not key.endswith(_SHOWN):
            experiment.define_metric(key, step_metric=STEP, step_sync=True, hidden=True)


def _stamp(folder: Path) -> Any:
    try:
        return read_json(folder / "stamp.json")
    except (OSError, ValueError):
        return None  # of a run that has not come to its end


def _every(run: Run) -> dict[str, float]:
    """What the loop logs at the end, under the same keys."""
    stage, values = run.about["stage"], dict[str, float]()
    for row in run.summary.rows:
        prefix = f"{stage}/{record_key(row['attack'], row['schedule'])}/{row['interpreter']}"
        values |= {f"{prefix}/{name}": value for name, value in logged_values(row).items()}
    return values


def _means(run: Run) -> dict[str, float]:
    """The same, and the main ones under short keys, ``summary/adv2/cam/iou``, for the table of runs."""
    rows = [row for row in run.summary.rows if row["schedule"] != "control"]
    seen = Counter((row["attack"], row["interpreter"]) for row in rows)
    short: dict[str, float] = {}
    for row in rows:
        several = seen[row["attack"], row["interpreter"]] > 1
        name = record_key(row["attack"], row["schedule"]) if several else row["attack"]
        for metric in _SHORT:
            if row[metric] is not None:
                short[f"summary/{name}/{row['interpreter']}/{metric}"] = float(row[metric])
    return _every(run) | short
