"""Exchange of values between the processes of one run."""

from __future__ import annotations

from contextlib import nullcontext
from typing import Protocol, TypeVar

import pytorch_lightning as pl
import torch.distributed as dist

from lightning_adv2.runtime.processes import deaths_reported, wait_for_all

T = TypeVar("T")
Value = TypeVar("Value", covariant=True)


class Computable(Protocol[Value]):
    """A metric, or several metrics in one object."""

    def compute(self) -> Value:
        """Return the value over all processes."""
        ...


def gathered(trainer: pl.Trainer, value: T) -> list[T]:
    """Return the values of all processes, in the order of their ranks, on every process.

    Args:
        trainer: all its processes must call this together.
        value: of this process; anything that pickles, small enough for every process to hold all values.

    Raises:
        RuntimeError: another process has died.
    """
    if trainer.world_size == 1:
        return [value]
    wait_for_all(trainer)  # which is patient; the exchange itself is not
    values: list[T] = [value] * trainer.world_size
    with deaths_reported():
        dist.all_gather_object(values, value)
    return values


def computed(trainer: pl.Trainer, metric: Computable[Value]) -> Value:
    """Return a metric's value over all processes, on every process.

    Metrics are computed here, and their values logged. Lightning would compute a logged metric object before any hook
    at the end of an epoch, where a process that waits for a slower one gives up after minutes and hears no signal.

    Args:
        trainer: all its processes must call this together.
        metric: a torchmetrics object, or another object whose ``compute`` exchanges the processes' states.

    Raises:
        RuntimeError: another process has died.
    """
    wait_for_all(trainer)
    with deaths_reported() if trainer.world_size > 1 else nullcontext():
        return metric.compute()
