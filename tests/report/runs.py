"""Run folders made by hand, and W&B runs read back."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

from lightning_adv2.results import BatchRecord, write_record, write_results
from lightning_adv2.results.run import Run, read_run
from lightning_adv2.runtime.experiment import claim

KEY = "c0ffee" * 6 + "beef"  # 40 characters, as a real one
CLASSES = ("disk", "ring", "star")
WANDB = Path(sys.executable).with_name("wandb")


def make_run(folder: Path, records: list[BatchRecord], whole: bool = True, **settings: Any) -> Run:
    """As an evaluation leaves it; one that was interrupted has no results yet. ``settings`` are the experiment's."""
    interpreters = {record.interpreter: {} for record in records}
    about = {"dataset": "drawn", "classifier": "tiny", "classes": CLASSES, "stage": "test", "selected": None,
             "passed_over": {}}  # fmt: skip
    experiment = claim(folder / "records", {"interpreters": interpreters, **settings}, about)
    for record in records:
        record.experiment = experiment
        write_record(record, folder / "records")
    run = read_run(folder)
    if whole:
        write_results(folder, run.summary, {})
    return run


def offline_runs(folder: Path) -> list[Path]:
    return sorted((folder / "wandb").glob("offline-run-*"))


def inspect(run: Path) -> list[dict[str, Any]]:
    """An offline run's transaction log, by W&B's own reader."""
    return [json.loads(line) for line in _inspect(run).splitlines() if line.strip()]


def summary(run: Path) -> str:
    """An offline run's last values, as JSON."""
    return json.dumps(json.loads(_inspect(run, "--summary")))


def _inspect(run: Path, *options: str) -> str:
    command = [WANDB, "leet", "inspect", *options, "--json", run]
    return subprocess.run(command, capture_output=True, text=True, check=True, timeout=60).stdout


def history(folder: Path) -> list[dict[str, Any]]:
    """The rows of all offline runs of a folder: what 'wandb sync' would upload, one after the other."""
    records = [record for run in offline_runs(folder) for record in inspect(run)]
    return [record["history"]["item"] for record in records if record["type"] == "history"]


def has(row: dict[str, Any], key: str) -> bool:
    """Whether a row has something under a key; a picture comes apart into ``key.path``, ``key.sha256``, ..."""
    return any(name == key or name.startswith(f"{key}.") for name in row)


def check_report(rows: list[dict[str, Any]], steps: int, name: str = "cam") -> None:
    """Each point of the curves once, one table, one set of figures."""
    axis = f"convergence/test/{name}/attack_step"
    assert [row[axis] for row in rows if axis in row] == [*range(1, steps + 1)]
    for key in ("table", "overlays", "gallery"):
        assert sum(has(row, f"images/test/{name}/{key}") for row in rows) == 1, key
    for key in ("agreement", "table", "iou_table", f"{name} iou by step_table"):
        assert sum(has(row, f"results/test/{key}") for row in rows) == 1, key
