"""The number of processes that a launcher started, and whether the trainer knows of all of them."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass

import pytorch_lightning as pl

from lightning_adv2.runtime.lightning import cluster_environment


@dataclass(frozen=True)
class Launched:
    """The launcher of this process and of others like it.

    Attributes:
        launcher: its name.
        variable: the environment variable with the number of processes.
        tasks: that number.
        nodes: the number of machines.
    """

    launcher: str
    variable: str
    tasks: int
    nodes: int = 1


def check_tasks(trainer: pl.Trainer) -> None:
    """Check that the trainer knows of all processes that a launcher started.

    Otherwise each process would do the whole run, in one folder at the same time, or wait for processes that do not
    exist.

    Raises:
        ValueError: SLURM or another launcher started another number of processes than the trainer has; the error names
            both numbers and the options that make them equal.
    """
    found = launched(os.environ)
    if found is None:
        return
    tasks, environment = found.tasks, cluster_environment(trainer)
    # Where the environment does not take the launcher's processes for the run's, Lightning starts its own from each.
    joined = environment.creates_processes_externally
    if (joined and trainer.world_size == tasks) or (not joined and tasks == 1):
        return
    each = -(-tasks // found.nodes)
    options = f"--trainer.devices {each} --trainer.num_nodes {found.nodes} --trainer.strategy ddp"
    message = (
        f"{found.launcher} started {tasks} process{'es' * (tasks > 1)} ({found.variable}={tasks}), but the trainer has "
        f"{trainer.world_size} (--trainer.devices {trainer.num_devices}, --trainer.num_nodes {trainer.num_nodes})"
    )
    name = os.environ.get("SLURM_JOB_NAME")
    if not joined and found.launcher == "SLURM":
        raise ValueError(
            f"{message}, and Lightning ignores SLURM in a job named {name!r}: each process would do the whole run. "
            f"Name the job (salloc --job-name=adv2 --ntasks-per-node={each}, or srun --job-name=adv2 "
            f"--ntasks-per-node={each}) and give {options}, or start one process (srun --ntasks=1)"
        )
    if tasks > 1:
        one = "srun --ntasks=1" if found.launcher == "SLURM" else "without a launcher"
        raise ValueError(f"{message}: each process would do its own run. Give {options}, or start one process ({one})")
    raise ValueError(
        f"{message}: it would wait for processes that nobody starts. Start one per device (srun "
        f"--ntasks-per-node={trainer.num_devices}), or give {options}"
    )


def launched(variables: Mapping[str, str]) -> Launched | None:
    """Return the launcher that the environment tells of; None for a process that no launcher started.

    A batch script is one process, however many tasks the job has: only ``srun`` starts the others. A shell in an
    allocation has some of SLURM's variables as well, but is no task.

    Args:
        variables: the environment's.

    Raises:
        ValueError: a variable that counts processes is no number.
    """
    if {"WORLD_SIZE", "LOCAL_RANK"} <= variables.keys():  # also torchrun inside a task of SLURM
        tasks = int(variables["WORLD_SIZE"])
        nodes = max(1, tasks // int(variables.get("LOCAL_WORLD_SIZE", tasks)))
        return Launched("torchrun" if "TORCHELASTIC_RUN_ID" in variables else "A launcher", "WORLD_SIZE", tasks, nodes)
    if "SLURM_PROCID" not in variables:
        return None
    step = "SLURM_STEP_NUM_TASKS"
    return Launched("SLURM", step, int(variables.get(step, 1)), int(variables.get("SLURM_STEP_NUM_NODES", 1)))
