from __future__ import annotations

import os
import signal
import time
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
import pytorch_lightning as pl
import spawn
import torch
from lab import attack_data, shapes, short_attacks, trainer, victim
from pytorch_lightning.strategies import DDPStrategy
from torchmetrics import MeanMetric

from benchmarks.kills import processes, wait_until
from lightning_adv2.evaluation import AttackEvaluation
from lightning_adv2.interpreters import CAM
from lightning_adv2.modules import IDLS, ClassifierModule
from lightning_adv2.runtime.lightning import at_last_batch
from lightning_adv2.runtime.signals import Interruption
from lightning_adv2.types import Batch, Interpretation

TIMEOUT = 10
LATE = 20


class SlowCAM(CAM):
    """CAM that once takes as long as it is told to, inside an attack."""

    seconds = 0

    def forward(self, *args: Any) -> Interpretation:
        """See the base class."""
        seconds, SlowCAM.seconds = SlowCAM.seconds, 0
        time.sleep(seconds)
        return super().forward(*args)


class UsersIDLS(IDLS):
    """Logs a metric object and a value that Lightning exchanges, as users' modules do."""

    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        self.seen = MeanMetric()

    def test_step(self, batch: Batch, batch_idx: int) -> None:
        super().test_step(batch, batch_idx)
        self.seen.update(torch.tensor(1.0))
        self.log("seen", self.seen)
        self.log("exchanged", 1.0, sync_dist=True, on_epoch=True, on_step=False)


class Explained(ClassifierModule):
    """A training whose validations are attacked."""

    def __init__(self) -> None:
        super().__init__(victim())
        self.interpreter = SlowCAM()


class Late(pl.Callback):
    """One process takes long for its last attack; the other says when it has come there."""

    def __init__(self, rank: int, seconds: float) -> None:
        self.rank, self.seconds = rank, seconds

    def on_test_batch_end(self, trainer: pl.Trainer, *args: Any, **kwargs: Any) -> None:
        last = at_last_batch(trainer)
        if trainer.global_rank == self.rank and last:
            SlowCAM.seconds = self.seconds
        elif last:
            print("the early process attacks its last batch", flush=True)

    on_validation_batch_end = on_test_batch_end


def evaluate(folder: Path, kind: str, late: int, seconds: int) -> float:
    """On two processes, one of which comes to its last batch much later than the other; the accuracy."""
    strategy = DDPStrategy(process_group_backend="gloo", timeout=timedelta(seconds=TIMEOUT))
    callbacks = [Interruption(), Late(late, seconds), AttackEvaluation(short_attacks(), seed=1)]
    if kind == "fit":
        run = trainer(folder, *callbacks, devices=2, strategy=strategy, max_epochs=1)
        run.fit(Explained(), shapes(num_val=64))
        return float(run.callback_metrics["val/accuracy"])
    run = trainer(folder, *callbacks, devices=2, strategy=strategy)
    run.test((UsersIDLS if kind == "user" else IDLS)(victim(), SlowCAM()), attack_data(), verbose=False)
    return float(run.callback_metrics["test/benign/accuracy"])


def by_two(folder: Path, kind: str, late: int, seconds: int) -> list[float]:
    return spawn.run(evaluate, folder, kind, late, seconds, folder=folder, processes=2)


@pytest.fixture(scope="module")
def even(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """The figures of two processes that come at the same time."""
    folder = tmp_path_factory.mktemp("even")
    by_two(folder, "ours", 1, 0)
    return (folder / "results.json").read_bytes()


@pytest.mark.slow
@pytest.mark.parametrize(("kind", "late"), [("ours", 0), ("user", 1)])
def test_promise_10_a_process_may_be_later_than_the_groups_timeout(
    tmp_path: Path, even: bytes, kind: str, late: int
) -> None:
    """Twice as late as the group of the processes waits; ``user`` logs a metric object."""
    assert by_two(tmp_path, kind, late, LATE) == [1.0, 1.0]
    assert (tmp_path / "results.json").read_bytes() == even


@pytest.mark.slow
def test_promise_10_a_process_may_be_late_in_a_validation_of_fit(tmp_path: Path) -> None:
    first, second = by_two(tmp_path, "fit", 0, LATE)
    assert first == second
    assert len(list((tmp_path / "validation").glob("step_*/results.json"))) == 1


@pytest.mark.slow
@pytest.mark.parametrize("early", [0, 1])
def test_promise_10_a_waiting_process_hears_a_signal(tmp_path: Path, even: bytes, early: int) -> None:
    run = _started(tmp_path, 1 - early)
    told = time.monotonic()
    os.kill(processes(run)[early], signal.SIGTERM)
    assert run.wait(LATE) == 128 + signal.SIGTERM
    seconds = time.monotonic() - told
    print(f"ended after {seconds:.1f} s")
    assert seconds < 10
    assert "SIGTERM: finished batches are saved; run the same command again to go on" in str(run)
    assert not (tmp_path / "results.json").exists()
    by_two(tmp_path, "ours", 1, 0)
    assert (tmp_path / "results.json").read_bytes() == even


@pytest.mark.slow
def test_promise_11_a_process_that_waits_says_that_another_one_died(tmp_path: Path) -> None:
    run = _started(tmp_path, 0)
    first, second = processes(run)
    os.kill(first, signal.SIGKILL)
    wait_until(lambda: not Path(f"/proc/{second}").exists(), 30)
    run.wait()
    assert "another process of this run has ended (see its output)" in str(run)


def _started(folder: Path, late: int) -> spawn.Spawned:
    """Two processes, of which the early one waits for the other."""
    run = spawn.start(evaluate, folder, "ours", late, LATE, folder=folder, processes=2)
    wait_until(lambda: "the early process attacks its last batch" in run.stdout, 120)
    time.sleep(3)
    return run
