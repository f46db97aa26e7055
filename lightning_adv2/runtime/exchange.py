"""What the processes of one run tell each other."""

from __future__ import annotations

from typing import TypeVar

import pytorch_lightning as pl
import torch.distributed as dist

from lightning_adv2.runtime.processes import wait_for_all

T = TypeVar("T")


def gathered(trainer: pl.Trainer, value: T) -> list[T]:
    """The values of all processes, by rank, on all of them.

    Args:
        trainer: its processes must all ask at once.
        value: of this process; anything that pickles, small enough for every process to hold all of them.

    Raises:
        RuntimeError: another process has died.
    """
    if trainer.world_size == 1:
        return [value]
    wait_for_all(trainer)  # which is patient; the exchange itself is not
    values: list[T] = [value] * trainer.world_size
    dist.all_gather_object(values, value)
    return values
