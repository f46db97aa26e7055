"""Stop on SIGTERM and SIGUSR1 where nothing is lost."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

import pytorch_lightning as pl
from pytorch_lightning.trainer.states import TrainerFn

from lightning_adv2.runtime.processes import highest
from lightning_adv2.runtime.slurm import requeue

SIGNALS = (signal.SIGTERM, signal.SIGUSR1)


class Abandoned(BaseException):
    """A signal came inside :meth:`Interruption.abandonable`; no error, so nothing catches it by accident."""


class Interruption(pl.Callback):
    """Save and stop on SIGTERM (scancel, preemption) and SIGUSR1 (``#SBATCH --signal``; under SLURM also requeue).

    ``fit`` stops after the running training step, on the same one on all processes, and lets TrainingCheckpoint save.
    An evaluation stops at once, inside an attack too: finished batches are on disk already. Either goes on where it
    stopped when the same command is run again. The exit status is 128 + the signal's number.

    It takes the place of Lightning's handlers, which save in the middle of whatever step the signal interrupts, and
    exchange tensors between processes from inside the handler.
    """

    def __init__(self) -> None:
        self.received = 0
        self._abandonable = False
        self._trainer: pl.Trainer | None = None
        self._parent = 0

    def _listen(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Lightning installs its handlers just before this, and puts back what was there before at the end."""
        self._trainer, self._parent = trainer, os.getppid()
        if not self.received:
            for number in SIGNALS:
                signal.signal(number, self._note)

    on_sanity_check_start = on_train_start = on_predict_start = _listen

    def on_validation_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Listen, outside ``fit`` as well."""
        if trainer.state.fn != TrainerFn.FITTING:
            self._listen(trainer, pl_module)

    on_test_start = on_validation_start

    def _note(self, number: int, frame: FrameType | None) -> None:
        """The handler: remember it, pass it on to the processes that Lightning started, leave a running attack."""
        first, self.received = not self.received, self.received or number
        launcher: Any = None if self._trainer is None else self._trainer.strategy.launcher
        if first and launcher is not None and getattr(launcher, "procs", None):
            launcher.kill(number)
        if self._abandonable:
            self._abandonable = False
            raise Abandoned

    @contextmanager
    def abandonable(self) -> Iterator[None]:
        """What is done inside may be broken off at any point, by raising :class:`Abandoned`."""
        self._abandonable = True
        try:
            if self.received:
                raise Abandoned
            yield
        finally:
            self._abandonable = False

    @contextmanager
    def leaving(self, trainer: pl.Trainer, saved: str = "finished batches are saved") -> Iterator[None]:
        """The same, and then the process ends; for evaluations, which lose nothing by it."""
        try:
            with self.abandonable():
                yield
        except Abandoned:
            self.stop(trainer, saved)

    def check_parent(self) -> None:
        """End when the process that started this one is gone, and with it the run.

        Raises:
            RuntimeError: it is gone.
        """
        if self._trainer is not None and self._trainer.local_rank and os.getppid() != self._parent:
            raise RuntimeError(
                f"the process that started process {self._trainer.global_rank} of this run is gone; finished batches "
                "are saved: run the same command again to go on"
            )

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Stop here, but not between two batches whose gradients are accumulated."""
        whole = (batch_idx + 1) % trainer.accumulate_grad_batches == 0 or batch_idx + 1 == trainer.num_training_batches
        if whole:
            self._stop_training(trainer)

    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Inside ``fit``: stop here as well, for a validation with attacks takes long."""
        if trainer.state.fn == TrainerFn.FITTING and not trainer.sanity_checking:
            self._stop_training(trainer)

    def _stop_training(self, trainer: pl.Trainer) -> None:
        self.received = highest(trainer, self.received)
        if not self.received:
            return
        keepers: list[Any] = [one for one in trainer.checkpoint_callbacks if hasattr(one, "save")]
        if not keepers:
            self.stop(trainer, "not saved, for there is no TrainingCheckpoint among the callbacks")
        for keeper in keepers:
            keeper.save(trainer)  # collective
        self.stop(trainer, f"step {trainer.global_step} is saved")

    def on_test_batch_start(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, batch: Any, batch_idx: int, dataloader_idx: int = 0
    ) -> None:
        """Stop between two batches."""
        if trainer.state.fn != TrainerFn.FITTING and self.received:
            self.stop(trainer, "finished batches are saved")

    on_validation_batch_start = on_predict_batch_start = on_test_batch_start

    def stop(self, trainer: pl.Trainer, saved: str) -> None:
        """End the process, and requeue the job where that is asked for.

        Processes that Lightning or a launcher started end with 0: it would take another status for a crash, and kill
        the first process while that one still cleans up.

        Raises:
            SystemExit: always.
        """
        name = signal.Signals(self.received).name
        if trainer.is_global_zero:
            queued = self.received == signal.SIGUSR1 and requeue(trainer)
            how = "the job is queued again" if queued else "run the same command again to go on"
            print(f"\n{name}: {saved}; {how}", flush=True)
        raise SystemExit(128 + self.received if trainer.is_global_zero else 0)


def interruption_of(trainer: pl.Trainer) -> Interruption:
    """The trainer's own; where it has none, one that never hears of a signal."""
    callbacks: list[Any] = trainer.callbacks  # type: ignore[attr-defined]
    return next((callback for callback in callbacks if isinstance(callback, Interruption)), Interruption())
