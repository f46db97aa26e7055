"""How fast an evaluation goes, and how long it will take."""

from __future__ import annotations

import time
from collections.abc import Sequence
from datetime import timedelta

import pytorch_lightning as pl

from lightning_adv2.callbacks.identity import num_batches
from lightning_adv2.report.records import record_path
from lightning_adv2.runtime.folders import results_folder


class Pace:
    """Counts the batches that this process attacks; those finished by an earlier run cost nothing and do not count.

    Args:
        batches: how many this process has to attack; None where nobody knows.
        processes: that attack at the same time.
    """

    def __init__(self, batches: int | None = None, processes: int = 1) -> None:
        self.batches, self.processes = batches, processes
        self.done, self.images, self.seconds, self.kept = 0, 0, 0.0, 0
        self.spoken = time.monotonic()  # when a line was printed last

    def add(self, images: int, seconds: float) -> None:
        """A batch was attacked."""
        self.done, self.images, self.seconds = self.done + 1, self.images + images, self.seconds + seconds

    def describe(self, images: int, share: float, seconds: float) -> str:
        """``2.1 images/s, 0:04:12 left``, as far as it can be said.

        Args:
            images: in the running batch.
            share: of its steps that are done, in [0, 1].
            seconds: since it began.
        """
        total, batches = self.seconds + seconds, self.done + share
        if not batches or not total:
            return ""
        rate = (self.images + share * images) * self.processes / total
        speed = f"{rate:.1f} images/s" if rate >= 1 else f"{1 / rate:.1f} s/image" if rate else ""
        if self.batches is None:
            return speed
        left = timedelta(seconds=round(max(0.0, self.batches - batches) * total / batches))
        return f"{speed}, {left} left" if speed else f"{left} left"


def make_pace(trainer: pl.Trainer, interpreters: Sequence[str], known: bool = True) -> Pace:
    """A pace for the loop that begins.

    Args:
        trainer: runs it.
        interpreters: whose records are left for each batch.
        known: False where not all batches will be attacked.
    """
    most = (trainer.num_test_batches if trainer.testing else trainer.num_val_batches)[0]
    count, rank, world = num_batches(trainer), trainer.global_rank, trainer.world_size
    if not known or (count is None and most == float("inf")):
        return Pace(None, world)
    own = range(rank, int(most) * world if count is None else count, world)
    own = own if most == float("inf") else own[: int(most)]
    records = results_folder(trainer) / "records"
    left = sum(not all(record_path(records, name, index).exists() for name in interpreters) for index in own)
    pace = Pace(left, world)
    pace.kept = len(own) - left
    return pace
