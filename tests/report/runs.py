"""Run folders made by hand, and W&B runs read back."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

from lightning_adv2.report.table import Column
from lightning_adv2.results import BatchRecord, write_record, write_results
from lightning_adv2.results.run import Run, read_run
from lightning_adv2.runtime.experiment import claim

KEY = "c0ffee" * 6 + "beef"  # 40 characters, as a real one
CLASSES = ("disk", "ring", "star")
WANDB = Path(sys.executable).with_name("wandb")


class Probe:
    """A study as a user may write one; its file tells enough to show it where the class is not known."""

    name = "probe"
    title = "Probe"
    columns = (Column("interpreter"), Column("iou", "map IoU", ".3f"))
    logged = ("iou",)


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


def flat(row: dict[str, Any]) -> dict[str, Any]:
    """A row as W&B's reader gives it: a server has pictures and tables as dictionaries."""
    parts = (
        {f"{k}.{inner}": one for inner, one in v.items()} if isinstance(v, dict) else {k: v} for k, v in row.items()
    )
    return {key: value for part in parts for key, value in part.items()}


def offline_tables(folder: Path) -> dict[str, list[dict[str, Any]]]:
    """The rows of every table in a folder's offline runs, by W&B key; of a key that was logged twice the last."""
    found: dict[str, list[dict[str, Any]]] = {}
    for run in offline_runs(folder):
        root = run / "files" / "media" / "table"
        tables = []
        for path in root.rglob("*.table.json"):
            key, step, _ = path.relative_to(root).as_posix().removesuffix(".table.json").rsplit("_", 2)
            tables.append((int(step), key, path))
        for _, key, path in sorted(tables):
            content = json.loads(path.read_text())
            found[key] = [dict(zip(content["columns"], row, strict=True)) for row in content["data"]]
    return found


REPORT = ("images/test/{}/table", "images/test/{}/overlays", "images/test/{}/gallery", "results/test/agreement",
          "results/test/table", "Custom Chart Tables/results/test/iou_table",
          "Custom Chart Tables/convergence/test/{}/iou_table")  # fmt: skip
"""Keys that the row of an evaluation has, with the name of an interpreter."""


def reports(rows: list[dict[str, Any]], name: str = "cam") -> list[dict[str, Any]]:
    """The rows that hold an evaluation, each all of it, without when they were logged and under which number."""
    keys, found = [key.format(name) for key in REPORT], []
    when = ("_step", "_timestamp", "_runtime", "trainer/global_step")
    for row in map(flat, rows):
        missing = [key for key in keys if not has(row, key)]
        if len(missing) < len(keys):
            assert missing == []
            known = {k: v for k, v in row.items() if not k.startswith((*when, "_wandb")) and not k.endswith("path")}
            found.append(json.loads(re.sub(r"_\d+_(?=[0-9a-f]{20})", "_", json.dumps(known))))
    return found


def check_report(folder: Path, steps: int, name: str = "cam") -> None:
    """An evaluation was logged in exactly one row, with every point of the curves."""
    assert len(reports(history(folder), name)) == 1
    curve = offline_tables(folder)[f"Custom Chart Tables/convergence/test/{name}/iou_table"]
    assert [row["step"] for row in curve] == [*range(1, steps + 1)]
