"""Compute once for all processes."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

import pytorch_lightning as pl

T = TypeVar("T")


def on_rank_zero(trainer: pl.Trainer, compute: Callable[[], T]) -> T:
    """The result of ``compute`` on the process of global rank 0, on all of them; so is the exception that it raises."""
    outcome: T | Exception | None = None
    if trainer.is_global_zero:
        try:
            outcome = compute()
        except Exception as error:  # the other processes wait for the broadcast: they must hear of it
            outcome = error
    outcome = trainer.strategy.broadcast(outcome)
    if isinstance(outcome, Exception):
        raise outcome
    assert outcome is not None
    return outcome
