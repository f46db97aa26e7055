"""Started by test_uneven.py: two processes, one of which comes to its last batch much later than the other."""

from __future__ import annotations

import sys
import time
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
from pytorch_lightning.strategies import DDPStrategy
from torchmetrics import MeanMetric

sys.path.insert(0, str(Path(__file__).parents[1]))

from lab import attack_data, shapes, short_attacks, trainer, victim

from lightning_adv2.evaluation import AttackEvaluation
from lightning_adv2.interpreters import CAM
from lightning_adv2.modules import IDLS, ClassifierModule
from lightning_adv2.runtime.lightning import at_last_batch
from lightning_adv2.runtime.signals import Interruption
from lightning_adv2.types import Batch, Interpretation


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


if __name__ == "__main__":
    torch.set_num_threads(1)
    folder, kind, late, seconds, timeout = Path(sys.argv[1]), sys.argv[2], *map(int, sys.argv[3:])
    strategy = DDPStrategy(process_group_backend="gloo", timeout=timedelta(seconds=timeout))
    callbacks = [Interruption(), Late(late, seconds), AttackEvaluation(short_attacks(), seed=1)]
    if kind == "fit":
        run = trainer(folder, *callbacks, devices=2, strategy=strategy, max_epochs=1)
        run.fit(Explained(), shapes(num_val=64))
        print("accuracy", float(run.callback_metrics["val/accuracy"]))
    else:
        run = trainer(folder, *callbacks, devices=2, strategy=strategy)
        run.test((UsersIDLS if kind == "user" else IDLS)(victim(), SlowCAM()), attack_data(), verbose=False)
        print("accuracy", float(run.callback_metrics["test/benign/accuracy"]))
