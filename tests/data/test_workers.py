from __future__ import annotations

import os
import signal
import time
from pathlib import Path
from typing import Any

import pytest
import spawn
from lab import attack_data, shapes, victim
from modules.training import train

from benchmarks.kills import BOUND, alive, processes, wait_until
from lightning_adv2.runtime.checkpoint_io import SealedCheckpointIO

OPTIONS = {"num_workers": 2, "kind": "rts", "limits": {"max_epochs": 4}}


def diary(folder: Path) -> list[str]:
    file = folder / "diary-0.jsonl"
    return file.read_text().splitlines() if file.exists() else []


def state(folder: Path) -> dict[str, Any]:
    return SealedCheckpointIO().load_checkpoint(folder / "checkpoints" / "last.ckpt")


def left(group: int) -> bool:
    try:
        os.killpg(group, 0)
    except ProcessLookupError:
        return False
    return True


@pytest.mark.slow
@pytest.mark.parametrize(
    "number", [signal.SIGUSR1, *(pytest.param(one, marks=pytest.mark.long) for one in (signal.SIGTERM, signal.SIGINT))]
)
def test_promise_10_a_signal_for_the_whole_group_ends_fit_at_a_step_and_it_goes_on_exactly(
    tmp_path: Path, number: signal.Signals
) -> None:
    """As SLURM, systemd and torchrun send it: to the workers too, which must not be gone when the step is finished."""
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    for folder in (whole, parts):
        folder.mkdir()
    spawn.run(train, whole, OPTIONS, folder=whole)
    run = spawn.start(train, parts, OPTIONS, folder=parts)
    while len(diary(parts)) < 6 and run.poll() is None:
        time.sleep(0.005)
    os.killpg(run.pid, number)
    assert run.wait(60) == 128 + number, run
    assert 6 <= state(parts)["global_step"] < 16
    end = time.monotonic() + 30
    while left(run.pid) and time.monotonic() < end:
        time.sleep(0.1)
    assert not left(run.pid), "workers stayed behind"
    spawn.run(train, parts, OPTIONS, folder=parts)
    assert diary(parts) == diary(whole)
    for name, value in state(whole)["state_dict"].items():
        assert value.equal(state(parts)["state_dict"][name]), name


@pytest.mark.slow
@pytest.mark.parametrize(("devices", "num_workers"), [(1, 2), (2, 0)], ids=["data worker", "rank 1"])
def test_promise_11_a_killed_child_ends_fit_and_it_goes_on(tmp_path: Path, devices: int, num_workers: int) -> None:
    options = OPTIONS | {"devices": devices, "num_workers": num_workers}
    run = spawn.start(train, tmp_path, options | {"limits": {"max_epochs": 1000}}, folder=tmp_path, processes=devices)
    while len(diary(tmp_path)) < 10 and run.poll() is None:
        time.sleep(0.05)
    everyone, killed = set[int](), time.monotonic()
    while run.poll() is None and time.monotonic() < killed + BOUND:
        found = processes(run)
        everyone.update(found)
        if found[1:]:  # a worker that has nothing more to do in its epoch is not missed; then the next one is killed
            os.kill(found[-1], signal.SIGKILL)
        time.sleep(1)
    assert run.wait(1) != 0
    wait_until(lambda: not any(map(alive, everyone)))
    epochs = state(tmp_path)["epoch"] + 2
    spawn.run(train, tmp_path, options | {"limits": {"max_epochs": epochs}}, folder=tmp_path, processes=devices)


def signalled_workers() -> None:
    """Signal the workers of two loaders, which are at work until Python ends."""
    data = attack_data(num_workers=2)
    data.manifest_for(victim())
    loaders = data.test_dataloader(), shapes(num_workers=2, batch_size=2).val_dataloader()
    running = [iter(loader) for loader in loaders]
    globals()["running"] = running  # alive until the interpreter ends
    for batches in running:
        next(batches)
    workers = [w for loader in (running[0], loaders[1]._iterator) for w in loader._workers]  # type: ignore[union-attr]
    time.sleep(1)
    for worker in workers:
        for number in (signal.SIGTERM, signal.SIGUSR1, signal.SIGINT):  # from another process than their parent
            os.spawnlp(os.P_WAIT, "kill", "kill", f"-{int(number)}", str(worker.pid))
    time.sleep(1)
    print(len(workers), sum(worker.is_alive() for worker in workers), flush=True)
    for batches in running:
        next(batches)


def test_workers_outlive_a_signal_that_is_not_their_parents_but_not_their_parent(tmp_path: Path) -> None:
    """Workers that ignored SIGTERM altogether would keep a parent from ending: it sends it, and waits."""
    done = spawn.run_fresh_python(*spawn.call(signalled_workers), folder=tmp_path, timeout=120)
    assert done.returncode == 0, done.stderr[-3000:]
    assert done.stdout.split() == ["4", "4"]
