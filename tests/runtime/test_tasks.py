from __future__ import annotations

import os
from typing import Any

import pytest
import pytorch_lightning as pl

from lightning_adv2.runtime.tasks import check_tasks, launched

STEP = {"SLURM_NTASKS": "2", "SLURM_NTASKS_PER_NODE": "2", "SLURM_STEP_NUM_TASKS": "2", "SLURM_STEP_NUM_NODES": "1"}
TASK = {"SLURM_PROCID": "0", "SLURM_LOCALID": "0", "SLURM_NODEID": "0", "SLURM_JOB_NAME": "mine"}
BATCH = TASK | {"SLURM_NTASKS": "2", "SLURM_NTASKS_PER_NODE": "2"}
TORCHRUN = {"TORCHELASTIC_RUN_ID": "x", "RANK": "0", "LOCAL_RANK": "0", "GROUP_RANK": "0"}
TWO = TORCHRUN | {"WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "2"}


def check(monkeypatch: pytest.MonkeyPatch, variables: dict[str, str], devices: int = 1, **options: Any) -> None:
    for name in [n for n in os.environ if n.startswith(("SLURM_", "TORCHELASTIC_")) or n in {*TWO, "NODE_RANK"}]:
        monkeypatch.delenv(name)
    address = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "29400"}  # else Lightning writes them, and leaves them behind
    for name, value in (address | variables).items():
        monkeypatch.setenv(name, value)
    strategy = "ddp" if devices > 1 else "auto"
    quiet: dict[str, Any] = {"logger": False, "enable_progress_bar": False, "enable_checkpointing": False}
    check_tasks(pl.Trainer(accelerator="cpu", devices=devices, strategy=strategy, **quiet, **options))


@pytest.mark.parametrize(
    ("variables", "devices"),
    [
        ({}, 1),
        ({}, 2),
        ({"WORLD_SIZE": "2"}, 1),  # left over in a shell: nobody's task
        ({"SLURM_JOB_NAME": "interactive", "SLURM_NTASKS": "2"}, 1),  # a shell in an allocation
        ({"SLURM_JOB_NAME": "interactive", "SLURM_NTASKS": "2"}, 2),
        (BATCH, 1),  # a batch script without srun
        (TASK | STEP, 2),
        (TASK | {"SLURM_NTASKS": "1", "SLURM_STEP_NUM_TASKS": "1", "SLURM_JOB_NAME": "bash"}, 2),  # srun --pty bash
        ({"LOCAL_RANK": "1", "NODE_RANK": "0", "WORLD_SIZE": "2"}, 2),  # started by Lightning
        (TWO, 2),
        (TASK | {"SLURM_STEP_NUM_TASKS": "1", "SLURM_NTASKS": "1"} | TWO, 2),  # torchrun by srun
    ],
)
def test_it_starts(variables: dict[str, str], devices: int, monkeypatch: pytest.MonkeyPatch) -> None:
    check(monkeypatch, variables, devices)


@pytest.mark.parametrize(
    ("variables", "devices", "said"),
    [
        (TASK | STEP, 1, "SLURM_STEP_NUM_TASKS=2.*trainer has 1 .*--trainer.devices 2 --trainer.num_nodes 1"),
        (TASK | STEP | {"SLURM_STEP_NUM_NODES": "2"}, 1, "--trainer.devices 1 --trainer.num_nodes 2"),
        (TASK | STEP | {"SLURM_JOB_NAME": "interactive"}, 1, "'interactive'.*salloc --job-name=adv2"),
        (TASK | STEP | {"SLURM_JOB_NAME": "bash"}, 2, "each process would do the whole run"),
        (BATCH, 2, "nobody starts.*srun --ntasks-per-node=2"),
        (TWO, 1, "torchrun started 2 processes .WORLD_SIZE=2.*--trainer.devices 2"),
        (TWO | {"WORLD_SIZE": "4"}, 1, "--trainer.devices 2 --trainer.num_nodes 2"),
    ],
)
def test_copies_are_refused(
    variables: dict[str, str], devices: int, said: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(ValueError, match=said):
        check(monkeypatch, variables, devices)


def test_outside_a_launcher_there_is_none() -> None:
    assert launched({"SLURM_JOB_ID": "3", "SLURM_NTASKS": "8"}) is None
