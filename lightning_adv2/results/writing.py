"""The files that every evaluation leaves: results.json, results.csv, images.csv, status.csv, stamp.json and figures."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from lightning_adv2.files import write_json
from lightning_adv2.metrics import METRICS
from lightning_adv2.results.records import BENIGN
from lightning_adv2.results.summary import Row, Summary
from lightning_adv2.results.tables import write_csv, write_status


def write_results(folder: Path, summary: Summary, stamp: dict[str, Any]) -> Path:
    """Write ``results.json``, ``results.csv``, ``images.csv``, ``status.csv``, ``stamp.json``; returns the first path.

    All files but the stamp follow from the records alone: they are equal to the byte for any number of processes and
    after any number of interruptions. The stamp has seconds, machine, versions and command, which differ between runs.

    Raises:
        OSError: a file cannot be written; an old file is as it was.
    """
    path = folder / "results.json"
    write_json(path, {"rows": summary.rows, "denominators": summary.denominators, "benign": summary.benign})
    write_json(folder / "stamp.json", stamp | {"seconds": summary.seconds})
    write_csv(summary.rows, folder / "results.csv")
    write_csv(summary.images, folder / "images.csv")
    write_status(summary, folder / "status.csv")
    return path


def logged_values(row: Row) -> dict[str, float]:
    """The numbers of a row by metric, without None and without metrics that repeat another metric of the row."""
    repeated = {
        "l1_benign": row["target"] == BENIGN,
        "iou_benign": row["target"] == BENIGN,
        "size": row["unit"] == "Linf",
    }
    return {name: float(row[name]) for name in METRICS if not repeated.get(name) and row[name] is not None}
