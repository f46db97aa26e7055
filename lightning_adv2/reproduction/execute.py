"""Run what a plan lacks: each run is a process of its own, some at once; what is finished is kept."""

from __future__ import annotations

import fcntl
import itertools
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Any

import yaml
from rich.console import Console
from rich.live import Live
from rich.table import Table

from lightning_adv2.files import read_text, write_json, write_text
from lightning_adv2.files.data_root import below_data_root
from lightning_adv2.reproduction.jobs import Job

GRACE_SECONDS = 60


def execute(jobs: list[Job], at_once: int, console: Console, group: str) -> bool:
    """Run all that is not finished; what waits for a failed one is left out, the rest goes on.

    SIGTERM and Ctrl-C are handed on to the runs, which save and stop; the same command goes on.

    Args:
        jobs: in order.
        at_once: how many processes; they share the cores.
        console: a table of all jobs is shown while they run, or a line for each change where it is no terminal.
        group: the W&B group of all runs.

    Returns:
        Whether none failed.
    """
    for job in jobs:
        lacking = job.run.needs and not Path(below_data_root(job.run.needs)).exists()
        job.state = "kept" if job.is_done() else "left out" if lacking else "waiting"
    if any(job.state == "waiting" for job in jobs):
        with _alone(jobs[0].log.parent) as lock, _stopping(jobs) as stopped, _shown(jobs, console) as refresh:
            while not stopped and _advance(jobs, at_once, group, lock):
                refresh()
                time.sleep(0.3)
            refresh()
    return _count(jobs, "failed") == 0


@contextmanager
def _alone(folder: Path) -> Iterator[int]:
    """A lock that the runs inherit: it is held until the last of them has ended, even where this process was killed.

    Raises:
        SystemExit: somebody else holds it.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "lock").open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            raise SystemExit(
                f"another reproduction, or a run that it left behind, is at work in {folder.parent}; wait or end it"
            ) from error
        yield file.fileno()


def _advance(jobs: list[Job], at_once: int, group: str, lock: int) -> bool:
    """Note what ended, start what can; False when nothing is left to do."""
    by_name = {job.name: job for job in jobs}
    for job in jobs:
        if job.process is not None and job.process.poll() is not None:
            _end(job)
    for job in jobs:
        if job.state != "waiting":
            continue
        before = [by_name[name].state for name in job.after]
        if any(state in ("failed", "left out") for state in before):
            job.state = "left out"
        elif all(state in ("kept", "finished") for state in before) and _count(jobs, "running") < at_once:
            _start(job, at_once, group, lock)
    return any(job.state in ("waiting", "running") for job in jobs)


def _count(jobs: list[Job], state: str) -> int:
    return sum(job.state == state for job in jobs)


def _make_room(job: Job) -> None:
    """Move an evaluation of another configuration, or of weights that were trained anew, out of the way."""
    path = job.done_file.with_suffix(".sha256")
    before = read_text(path) if path.exists() else job.digest
    if job.run.command == "test" and before != job.digest and job.folder.exists():
        names = (job.folder.with_name(f"{job.folder.name}_before{n}") for n in itertools.count(1))
        job.folder.rename(next(name for name in names if not name.exists()))
    write_text(path, job.digest)


def _start(job: Job, at_once: int, group: str, lock: int) -> None:
    _make_room(job)
    config = job.done_file.with_suffix(".yaml")
    write_text(config, yaml.safe_dump(job.config, sort_keys=False))
    threads = max(1, (os.cpu_count() or 1) // at_once)
    environment = {"OMP_NUM_THREADS": str(threads), "WANDB_RUN_GROUP": group} | os.environ
    command = [sys.executable, "-m", "lightning_adv2", job.run.command, "--config", str(config)]
    with job.log.open("ab") as log:
        job.log_start = log.seek(0, os.SEEK_END)
        # In a session of its own: Ctrl-C comes to us, and from us as SIGTERM, at which a run saves.
        job.process = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            env=environment,
            start_new_session=True,
            pass_fds=(lock,),
        )
    job.state, job.started = "running", time.perf_counter()


def _end(job: Job) -> None:
    assert job.process is not None
    status, job.process = job.process.returncode, None
    job.seconds = time.perf_counter() - job.started
    job.state = "finished" if status == 0 and job.made.is_file() else "failed"
    if job.state == "finished":
        write_json(job.done_file, {"config_sha256": job.digest, "seconds": round(job.seconds, 1)})


@contextmanager
def _stopping(jobs: list[Job]) -> Iterator[list[int]]:
    """Hand signals on to the runs, and wait for them; the list has the signal that came."""
    came: list[int] = []

    def hand_on(number: int, frame: FrameType | None) -> None:
        came.append(number)
        for job in jobs:
            if job.process is not None:
                job.process.send_signal(signal.SIGTERM)

    former = {number: signal.signal(number, hand_on) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield came
    finally:
        end = time.monotonic() + GRACE_SECONDS
        for job in jobs:
            if job.process is not None:
                try:
                    job.process.wait(max(0.0, end - time.monotonic()))
                except subprocess.TimeoutExpired:
                    job.process.kill()
                    job.process.wait()
                job.state = "waiting"
        for number, handler in former.items():
            signal.signal(number, handler)
    if came:
        raise SystemExit(f"stopped by {signal.Signals(came[0]).name}; the same command goes on where it was")


@contextmanager
def _shown(jobs: list[Job], console: Console) -> Iterator[Any]:
    if console.is_terminal:
        with Live(console=console, refresh_per_second=2, transient=True) as live:
            yield lambda: live.update(_table(jobs))
        return
    known = {job.name: job.state for job in jobs}

    def line() -> None:
        for job in jobs:
            if known[job.name] != job.state:
                known[job.name] = job.state
                seconds = f", {job.seconds:.0f} s" if job.seconds else ""
                console.print(f"{job.name}: {job.state}{seconds}", highlight=False)

    yield line


_STYLES = {"running": "bold", "failed": "red", "left out": "yellow", "waiting": "dim"}


def _table(jobs: list[Job]) -> Table:
    table = Table("run", "state", "time", "says", box=None, header_style="bold", expand=True)
    for job in jobs:
        seconds = time.perf_counter() - job.started if job.state == "running" else job.seconds
        clock = f"{int(seconds) // 60}:{int(seconds) % 60:02d}" if seconds else ""
        says = _last_line(job.log) if job.state in ("running", "failed") else ""
        table.add_row(job.name, job.state, clock, says, style=_STYLES.get(job.state, ""))
    return table


def error_of(job: Job) -> str:
    """What the process of a job last printed that begins with ``error:``; without that, its last line."""
    lines = _lines(job.log, job.log_start) or ["it printed nothing"]
    return next((line for line in reversed(lines) if line.startswith("error:")), lines[-1])


def _last_line(path: Path) -> str:
    """What a process said last; of a progress bar, what it shows now."""
    return (_lines(path) or [""])[-1][:160]


def _lines(path: Path, start: int = 0) -> list[str]:
    """The last lines of a log, behind its first ``start`` bytes, that are not empty."""
    try:
        with path.open("rb") as log:
            log.seek(max(start, path.stat().st_size - 4000))
            lines = log.read().decode("utf-8", "replace").replace("\r", "\n").split("\n")
    except OSError:
        return []
    return [line.strip() for line in lines if line.strip()]
