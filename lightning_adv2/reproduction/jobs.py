"""One run of a plan under one seed: what it is run with, where its files are, and whether it is finished."""

from __future__ import annotations

import hashlib
import json
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from lightning_adv2.files import read_json
from lightning_adv2.reproduction.plan import Plan, PlannedRun, compose


@dataclass
class Job:
    """One run of a plan under one seed.

    Attributes:
        name: the run's, with the seed where there are several.
        folder: where it leaves its files; for a training, its log alone.
        run: as planned.
        role: of the run.
        config: what is run.
        after: names of jobs that must be finished before.
        inputs: what the runs before it make; another file there is another experiment.
        state: ``waiting``, ``running``, ``finished``, ``kept`` (finished earlier), ``failed``, or ``left out``, because
            something that it needs is not there.
        seconds: of the process that finished it.
        log_start: bytes of the log that earlier processes wrote.
    """

    name: str
    folder: Path
    run: PlannedRun
    role: str
    config: dict[str, Any]
    after: list[str]
    inputs: list[Path]
    state: str = "waiting"
    seconds: float = 0.0
    started: float = 0.0
    log_start: int = 0
    process: subprocess.Popen[bytes] | None = field(default=None, repr=False)

    @property
    def log(self) -> Path:
        """What its process printed."""
        return self.folder.parent / "logs" / f"{self.name}.log"

    @property
    def done_file(self) -> Path:
        """There once it is finished."""
        return self.folder.parent / "logs" / f"{self.name}.json"

    @property
    def digest(self) -> str:
        """Tells configurations apart, and the weights that they start from."""
        weights = {str(path): hashlib.sha256(path.read_bytes()).hexdigest() for path in self.inputs if path.is_file()}
        content = json.dumps([self.config, weights], sort_keys=True, default=str)
        return hashlib.sha256(content.encode()).hexdigest()

    @property
    def made(self) -> Path:
        """The file that it is run for."""
        return Path(self.run.makes) if self.run.command == "fit" else self.folder / (self.run.makes or "results.json")

    def is_done(self) -> bool:
        """Whether it was finished, by this very configuration; a training by anyone who left its file."""
        if self.run.command == "fit":
            return self.made.is_file()
        try:
            known = read_json(self.done_file)
        except (OSError, ValueError):
            return False
        return bool(known["config_sha256"] == self.digest and self.made.is_file())


def jobs_of(plan: Plan, runs: Mapping[str, PlannedRun]) -> list[Job]:
    """What there is to run, trainings once, evaluations under every seed."""
    jobs = []
    for name, run in runs.items():
        for seed in plan.seeds if run.command == "test" else plan.seeds[:1]:
            folder = plan.folder(name, seed)
            # Trainings are run under one seed, and only they come before others.
            role, made = run.role or name, [Path(plan.runs[other].makes) for other in run.after]
            jobs.append(Job(folder.name, folder, run, role, compose(plan, name, seed), list(run.after), made))
    return jobs
