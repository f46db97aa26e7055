"""Show the steps of a running attack below Lightning's own bar, when that is the rich one."""

from __future__ import annotations

from types import TracebackType

import pytorch_lightning as pl
from pytorch_lightning.callbacks import RichProgressBar

from lightning_adv2.attacks import Attack


class StepProgress:
    """A bar over all steps of all attacks on one batch under all interpreters; it leaves nothing behind.

    Args:
        trainer: its progress bar is used.
        total: number of steps.
    """

    def __init__(self, trainer: pl.Trainer, total: int) -> None:
        bar = trainer.progress_bar_callback
        # One rich display at a time: the attack's line goes into Lightning's.
        self._display = bar.progress if isinstance(bar, RichProgressBar) and bar.is_enabled else None
        self._total, self._done, self._current = total, 0, 0

    def __enter__(self) -> StepProgress:
        if self._display is not None:
            self._task = self._display.add_task("attack", total=self._total)
        return self

    def update(self, interpreter: str, attack: Attack, done: int) -> None:
        """``done`` steps of ``attack`` are over; ``interpreter`` is shown where the attack aims at its map."""
        if done <= self._current:  # the next attack has begun
            self._done += self._current
        self._current = done
        if self._display is not None:
            self._display.update(
                self._task,
                completed=self._done + done,
                description=f"{attack.name} {attack.schedule}" + (f" {interpreter}" if attack.needs_map else ""),
                refresh=done % 5 == 0,
            )

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._display is not None:
            self._display.remove_task(self._task)
