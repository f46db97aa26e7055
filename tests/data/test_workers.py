from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from lab import run_python

from benchmarks.kills import BOUND, alive, processes, wait_until
from lightning_adv2.runtime.checkpoint_io import SealedCheckpointIO

TESTS = Path(__file__).parents[1]
TRAINING = TESTS / "modules" / "training.py"
OPTIONS = {"die_before": -1, "devices": 1, "num_workers": 2, "kind": "rts", "limits": {"max_epochs": 4}}


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
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGUSR1, signal.SIGINT])
def test_promise_10_a_signal_for_the_whole_group_ends_fit_at_a_step_and_it_goes_on_exactly(
    tmp_path: Path, number: signal.Signals
) -> None:
    """As SLURM, systemd and torchrun send it: to the workers too, which must not be gone when the step is finished."""
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    for folder in (whole, parts):
        folder.mkdir()
    assert run_python(TRAINING, json.dumps(OPTIONS | {"folder": str(whole)}), folder=whole).returncode == 0
    command = [sys.executable, str(TRAINING), json.dumps(OPTIONS | {"folder": str(parts)})]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    with (parts / "output.txt").open("wb") as output:
        run = subprocess.Popen(
            command, cwd=parts, env=environment, stdout=output, stderr=output, start_new_session=True
        )
    while len(diary(parts)) < 6 and run.poll() is None:
        time.sleep(0.005)
    os.killpg(run.pid, number)
    assert run.wait(60) == 128 + number, (parts / "output.txt").read_text()[-3000:]
    assert 6 <= state(parts)["global_step"] < 16
    end = time.monotonic() + 30
    while left(run.pid) and time.monotonic() < end:
        time.sleep(0.1)
    assert not left(run.pid), "workers stayed behind"
    assert run_python(TRAINING, json.dumps(OPTIONS | {"folder": str(parts)}), folder=parts).returncode == 0
    assert diary(parts) == diary(whole)
    for name, value in state(whole)["state_dict"].items():
        assert value.equal(state(parts)["state_dict"][name]), name


@pytest.mark.slow
@pytest.mark.parametrize(("devices", "num_workers"), [(1, 2), (2, 0)], ids=["data worker", "rank 1"])
def test_promise_11_a_killed_child_ends_fit_and_it_goes_on(tmp_path: Path, devices: int, num_workers: int) -> None:
    options = OPTIONS | {"folder": str(tmp_path), "devices": devices, "num_workers": num_workers}
    command = [sys.executable, str(TRAINING), json.dumps(options | {"limits": {"max_epochs": 1000}})]
    with (tmp_path / "output.txt").open("wb") as output:
        environment = os.environ | {"OMP_NUM_THREADS": "1"}
        run = subprocess.Popen(
            command, cwd=tmp_path, env=environment, stdout=output, stderr=output, start_new_session=True
        )
    while len(diary(tmp_path)) < 10 and run.poll() is None:
        time.sleep(0.05)
    everyone = processes(run)
    os.kill(everyone[-1], signal.SIGKILL)
    killed = time.monotonic()
    assert run.wait(BOUND) != 0
    wait_until(lambda: not any(map(alive, everyone)))
    print(f"all {len(everyone)} processes ended {time.monotonic() - killed:.1f} s after the kill")
    epochs = state(tmp_path)["epoch"] + 2
    again = run_python(TRAINING, json.dumps(options | {"limits": {"max_epochs": epochs}}), folder=tmp_path)
    assert again.returncode == 0, again.stderr[-2000:]


SCRIPT = """
import os, signal, sys, time
import torch
from torch.utils.data import DataLoader
sys.path.insert(0, sys.argv[1])
from lab import attack_data, shapes, victim

data = attack_data(num_workers=2)
data.manifest_for(victim())
loaders = data.test_dataloader(), shapes(num_workers=2, batch_size=2).val_dataloader()
running = [iter(loader) for loader in loaders]  # alive until the interpreter ends
for batches in running:
    next(batches)
workers = [w for loader in (running[0], loaders[1]._iterator) for w in loader._workers]
time.sleep(1)
for worker in workers:
    for number in (signal.SIGTERM, signal.SIGUSR1, signal.SIGINT):  # from another process than their parent
        os.spawnlp(os.P_WAIT, "kill", "kill", f"-{int(number)}", str(worker.pid))
time.sleep(1)
print(len(workers), sum(worker.is_alive() for worker in workers), flush=True)
for batches in running:
    next(batches)
"""


def test_workers_outlive_a_signal_that_is_not_their_parents_but_not_their_parent(tmp_path: Path) -> None:
    """Workers that ignored SIGTERM altogether would keep a parent from ending: it sends it, and waits."""
    done = run_python("-c", SCRIPT, TESTS, folder=tmp_path, timeout=60)
    assert done.returncode == 0, done.stderr[-3000:]
    assert done.stdout.split() == ["4", "4"]
