"""Log an evaluation to W&B: at its end, and later by ``lightning-adv2 sync``."""

from __future__ import annotations

import hashlib
import json
from argparse import Namespace
from collections import Counter
from pathlib import Path
from typing import Any

from pytorch_lightning.loggers import Logger, WandbLogger

from lightning_adv2.files import read_json
from lightning_adv2.files.sums import file_sha256, left_files
from lightning_adv2.files.text import visible
from lightning_adv2.report.run_report import complete_figures
from lightning_adv2.report.wandb.about import STEP, as_tags
from lightning_adv2.report.wandb.artifacts import log_evaluation
from lightning_adv2.report.wandb.files import logged, upload_command
from lightning_adv2.report.wandb.logger import RunLogger, attempt, close_active
from lightning_adv2.report.wandb.panels import BARS, report_row
from lightning_adv2.report.wandb.start import wandb_logger
from lightning_adv2.results.records import record_key
from lightning_adv2.results.run import Run, is_whole, read_run
from lightning_adv2.results.writing import logged_values

REPORT = "evaluation"
"""Name of an evaluation in ``logged`` of ``wandb.json``."""
_SHORT = ("asr", "confidence", "l1", "iou")


def sync(folder: str | Path) -> str:
    """Log an evaluation to its W&B run, unless the W&B run has it.

    A pure function of the folder, which may be called at any time and any number of times, and be killed: panels show
    the last row, so that a row that is logged again after a kill changes none of them. An unfinished evaluation is
    logged as far as it is, without an artifact.

    Args:
        folder: the run's, with ``records/``.

    Returns:
        A sentence for people; if offline runs wait for their upload, the last line uploads them.

    Raises:
        FileNotFoundError: there is no evaluation in ``folder``.
        ValueError: a file of it is damaged.
        RuntimeError: W&B did not take it, or another process logs to the W&B run; says why.
    """
    folder = Path(folder)
    close_active()
    try:
        run = read_run(folder)
    except FileNotFoundError as error:
        line = upload_command(folder)
        raise FileNotFoundError(f"{error}; its W&B run is uploaded by\n  {line}" if line else str(error)) from error
    if not run.summary.rows:
        return f"{folder}: no batch is finished yet, so there is nothing to log"
    complete_figures(run)
    said = "already logged to W&B"
    digest = report_digest(run)
    if logged(folder).get(REPORT) != digest:
        logger = wandb_logger(folder, name=folder.resolve().name, job_type="evaluate")
        log_run(logger, run)
        logger.close()
        if logged(folder).get(REPORT) != digest:
            raise RuntimeError(f"{folder}: W&B did not take it; see the warning above and try again later")
        said = "logged offline" if logger.offline else "logged to W&B"
    line = upload_command(folder)
    return f"{folder}: {said}" + (f"; with a key and a connection, upload what is offline by\n  {line}" if line else "")


def log_run(logger: Logger | None, run: Run) -> None:
    """Log an evaluation as one row of media, a summary and an artifact, unless the folder's W&B run has them already.

    An unfinished run has no artifact. An error becomes a warning.

    Args:
        logger: of the run; other loggers than W&B's get nothing.
        run: the evaluation.
    """
    if not isinstance(logger, WandbLogger):
        return

    def act() -> None:
        experiment: Any = logger.experiment
        if getattr(experiment, "disabled", False):
            return
        _describe(experiment, run)
        experiment.log(report_row(run))
        experiment.summary.update(_every(run) | _short(run))
        if is_whole(run):
            log_evaluation(experiment, run.folder)

    def once() -> None:
        return logger.once(REPORT, report_digest(run), act) if isinstance(logger, RunLogger) else act()

    attempt(logger, once)


def report_digest(run: Run) -> str:
    """SHA-256 over the experiment, its results, the tables in the folder, and the names of the figures.

    The stamp, which has time and machine, does not count.
    """
    content = [run.experiment, run.summary.rows, run.summary.denominators, is_whole(run)]
    total = hashlib.sha256(json.dumps(content, sort_keys=True).encode())
    for path in left_files(run.folder):
        table = path.parent == run.folder and path.suffix in (".json", ".csv")
        if path.suffix == ".png" or (table and path.name not in ("results.json", "stamp.json")):
            total.update(f"{path.relative_to(run.folder).as_posix()}: {file_sha256(path) if table else ''}\n".encode())
    return total.hexdigest()


def _describe(experiment: Any, run: Run) -> None:
    """Set tags, configuration, and which values are no panels; a second call changes nothing."""
    stage, rows = run.about["stage"], run.summary.rows
    attacks = [row["attack"] for row in rows if row["role"] != "control"]
    tags = (*experiment.tags, run.about["dataset"], run.about["classifier"], *run.interpreters, *attacks)
    experiment.tags = as_tags(visible(str(tag)) for tag in tags)
    known = {name: value for name, value in run.about.items() if name not in ("classes", "passed_over")}
    try:
        stamp = read_json(run.folder / "stamp.json")
    except (OSError, ValueError):
        stamp = None  # of a run that has not come to its end
    experiment.config.update({"about": known, "experiment": run.experiment, "stamp": stamp}, allow_val_change=True)
    hidden = {f"running/{record_key(r['attack'], r['schedule'])}/*" for r in rows if r["role"] == "control"}
    if stage == "test":  # during fit each of them is a curve; of the rest, panels compare runs
        hidden |= {key for key in _every(run) if key.rpartition("/")[2] not in BARS}
    for key in sorted(hidden):
        experiment.define_metric(key, step_metric=STEP, step_sync=True, hidden=True)


def _every(run: Run) -> dict[str, float]:
    """The values that the loop logs at its end, under the same keys."""
    stage, values = run.about["stage"], dict[str, float]()
    for row in run.summary.rows:
        prefix = f"{stage}/{record_key(row['attack'], row['schedule'])}/{row['interpreter']}"
        values |= {f"{prefix}/{name}": value for name, value in logged_values(row).items()}
    return values


def _short(run: Run) -> dict[str, float]:
    """The main values under short keys, ``summary/adv2/cam/iou``, for W&B's table of runs and for sweeps."""
    rows = [row for row in run.summary.rows if row["role"] != "control"]
    seen = Counter((row["attack"], row["interpreter"]) for row in rows)
    short: dict[str, float] = {}
    for row in rows:
        several = seen[row["attack"], row["interpreter"]] > 1
        name = record_key(row["attack"], row["schedule"]) if several else row["attack"]
        for metric in _SHORT:
            if row[metric] is not None:
                short[f"summary/{name}/{row['interpreter']}/{metric}"] = float(row[metric])
    return short


def main(options: Namespace) -> None:
    """Run ``lightning-adv2 sync``: a run that fails does not stop the others; the command fails at the end.

    Args:
        options: of :func:`lightning_adv2.cli.options.sync`.
    """
    failures = []
    for folder in options.runs:
        try:
            print(sync(folder), flush=True)
        except (OSError, ValueError, RuntimeError, ModuleNotFoundError) as error:
            failures.append(str(error))
    if failures:
        raise SystemExit("\n".join(failures))
