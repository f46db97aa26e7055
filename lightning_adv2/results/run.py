"""A run's folder and its report: tables, files and figures are pure functions of what lies in ``records/``."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

from lightning_adv2.files import read_json
from lightning_adv2.files.experiment import experiment_hash
from lightning_adv2.files.run import foreign_records
from lightning_adv2.results.records import BatchRecord, read_records
from lightning_adv2.results.summary import Summary
from lightning_adv2.results.tables import summarize
from lightning_adv2.runtime.experiment import read_experiment


@dataclass(frozen=True)
class Run:
    """An evaluation as its folder has it.

    Attributes:
        folder: holds ``records/``.
        experiment: all that the results depend on; see ``runtime.experiment``.
        about: ``dataset``, ``classifier``, ``classes``, ``stage``; from the manifest, if there is one, ``selected``,
            how many images it has, and ``passed_over``, status and reason of those that it left out.
        summary: all tables.
    """

    folder: Path
    experiment: dict[str, Any]
    about: dict[str, Any]
    summary: Summary

    def records(
        self, interpreter: str = "", wanted: Callable[[list[str]], bool] | None = None
    ) -> Iterator[BatchRecord]:
        """The records, one in memory at a time.

        Args:
            interpreter: whose records; empty for all.
            wanted: whether to read a record, from the identifiers of its images; None reads every record.
        """
        return read_records(self.folder / "records" / interpreter, wanted)

    def first_records(self) -> Iterator[BatchRecord]:
        """The first record with an attacked image of each interpreter, one in memory at a time."""
        for name in self.interpreters:
            yield from islice(self.records(name, bool), 1)

    @property
    def interpreters(self) -> list[str]:
        """The names of the interpreters, in the table's order."""
        return list(self.experiment["interpreters"])


def read_run(folder: Path) -> Run:
    """The run in a folder, with its tables computed from the records.

    Raises:
        FileNotFoundError: there is no evaluation in ``folder``.
        ValueError: a file of it is damaged, or a record is of another experiment.
    """
    try:
        known = read_experiment(folder / "records")
    except FileNotFoundError as error:
        raise FileNotFoundError(f"{folder} holds no evaluation: there is no {error.filename}") from error
    foreign = foreign_records(folder / "records", experiment_hash(known["experiment"]))
    if foreign:
        raise ValueError(
            f"{foreign[0]} is of another experiment"
            + (f", and so are {len(foreign) - 1} more records" if len(foreign) > 1 else "")
            + "; take it away and run the same command again, which makes its batch anew"
        )
    about = known["about"]
    names = {"dataset": about["dataset"], "classifier": about["classifier"]}
    summary = summarize(
        read_records(folder / "records"), names, about["passed_over"], about["selected"], len(about["classes"])
    )
    return Run(folder, known["experiment"], about, summary)


def is_whole(run: Run) -> bool:
    """Whether the run came to its end: ``results.json`` is there and says what the records say."""
    try:
        written = read_json(run.folder / "results.json")
    except (OSError, ValueError):
        return False
    stated = {"rows": run.summary.rows, "denominators": run.summary.denominators}
    said = {key: written.get(key) for key in stated} if isinstance(written, dict) else {}
    return bool(said == json.loads(json.dumps(stated)))
