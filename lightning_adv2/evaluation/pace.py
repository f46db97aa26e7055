"""How fast an evaluation goes, and how long it will take."""

from __future__ import annotations

import time
from collections.abc import Sequence
from datetime import timedelta
from typing import NamedTuple

import pytorch_lightning as pl

from lightning_adv2.attacks import Attack
from lightning_adv2.evaluation.identity import num_batches
from lightning_adv2.results.records import record_key, record_path
from lightning_adv2.runtime.folders import results_folder


class Part(NamedTuple):
    """A stage of an attack, whose steps cost the same.

    Attributes:
        name: tells it from the batch's others; that of an attack that ignores the map names no interpreter.
        steps: how many.
    """

    name: str
    steps: int


def parts_of(interpreter: str, attack: Attack) -> list[Part]:
    """The stages of an attack under an interpreter, with their steps over all restarts."""
    key = record_key(attack.name, attack.schedule)
    prefix = f"{interpreter}/{key}" if attack.needs_map else key
    stages = [Part(f"{prefix}/{number}", stage.steps) for number, stage in enumerate(attack.stages)]
    return stages * attack.restarts


class Seconds:
    """Mean seconds per step, by part."""

    def __init__(self) -> None:
        self._sums: dict[str, tuple[float, int]] = {}

    def __bool__(self) -> bool:
        return bool(self._sums)

    def add(self, part: str, seconds: float, steps: int) -> None:
        """Add ``steps`` steps of a part that took ``seconds`` together."""
        before, count = self._sums.get(part, (0.0, 0))
        self._sums[part] = before + seconds, count + steps

    def per_step(self, part: str) -> float | None:
        """The mean seconds of a step of a part; None for a part that was never measured."""
        seconds, steps = self._sums.get(part, (0.0, 0))
        return seconds / steps if steps else None


class Pace:
    """Counts the batches that this process attacks; those finished by an earlier run cost nothing and do not count.

    Args:
        batches: how many this process has to attack; None where nobody knows.
        processes: that attack at the same time.
    """

    def __init__(self, batches: int | None = None, processes: int = 1) -> None:
        self.batches, self.processes = batches, processes
        self.measured, self.tried = Seconds(), Seconds()  # a step of each part: in the batches, and before them
        self.done, self.images, self.seconds = 0, 0, 0.0
        self.spoken = time.monotonic()  # when a line was printed last

    @property
    def new(self) -> bool:
        """Whether no step was measured so far."""
        return not (self.done or self.measured or self.tried)

    def add(self, images: int, seconds: float) -> None:
        """Add a finished batch: its number of images and its seconds."""
        self.done, self.images, self.seconds = self.done + 1, self.images + images, self.seconds + seconds

    def left(self, parts: Sequence[Part]) -> float | None:
        """The seconds that the steps of ``parts`` will take; None while no step was measured.

        Measured seconds count before those of the pilot; a part without either takes the mean of the other parts.
        """
        known = [(self.measured.per_step(p.name) or self.tried.per_step(p.name), p.steps) for p in parts]
        costs = [(cost, steps) for cost, steps in known if cost is not None]
        steps = sum(count for _, count in costs)
        if not steps:
            return None if any(part.steps for part in parts) else 0.0
        return sum(cost * count for cost, count in costs) * sum(part.steps for part in parts) / steps

    def describe(self, images: int, share: float, seconds: float) -> str:
        """``2.1 images/s, 0:04:12 left``, as far as it can be said.

        Args:
            images: in the running batch.
            share: of its time that is over, in [0, 1].
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
    """A pace for the loop that begins, which counts the batches of this process that lack a record.

    Args:
        trainer: runs the loop.
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
    return Pace(left, world)
