"""Stop on SIGTERM, SIGUSR1 and Ctrl-C where nothing is lost."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from types import FrameType
from typing import Any, NoReturn

import pytorch_lightning as pl
from pytorch_lightning.plugins.environments import LightningEnvironment  # type: ignore[attr-defined]
from pytorch_lightning.trainer.states import TrainerFn

from lightning_adv2.runtime.early import SIGNALS, STARTER, WATCH, farewell, starter
from lightning_adv2.runtime.lightning import accumulates, cluster_environment, without_signal_handlers
from lightning_adv2.runtime.processes import highest
from lightning_adv2.runtime.slurm import requeue

PATIENCE_SECONDS = 5.0
"""The wait of the first process for those that it has started, when a signal ends the run during its set-up."""


class Abandoned(BaseException):
    """A signal came inside :meth:`Interruption.abandonable`; no error, so that nothing catches it by accident."""


class Interruption(pl.Callback):
    """Save and stop on SIGTERM (scancel, preemption), SIGUSR1 (``#SBATCH --signal``; under SLURM also requeue), SIGINT.

    ``fit`` stops after the running training step, at the same step on all processes, and lets TrainingCheckpoint save.
    An evaluation stops at once, inside an attack as well, because finished batches are on disk already. Either goes on
    where it stopped when the same command is run again. The exit status is 128 + the signal's number. A second SIGINT
    (Ctrl-C) ends the process at once; where SIGINT is ignored, as in a shell's background jobs, it stays ignored. In a
    process of the command line a signal before the first batch ends the process at once
    (:mod:`lightning_adv2.runtime.early`).

    The callback replaces Lightning's handlers, which save in the middle of the interrupted step, and exchange tensors
    between processes from inside the handler.
    """

    def __init__(self) -> None:
        self.received = 0
        self.left_validation = False
        self._asked = False
        self._abandonable = False
        self._trainer: pl.Trainer | None = None
        self._parent = 0
        self._before: dict[signal.Signals, Any] = {}

    def listen(self, trainer: pl.Trainer) -> None:
        """Note signals from now on, or from the first batch on where a signal before that ends the process.

        Outside the main thread, to which Python gives all signals, it does nothing.
        """
        self._trainer, self._parent = trainer, os.getppid()
        if threading.current_thread() is not threading.main_thread():
            return  # Python gives signals to the main thread alone
        without_signal_handlers(trainer)
        if not WATCH.watching:
            self._take_over()
            return
        WATCH.end_others = self._end_others
        if not starter():
            os.environ[STARTER] = str(os.getpid())

    def _take_over(self) -> None:
        former = WATCH.hand_over()
        for number in SIGNALS:
            if number == signal.SIGINT and signal.getsignal(number) == signal.SIG_IGN:
                continue
            if signal.getsignal(number) != self._note:
                before = signal.signal(number, self._note)
                self._before[number] = former.get(number, before)
        while WATCH.received:
            self._note(WATCH.received.pop(0), None)

    def _end_others(self) -> None:
        """End the processes that Lightning started from this one."""
        launcher: Any = self._trainer and self._trainer.strategy.launcher
        started = getattr(launcher, "procs", [])
        end = time.monotonic() + PATIENCE_SECONDS
        for process in started:
            process.terminate()
        while any(process.poll() is None for process in started) and time.monotonic() < end:
            time.sleep(0.02)

    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        """Listen, and go last in the list of callbacks, so that what is saved has seen the same step."""
        self.listen(trainer)
        callbacks: list[Any] = trainer.callbacks  # type: ignore[attr-defined]
        # A new list, for Lightning is walking through the old one.
        trainer.callbacks = [one for one in callbacks if one is not self] + [self]  # type: ignore[attr-defined]

    def teardown(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        """Put the former signal handlers back."""
        while self._before:
            signal.signal(*self._before.popitem())

    def on_exception(self, trainer: pl.Trainer, pl_module: pl.LightningModule, exception: BaseException) -> None:
        """Put the former signal handlers back, unless a signal was received; Lightning calls no ``teardown`` then."""
        if not self.received:
            self.teardown(trainer, pl_module, "")

    def _note(self, number: int, frame: FrameType | None) -> None:
        """The handler: remember it, tell the processes that Lightning started, leave a running attack."""
        if number == signal.SIGINT:
            self._ask()
        first, self.received = not self.received, self.received or number
        if first and self._trainer is not None:
            self._tell_others(self._trainer, number)
        if self._abandonable:
            self._abandonable = False
            raise Abandoned

    def _ask(self) -> None:
        """Say that Ctrl-C was heard; at the second one end at once, as a process does that has no handler."""
        if self._asked:
            signal.signal(signal.SIGINT, signal.SIG_DFL)
            os.kill(os.getpid(), signal.SIGINT)
        self._asked = True
        if self._trainer is None or self._trainer.is_global_zero:
            with suppress(OSError):  # not print(): the handler may have interrupted one
                os.write(2, b"\nCtrl-C: the run saves and stops; a second Ctrl-C ends it at once\n")

    def _tell_others(self, trainer: pl.Trainer, number: int) -> None:
        """Only where Lightning started the processes; torchrun and SLURM signal all by themselves.

        A terminal signals all by itself, too: told of Ctrl-C by SIGINT, a process would take it for the second one.
        """
        number = signal.SIGTERM if number == signal.SIGINT else number
        launcher: Any = trainer.strategy.launcher
        if launcher is not None and getattr(launcher, "procs", None):
            launcher.kill(number)
        elif trainer.local_rank and isinstance(cluster_environment(trainer), LightningEnvironment):
            os.kill(self._parent, number)

    @contextmanager
    def abandonable(self) -> Iterator[None]:
        """Let a signal break off the block at any point.

        Raises:
            Abandoned: a signal was received before or inside the block.
        """
        self._abandonable = True
        try:
            if self.received:
                raise Abandoned
            yield
        finally:
            self._abandonable = False

    @contextmanager
    def leaving(self, trainer: pl.Trainer, saved: str = "finished batches are saved") -> Iterator[None]:
        """Let a signal break off the block at any point and end the process; an evaluation loses nothing by it.

        Args:
            trainer: of the run.
            saved: what is saved, for the message.

        Raises:
            SystemExit: a signal was received; see :meth:`stop`.
        """
        try:
            with self.abandonable():
                yield
        except Abandoned:
            self.stop(trainer, saved)

    def check_parent(self) -> None:
        """Check that the process that started this one, and with it the run, is alive.

        Raises:
            RuntimeError: that process is gone.
        """
        if self._trainer is not None and self._trainer.local_rank and os.getppid() != self._parent:
            raise RuntimeError(
                f"the process that started process {self._trainer.global_rank} of this run is gone; finished batches "
                "are saved: run the same command again to go on"
            )

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Stop if any process got a signal before; from here on they save first.

        Raises:
            SystemExit: somebody got one.
        """
        self._take_over()
        try:
            told = highest(trainer, self.received)
        except RuntimeError:  # others have ended already
            if not self.received:
                raise
            told = self.received
        self.received = self.received or told
        if self.received:
            self.stop(trainer, "the run stopped before its first step")

    def on_test_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Let the run hear signals itself from here on, because finished batches are saved."""
        if not trainer.sanity_checking:
            self._take_over()

    on_validation_start = on_predict_start = on_test_start

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Save and stop after the step if a signal was received; see :meth:`stop_training`.

        Raises:
            SystemExit: the run stops here.
        """
        self.stop_training(trainer)

    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Inside ``fit``, save and stop if a signal was received, because a validation with attacks takes long.

        Raises:
            SystemExit: the run stops here.
        """
        if trainer.state.fn == TrainerFn.FITTING and not trainer.sanity_checking:
            self.stop_training(trainer)

    def stop_training(self, trainer: pl.Trainer, left_validation: bool = False) -> bool:
        """Save and stop if any process received a signal.

        Args:
            trainer: inside ``fit``; all its processes must call this together.
            left_validation: whether a signal broke the validation off, so that it must be repeated.

        Returns:
            False where no process received a signal; True where the run stops at a later point, once no gradients wait.

        Raises:
            SystemExit: the run stops here.
            OSError: the checkpoint cannot be written.
        """
        told = highest(trainer, self.received)
        if self.received != signal.SIGINT:  # of which the others were told as SIGTERM
            self.received = told
        if not self.received:
            return False
        if accumulates(trainer):  # gradients of the batches before would be lost
            return True
        self.left_validation = left_validation
        keepers: list[Any] = [one for one in trainer.checkpoint_callbacks if hasattr(one, "save")]
        if not keepers:
            self.stop(trainer, "not saved, for there is no TrainingCheckpoint among the callbacks")
        for keeper in keepers:
            keeper.save(trainer)  # collective
        self.stop(trainer, f"step {trainer.global_step} is saved")

    def on_test_batch_start(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, batch: Any, batch_idx: int, dataloader_idx: int = 0
    ) -> None:
        """Stop between two batches of an evaluation if a signal was received.

        Raises:
            SystemExit: the run stops here.
        """
        if trainer.state.fn != TrainerFn.FITTING and self.received:
            self.stop(trainer, "finished batches are saved")

    on_validation_batch_start = on_predict_batch_start = on_test_batch_start

    def stop(self, trainer: pl.Trainer, saved: str) -> NoReturn:
        """End the process, and put the job back into SLURM's queue where SIGUSR1 asks for it.

        The exit status is 128 + the signal's number on global rank 0. Processes that Lightning or a launcher started
        end with 0: it would take another status for a crash, and kill the first process while that still cleans up.

        Args:
            trainer: of the run.
            saved: what is saved, for the message.

        Raises:
            SystemExit: always.
        """
        if trainer.is_global_zero:
            queued = self.received == signal.SIGUSR1 and requeue(trainer)
            print(farewell(self.received, saved, queued), flush=True)
        raise SystemExit(128 + self.received if trainer.is_global_zero else 0)


def interruption_of(trainer: pl.Trainer) -> Interruption:
    """Return the trainer's :class:`Interruption`; where it has none, one that hears no signals."""
    callbacks: list[Any] = trainer.callbacks  # type: ignore[attr-defined]
    return next((callback for callback in callbacks if isinstance(callback, Interruption)), Interruption())
