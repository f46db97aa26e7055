"""Started by test_processes.py: two processes, one of which comes late, dies, or raises."""

from __future__ import annotations

import os
import signal
import sys
import time
from datetime import timedelta
from types import SimpleNamespace
from typing import Any

import torch.distributed as dist

from lightning_adv2.runtime.processes import highest, on_rank_zero, wait_for_all


class Trainer(SimpleNamespace):
    """As much of a trainer as waiting needs; Lightning's own runs are in the tests of the callbacks."""

    def broadcast(self, value: Any) -> Any:
        box = [value]
        dist.broadcast_object_list(box, src=0)
        return box[0]


if __name__ == "__main__":
    rank, port, what = int(sys.argv[1]), sys.argv[2], sys.argv[3]
    dist.init_process_group(
        "gloo", init_method=f"tcp://127.0.0.1:{port}", rank=rank, world_size=2, timeout=timedelta(seconds=20)
    )
    trainer: Any = Trainer(world_size=2, is_global_zero=rank == 0)
    trainer.strategy = trainer
    assert highest(trainer, 10 + rank) == 11
    heard = []
    signal.signal(signal.SIGUSR1, lambda *_: heard.append(1))
    print("ready", flush=True)
    start = time.monotonic()
    if what == "late":
        if rank:
            time.sleep(3)
        elif os.fork() == 0:
            time.sleep(1)
            os.kill(os.getppid(), signal.SIGUSR1)
            os._exit(0)
        wait_for_all(trainer)
        print("waited", time.monotonic() - start, len(heard))
    elif what == "dead":
        if rank == int(sys.argv[4]):
            time.sleep(2)
            os.kill(os.getpid(), signal.SIGKILL)
        try:
            wait_for_all(trainer)
        except RuntimeError as error:
            print("ended", time.monotonic() - start, error)
            os._exit(3)
    elif what == "raises":

        def compute() -> int:
            if len(sys.argv) > 4:
                raise ValueError("of rank 0")
            return 7

        try:
            print("got", on_rank_zero(trainer, compute))
        except ValueError as error:
            print("raised", error)
