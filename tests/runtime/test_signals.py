"""Ctrl-C: the first saves and stops, the second ends at once."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path

import pytorch_lightning as pl
import spawn
from lab import attack_data, shapes, trainer, victim

from benchmarks.kills import begun, note_attacks, wait_until
from lightning_adv2.attacks import adv2_mask
from lightning_adv2.evaluation import AttackEvaluation
from lightning_adv2.interpreters import MASK
from lightning_adv2.modules import IDLS, ClassifierModule
from lightning_adv2.modules.training_checkpoint import TrainingCheckpoint
from lightning_adv2.runtime.signals import Interruption


def attack_for_minutes(folder: Path) -> None:
    note_attacks(folder)
    evaluation = AttackEvaluation([adv2_mask(schedule="paper")])
    run = trainer(folder, Interruption(), evaluation)
    run.test(IDLS(victim(), MASK()), attack_data(num_images=4, batch_size=2), verbose=False)


def listen(ignored: bool = False) -> None:
    if ignored:
        signal.signal(signal.SIGINT, signal.SIG_IGN)
    Interruption().listen(pl.Trainer(logger=False, enable_checkpointing=False, accelerator="cpu", devices=1))
    print("ready", flush=True)
    time.sleep(60)


class Signalled(pl.Callback):
    """Gets a signal when the training has been set up."""

    def on_fit_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        os.kill(os.getpid(), signal.SIGUSR1)


def train(folder: Path) -> None:
    run = trainer(folder, Interruption(), Signalled(), TrainingCheckpoint(), enable_checkpointing=True, max_epochs=1)
    run.fit(ClassifierModule(victim()), shapes())


def test_a_training_that_hears_a_signal_before_its_first_step_takes_none(tmp_path: Path) -> None:
    run = spawn.start(train, tmp_path, folder=tmp_path)
    assert run.wait(120) == 128 + signal.SIGUSR1, run
    assert "SIGUSR1: the run stopped before its first step; run the same command again to go on" in run.stdout
    assert "Traceback" not in run.stderr
    assert not list(tmp_path.rglob("*.ckpt"))


def test_ctrl_c_inside_an_attack_says_what_is_saved(tmp_path: Path) -> None:
    run = spawn.start(attack_for_minutes, tmp_path, folder=tmp_path)
    wait_until(lambda: len(begun(tmp_path)) >= 1 or run.poll() is not None, 120)
    assert run.poll() is None, run
    os.killpg(run.pid, signal.SIGINT)  # as a terminal does
    assert run.wait(60) == 130, run.stderr
    assert "Ctrl-C: the run saves and stops; a second Ctrl-C ends it at once" in run.stderr
    assert "SIGINT: finished batches are saved; run the same command again to go on" in run.stdout
    assert "Traceback" not in run.stderr
    assert "KeyboardInterrupt" not in run.stderr


def test_the_second_ctrl_c_ends_at_once(tmp_path: Path) -> None:
    run = spawn.start(listen, folder=tmp_path)
    run.says("ready\n")
    os.kill(run.pid, signal.SIGINT)
    time.sleep(1)
    assert run.poll() is None, "it goes on to where it can save"
    os.kill(run.pid, signal.SIGINT)
    assert run.wait(10) == -signal.SIGINT  # which a shell calls 130


def test_an_ignored_ctrl_c_stays_ignored(tmp_path: Path) -> None:
    run = spawn.start(listen, True, folder=tmp_path)  # as a shell's background job begins
    run.says("ready\n")
    for _ in range(2):
        os.kill(run.pid, signal.SIGINT)
        time.sleep(0.3)
    assert run.poll() is None
    run.kill()
    assert "Ctrl-C" not in run.stderr
