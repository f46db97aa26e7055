"""A requeue where the controller is slow, refuses or is not there; test_slurm_runs.py has one that succeeds."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import pytorch_lightning as pl
from pytorch_lightning.plugins.environments import ClusterEnvironment, LightningEnvironment, SLURMEnvironment
from pytorch_lightning.utilities.rank_zero import rank_zero_only

from lightning_adv2.runtime import slurm
from lightning_adv2.runtime.slurm import job_name, requeue, requeues


@pytest.fixture
def requests(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """A job of one process with an scontrol that notes what it is asked; returns the file of its notes."""
    for name in [name for name in os.environ if name.startswith("SLURM_")]:
        monkeypatch.delenv(name)
    variables = {
        "NTASKS": 1,
        "NTASKS_PER_NODE": 1,
        "PROCID": 0,
        "LOCALID": 0,
        "NODEID": 0,
        "JOB_ID": 4711,
        "JOB_NAME": "x",
    }
    for name, value in variables.items():
        monkeypatch.setenv(f"SLURM_{name}", str(value))
    monkeypatch.setenv("MASTER_ADDR", "127.0.0.1")  # Lightning writes these two itself, and would leave them behind
    monkeypatch.setenv("MASTER_PORT", "29400")
    monkeypatch.setattr(rank_zero_only, "rank", 0)
    (tmp_path / "bin").mkdir()
    monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}:{os.environ['PATH']}")
    notes = tmp_path / "notes"
    scontrol(tmp_path, f'echo "$@" >> {notes}')
    return notes


def scontrol(folder: Path, text: str) -> None:
    command = folder / "bin" / "scontrol"
    command.write_text(f"#!/bin/sh\n{text}\n")
    command.chmod(0o755)


def trainer(**options: object) -> pl.Trainer:
    quiet = {"logger": False, "enable_progress_bar": False, "enable_checkpointing": False, "barebones": False}
    return pl.Trainer(accelerator="cpu", devices=options.pop("devices", 1), **quiet | options)  # type: ignore[arg-type]


def test_the_signal_to_this_process_group_does_not_reach_scontrol(requests: Path, tmp_path: Path) -> None:
    """SLURM sends it as soon as it has the request; killed before it answers, scontrol would look refused."""
    scontrol(tmp_path, f"ps -o pgid= -p $$ > {requests}")
    assert requeue(trainer())
    assert int(requests.read_text()) != os.getpgrp()


def test_only_the_first_process_asks(requests: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in {"NTASKS": "2", "NTASKS_PER_NODE": "2", "PROCID": "1", "LOCALID": "1"}.items():
        monkeypatch.setenv(f"SLURM_{name}", value)
    assert not requeue(trainer(devices=2, strategy="ddp"))
    assert not requests.exists()


@pytest.mark.parametrize("why", ["no job", "interactive", "auto_requeue=False"])
def test_nothing_is_asked(why: str, requests: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    options = {}
    if why == "no job":
        monkeypatch.delenv("SLURM_NTASKS")
    elif why == "interactive":
        monkeypatch.setenv("SLURM_JOB_NAME", "interactive")
    else:
        options["plugins"] = [SLURMEnvironment(auto_requeue=False)]
    assert not requeue(trainer(**options))
    assert not requests.exists()


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("echo Requested operation is presently disabled >&2; exit 1", "Requested operation is presently disabled"),
        ("printf '\\377'; exit 3", "exit code 3"),
        ("sleep 60", "timed out"),
        (None, "No such file"),
    ],
)
def test_a_failure_warns_with_the_command_and_never_raises(
    text: str | None, said: str, requests: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(slurm, "SECONDS", 1)
    if text is None:
        monkeypatch.setenv("PATH", str(tmp_path))
    else:
        scontrol(tmp_path, text)
    run, start = trainer(), time.monotonic()
    with pytest.warns(UserWarning, match=r"'scontrol requeue 4711' failed") as warned:
        assert not requeue(run)
    assert said in str(warned[0].message)
    assert time.monotonic() - start < 10


@pytest.mark.parametrize(
    ("variables", "plugins", "expected"),
    [
        ({}, list, True),
        ({"JOB_NAME": "interactive"}, list, False),
        ({}, lambda: [SLURMEnvironment(auto_requeue=False)], False),
        ({"JOB_NAME": "interactive"}, lambda: [SLURMEnvironment()], True),
        ({}, lambda: [LightningEnvironment()], False),
    ],
    ids=["job", "interactive", "auto_requeue=False", "SLURMEnvironment", "LightningEnvironment"],
)
def test_what_a_trainer_will_do_is_known_before_it_is_made(
    variables: dict[str, str], plugins: Callable[[], list[ClusterEnvironment]], expected: bool, requests: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    for name, value in variables.items():
        monkeypatch.setenv(f"SLURM_{name}", value)
    assert requeues(plugins()) is expected
    assert requeue(trainer(plugins=plugins())) is expected


def test_a_job_without_a_number_is_not_handed_to_a_command(requests: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = trainer()
    monkeypatch.setenv("SLURM_JOB_ID", "4711; touch canary")
    with pytest.warns(UserWarning, match="SLURM_JOB_ID"):
        assert not requeue(run)
    assert not requests.exists()


@pytest.mark.parametrize(
    ("variables", "name"),
    [
        ({"SLURM_JOB_ID": "12"}, "12"),
        ({"SLURM_JOB_ID": "12", "SLURM_ARRAY_JOB_ID": "10", "SLURM_ARRAY_TASK_ID": "2"}, "10_2"),
        ({"SLURM_JOB_ID": "12", "SLURM_ARRAY_JOB_ID": "10"}, None),
        ({"SLURM_JOB_ID": "--help"}, None),
        ({}, None),
    ],
)
def test_job_name(variables: dict[str, str], name: str | None) -> None:
    assert job_name(variables) == name
