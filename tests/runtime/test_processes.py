from __future__ import annotations

import os
import signal
import socket
import sys
import time
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import spawn
import torch.distributed as dist

from lightning_adv2.runtime.processes import highest, on_rank_zero, wait_for_all


class Trainer(SimpleNamespace):
    """As much of a trainer as waiting needs; Lightning's own runs are in the tests of the callbacks."""

    def broadcast(self, value: Any) -> Any:
        box = [value]
        dist.broadcast_object_list(box, src=0)
        return box[0]


def joined(rank: int, port: int) -> Any:
    """The trainer of one of two processes, which have met."""
    rendezvous, timeout = f"tcp://127.0.0.1:{port}", timedelta(seconds=20)
    dist.init_process_group("gloo", init_method=rendezvous, rank=rank, world_size=2, timeout=timeout)
    trainer = Trainer(world_size=2, is_global_zero=rank == 0)
    trainer.strategy = trainer
    assert highest(trainer, 10 + rank) == 11  # type: ignore[arg-type]
    return trainer


def late(rank: int, port: int) -> tuple[float, int]:
    """One comes three seconds late, the other gets a signal meanwhile; how long it waited, and how many it heard."""
    trainer, heard = joined(rank, port), []
    signal.signal(signal.SIGUSR1, lambda *_: heard.append(1))
    start = time.monotonic()
    if rank:
        time.sleep(3)
    elif os.fork() == 0:
        time.sleep(1)
        os.kill(os.getppid(), signal.SIGUSR1)
        os._exit(0)
    wait_for_all(trainer)
    return time.monotonic() - start, len(heard)


def dead(rank: int, port: int, which: int) -> None:
    """One dies after two seconds; what the other is told, and when."""
    trainer, start = joined(rank, port), time.monotonic()
    if rank == which:
        time.sleep(2)
        os.kill(os.getpid(), signal.SIGKILL)
    try:
        wait_for_all(trainer)
    except RuntimeError as error:
        print("ended", time.monotonic() - start, error)
        sys.exit(3)


def computes(rank: int, port: int, fails: bool) -> str:
    """What both processes have of a result that the first one computes, or of its error."""

    def compute() -> int:
        if fails:
            raise ValueError("of rank 0")
        return 7

    trainer = joined(rank, port)
    try:
        return f"got {on_rank_zero(trainer, compute)}"
    except ValueError as error:
        return f"raised {error}"


def both(function: Callable[..., Any], *args: object, folder: Path) -> list[spawn.Spawned]:
    """Both processes, when they have ended."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    started = [spawn.start(function, rank, port, *args, folder=folder) for rank in (0, 1)]
    for process in started:
        process.wait(120)
    return started


def test_waiting_takes_as_long_as_the_last_and_hears_signals(tmp_path: Path) -> None:
    first, other = both(late, folder=tmp_path)
    assert (first.returncode, other.returncode) == (0, 0), first
    seconds, heard = first.value()
    assert seconds >= 2.5
    assert heard == 1


@pytest.mark.parametrize("which", [0, 1])
def test_promise_11_a_dead_process_is_noticed_at_once(which: int, tmp_path: Path) -> None:
    outcomes = both(dead, which, folder=tmp_path)
    assert outcomes[which].returncode == -9
    other = outcomes[1 - which]
    assert other.returncode == 3, other
    ended = next(line for line in other.stdout.splitlines() if line.startswith("ended"))
    assert float(ended.split()[1]) < 10
    assert "run the same command again" in ended


@pytest.mark.parametrize(("fails", "expected"), [(False, "got 7"), (True, "raised of rank 0")])
def test_rank_zeros_result_or_error_reaches_all(fails: bool, expected: str, tmp_path: Path) -> None:
    assert [process.value() for process in both(computes, fails, folder=tmp_path)] == [expected, expected]
