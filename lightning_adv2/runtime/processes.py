"""Waiting of the processes of one run for each other.

They wait on a gloo group of their own, which bears slow processes (an attack on a batch may take an hour, and the usual
groups give up after ten to thirty minutes), notices dead processes at once, and lets signals through.
"""

from __future__ import annotations

import atexit
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import Any, TypeVar, cast

import pytorch_lightning as pl
import torch
import torch.distributed as dist

from lightning_adv2.runtime.lightning import at_last_batch

T = TypeVar("T")

_PATIENCE = timedelta(days=7)
_SHORTEST, _LONGEST = 1e-4, 0.02  # seconds between two looks
_groups: dict[int, Any] = {}


def wait_for_all(trainer: pl.Trainer) -> None:
    """Return when every process of the run has called this.

    Raises:
        RuntimeError: another process has died.
    """
    if trainer.world_size > 1:
        _finish(dist.barrier(group=_group(), async_op=True))


def wait_at_last_batch(trainer: pl.Trainer) -> None:
    """Wait for all processes if this process has done its last batch; inside ``validate`` and ``test``.

    After the last batch Lightning computes logged metric objects over the usual group, which gives up after minutes and
    hears no signals. Processes that have waited for each other before arrive there at the same time.

    Raises:
        RuntimeError: another process has died.
    """
    if at_last_batch(trainer):
        wait_for_all(trainer)


def highest(trainer: pl.Trainer, value: int) -> int:
    """Return the highest of all processes' values, on every process.

    Args:
        trainer: all its processes must call this together.
        value: of this process; a whole number of at most 64 bits.

    Raises:
        RuntimeError: another process has died.
    """
    if trainer.world_size == 1:
        return value
    values = torch.tensor([value])
    _finish(dist.all_reduce(values, dist.ReduceOp.MAX, group=_group(), async_op=True))
    return int(values)


def on_rank_zero(trainer: pl.Trainer, compute: Callable[[], T]) -> T:
    """Return the result of ``compute`` of global rank 0 on every process; its exception reaches every process as well.

    Args:
        trainer: all its processes must call this together.
        compute: called on rank 0 alone; its result must pickle.

    Raises:
        Exception: of ``compute``, on every process.
        RuntimeError: another process has died.
    """
    outcome: T | Exception | None = None
    if trainer.is_global_zero:
        try:
            outcome = compute()
        except Exception as error:  # the other processes wait for the broadcast: they must hear of it
            outcome = error
    wait_for_all(trainer)
    with deaths_reported():
        outcome = trainer.strategy.broadcast(outcome)
    if isinstance(outcome, Exception):
        raise outcome
    return cast(T, outcome)


def _group() -> Any:
    """The gloo group of all processes; all make it at their first wait."""
    world = id(dist.group.WORLD)
    if world not in _groups:
        _groups.clear()
        _groups[world] = dist.new_group(backend="gloo", timeout=_PATIENCE)
        atexit.unregister(_leave)
        atexit.register(_leave)
    return _groups[world]


def _leave() -> None:
    """End gloo's threads before the interpreter: those that still run then now and then abort the process."""
    if dist.is_initialized():
        dist.destroy_process_group()


def _finish(work: Any) -> None:
    """Poll, because Python hears of a signal only between two calls."""
    with deaths_reported():
        pause = _SHORTEST
        while not work.is_completed():
            time.sleep(pause)
            pause = min(2 * pause, _LONGEST)
        work.wait()  # raises what went wrong


@contextmanager
def deaths_reported() -> Iterator[None]:
    """Turn the failure of an exchange between processes inside the block into the report that a process has died.

    Raises:
        RuntimeError: the exchange failed; the error says what to do.
    """
    try:
        yield
    except RuntimeError as error:
        raise RuntimeError(
            "another process of this run has ended (see its output); what is finished is saved: "
            "run the same command again to go on"
        ) from error
