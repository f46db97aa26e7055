"""Ctrl-C: the first saves and stops, the second ends at once."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

from lab import wandb_environment

from benchmarks.kills import begun, wait_until

INTERRUPTED = Path(__file__).parents[1] / "evaluation" / "interrupted.py"
LISTENING = """
import sys
import time
import pytorch_lightning as pl
from lightning_adv2.runtime.signals import Interruption

Interruption().listen(pl.Trainer(logger=False, enable_checkpointing=False, accelerator="cpu", devices=1))
print("ready", flush=True)
time.sleep(60)
"""


def start(folder: Path, *words: object) -> subprocess.Popen[str]:
    variables = os.environ | wandb_environment(folder / "wandb_home") | {"OMP_NUM_THREADS": "1"}
    return subprocess.Popen(
        [sys.executable, *map(str, words)], cwd=folder, env=variables, text=True, stdout=subprocess.PIPE,
        stderr=subprocess.PIPE, start_new_session=True,
    )  # fmt: skip


def test_ctrl_c_inside_an_attack_says_what_is_saved(tmp_path: Path) -> None:
    run = start(tmp_path, INTERRUPTED, tmp_path, 1, "mask")  # a batch that takes minutes
    wait_until(lambda: len(begun(tmp_path)) >= 1 or run.poll() is not None, 120)
    os.killpg(run.pid, signal.SIGINT)  # as a terminal does
    out, err = run.communicate(timeout=60)
    assert run.returncode == 130, err[-3000:]
    assert "Ctrl-C: the run saves and stops; a second Ctrl-C ends it at once" in err
    assert "SIGINT: finished batches are saved; run the same command again to go on" in out
    assert "Traceback" not in err
    assert "KeyboardInterrupt" not in err


def test_the_second_ctrl_c_ends_at_once(tmp_path: Path) -> None:
    run = start(tmp_path, "-c", LISTENING)
    assert run.stdout is not None
    assert run.stdout.readline() == "ready\n"
    run.send_signal(signal.SIGINT)
    time.sleep(1)
    assert run.poll() is None, "it goes on to where it can save"
    run.send_signal(signal.SIGINT)
    assert run.wait(10) == -signal.SIGINT  # which a shell calls 130
    run.communicate()


def test_an_ignored_ctrl_c_stays_ignored(tmp_path: Path) -> None:
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        run = start(tmp_path, "-c", LISTENING)
    finally:
        signal.signal(signal.SIGINT, before)
    assert run.stdout is not None
    assert run.stdout.readline() == "ready\n"
    for _ in range(2):
        run.send_signal(signal.SIGINT)
        time.sleep(0.3)
    assert run.poll() is None
    run.kill()
    assert "Ctrl-C" not in run.communicate()[1]
