"""The number of threads with which a process computes on a CPU; another number sums in another order."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager

import pytorch_lightning as pl
import torch

VARIABLE = "OMP_NUM_THREADS"
_given = VARIABLE in os.environ  # as this is loaded: later Lightning sets it to each process's share of the cores


def arithmetic(device: torch.device) -> str:
    """Return the hardware on which the last digits depend: ``cuda``, or ``2 CPU threads (OMP_NUM_THREADS=2)``.

    Args:
        device: on which the run computes.
    """
    if device.type != "cpu":
        return device.type
    count = torch.get_num_threads()
    return f"{count} CPU thread{'s' * (count > 1)} ({VARIABLE}={count})"


def check_threads(trainer: pl.Trainer, threads: int | None) -> None:
    """Check that the number of processes does not decide the number of threads.

    Args:
        trainer: of the run.
        threads: the number that was asked for, or None.

    Raises:
        ValueError: several processes compute on a CPU, and neither ``threads`` nor ``OMP_NUM_THREADS`` is given.
    """
    if threads is None and not _given and trainer.world_size > 1 and trainer.strategy.root_device.type == "cpu":
        raise ValueError(
            f"threads: each of {trainer.world_size} processes would take its share of the cores (here "
            f"{torch.get_num_threads()}), so that on another number of processes the last digits would differ. Set "
            f"{VARIABLE}=1 (or AttackEvaluation's threads), which is fastest with a process per core"
        )


@contextmanager
def computing_with(threads: int | None) -> Iterator[None]:
    """Compute with a number of CPU threads inside the block.

    Args:
        threads: at least 1; None leaves the number as it is.
    """
    before = torch.get_num_threads()
    if threads is not None:
        torch.set_num_threads(threads)
    try:
        yield
    finally:
        torch.set_num_threads(before)
