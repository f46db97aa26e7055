"""Started by test_distillation.py: a training that is killed, or one that goes on beside one that never stopped."""

from __future__ import annotations

import json
import os
import signal
import sys
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch

sys.path.insert(0, str(Path(__file__).parents[1]))

from lab import shapes, trainer

from lightning_adv2.models import weights_hash
from lightning_adv2.modules import TrainingCheckpoint
from modules.test_distillation import distillation


class Kill(pl.Callback):
    """Before the fourth of six steps, in the second epoch."""

    def on_train_batch_start(self, trainer: pl.Trainer, *_: Any) -> None:
        if trainer.global_step == 3:
            os.kill(os.getpid(), signal.SIGKILL)


def fit(folder: Path, *callbacks: pl.Callback) -> str:
    pl.seed_everything(7, verbose=False)
    module, checkpoint = distillation(train_encoder=True), TrainingCheckpoint(every_n_steps=1)
    options = {"max_steps": 6, "max_epochs": -1, "enable_checkpointing": True}
    loop = trainer(folder, checkpoint, *callbacks, **options)
    loop.fit(module, shapes(), ckpt_path=checkpoint.found(folder))
    assert loop.global_step == 6
    return weights_hash(module.interpreter)


if __name__ == "__main__":
    torch.set_num_threads(1)
    folder = Path(sys.argv[1])
    if sys.argv[2] == "die":
        fit(folder / "killed", Kill())
    found = (folder / "killed" / "checkpoints" / "last.ckpt").exists()
    print(json.dumps({"found": found, "killed": fit(folder / "killed"), "whole": fit(folder / "whole")}))
