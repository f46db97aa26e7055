"""Show how a running attack gets on: below Lightning's own bar, when that is the rich one, or line by line in a log."""

from __future__ import annotations

import sys
import time
from collections.abc import Mapping, Sequence
from types import TracebackType

import pytorch_lightning as pl
from pytorch_lightning.callbacks import RichProgressBar

from lightning_adv2.attacks import Attack
from lightning_adv2.evaluation.pace import Pace, Part, parts_of
from lightning_adv2.results.records import record_key

LINE_SECONDS = 120
"""Where there is no terminal, a line is printed this often."""


class ProgressBar(RichProgressBar):
    """Lightning's rich bar; where only steps limit the training, without the -2 that 2.6.6 shows for the last epoch."""

    def _get_train_description(self, current_epoch: int) -> str:
        shown: str = super()._get_train_description(current_epoch)
        return shown.replace("/-2", "  ") if self.trainer.max_epochs == -1 else shown


class StepProgress:
    """A bar over all steps of all attacks on one batch under all interpreters; it leaves nothing behind.

    Below it stand the images per second, ASR and IoU of the running attack over the batches before, and the time left
    for all batches, which counts every stage of an attack by what its steps cost: by a pilot (``callbacks/pilot.py``)
    until they were measured. Without a terminal, as in a log file or under SLURM, the same comes as a plain line every
    two minutes; without a progress bar nothing does.

    Args:
        trainer: its progress bar is used.
        parts: the stages of the attacks, in their order.
        pace: of the evaluation; the batch is added where it took any step.
        images: in the batch.
        means: so far; see :class:`RunningMeans`.
    """

    def __init__(
        self, trainer: pl.Trainer, parts: Sequence[Part], pace: Pace, images: int, means: Mapping[str, float]
    ) -> None:
        bar = trainer.progress_bar_callback
        enabled = bar is not None and bool(getattr(bar, "is_enabled", True))
        # One rich display at a time: the attack's line goes into Lightning's.
        self._display = bar.progress if enabled and isinstance(bar, RichProgressBar) else None
        if self._display is not None and not self._display.console.is_terminal:
            self._display = self._display if self._display.console.is_jupyter else None
        seen = self._display is not None or (not isinstance(bar, RichProgressBar) and sys.stderr.isatty())
        self._speaks = enabled and not seen and trainer.is_global_zero
        self._parts, self._total = list(parts), sum(part.steps for part in parts)
        self._done, self._current = 0, 0
        self._left = self._parts  # what is not done yet
        self._part, self._clock = "", 0.0  # the part of the last step, and when it was over
        self._pace, self._images, self._means = pace, images, means
        self._begun = time.monotonic()

    def __enter__(self) -> StepProgress:
        if self._display is not None:
            self._task = self._display.add_task("attack", total=self._total)
        return self

    def update(self, interpreter: str, attack: Attack, done: int) -> None:
        """``done`` steps of ``attack`` are over; ``interpreter`` is shown where the attack aims at its map."""
        self._measure(interpreter, attack, done)
        if done <= self._current:  # the next attack has begun
            self._done += self._current
        self._current = done
        if self._display is not None:
            self._display.update(
                self._task,
                completed=self._done + done,
                description="\n".join(self._describe(interpreter, attack)),  # narrow: a terminal may have 80 columns
                refresh=done % 5 == 0,
            )
        elif self._speaks and time.monotonic() - self._pace.spoken >= LINE_SECONDS:
            self._pace.spoken = time.monotonic()
            whole = "" if self._pace.batches is None else f" of {self._pace.batches}"
            batch = f"batch {self._pace.done + 1}{whole}"
            print(", ".join([batch, *self._describe(interpreter, attack)]), flush=True)

    @property
    def shows(self) -> bool:
        """Whether anybody sees it."""
        return self._display is not None or self._speaks

    def _measure(self, interpreter: str, attack: Attack, done: int) -> None:
        """Note what the step took, and which are left; a part's first step has preparations in it."""
        stages, now, left, behind, current = parts_of(interpreter, attack), time.monotonic(), [], done, ""
        for part in stages:
            over = min(behind, part.steps)
            behind, current = behind - over, part.name if over else current
            left.append(Part(part.name, part.steps - over))
        if current == self._part and done > self._current:
            self._pace.measured.add(current, now - self._clock, done - self._current)
        self._part, self._clock = current, now
        places = [place for place, part in enumerate(self._parts) if part.name == stages[0].name]
        self._left = left + (self._parts[places[0] + len(stages) :] if places else [])

    def _describe(self, interpreter: str, attack: Attack) -> list[str]:
        """The attack, its means so far, and the pace."""
        prefix = f"running/{record_key(attack.name, attack.schedule)}/{interpreter}"
        parts = [f"{attack.name} {attack.schedule}" + (f" {interpreter}" if attack.needs_map else "")]
        if f"{prefix}/asr" in self._means:
            parts.append(f"ASR {self._means[f'{prefix}/asr']:.0%}, IoU {self._means[f'{prefix}/iou']:.2f}")
        seconds, left = time.monotonic() - self._begun, self._pace.left(self._left)
        share = min(1.0, (self._done + self._current) / self._total) if self._total else 0.0
        if left is not None and seconds:
            share = seconds / (seconds + left)
        pace = self._pace.describe(self._images, share, seconds)
        return [*parts, pace] if pace else parts

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is None and self._done + self._current:
            self._pace.add(self._images, time.monotonic() - self._begun)
        if self._display is not None:
            self._display.remove_task(self._task)
