"""What test_benign_quality.py trains: a copy of a teacher, destroyed on purpose."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
from lab import shapes, trainer, untrained_rts, victim
from torch import Tensor

from lightning_adv2.interpreters import RTS
from lightning_adv2.models import weights_hash
from lightning_adv2.modules import BenignQuality


class Pupil(pl.LightningModule):
    """Has what AID's module has; every step moves the interpreter a little."""

    def __init__(self) -> None:
        super().__init__()
        self.classifier, self.teacher = victim().requires_grad_(False), untrained_rts().requires_grad_(False)
        self.interpreter: RTS = copy.deepcopy(self.teacher)
        self.interpreter.name = "rts_a"
        self.interpreter.network.output.requires_grad_(True)

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        return sum(p.sum() for p in self.interpreter.network.output.parameters())

    def validation_step(self, batch: Any, batch_idx: int) -> None:
        pass

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.interpreter.network.output.parameters(), lr=1e-5)


class Destroy(pl.Callback):
    """After these steps, fill a bias of the interpreter's last layer with the value; the map is the same everywhere."""

    def __init__(self, values: dict[int, float]) -> None:
        self.values = values

    def on_train_batch_end(self, trainer: pl.Trainer, pl_module: Any, *rest: Any) -> None:
        if trainer.global_step in self.values:
            with torch.no_grad():
                pl_module.interpreter.network.output.bias[0] = self.values[trainer.global_step]


class Watch(pl.Callback):
    """The hash of the interpreter's weights at each validation."""

    def __init__(self) -> None:
        self.hashes: dict[int, str] = {}

    def on_validation_start(self, trainer: pl.Trainer, pl_module: Any) -> None:
        self.hashes[trainer.global_step] = weights_hash(pl_module.interpreter)


def loop(folder: Path, *callbacks: pl.Callback, **options: Any) -> pl.Trainer:
    """A validation every second step."""
    chosen = {"max_steps": 20, "max_epochs": -1, "val_check_interval": 2, "check_val_every_n_epoch": None}
    return trainer(folder, *callbacks, **chosen | options)


def guarded_fit(folder: Path, devices: int) -> dict[str, Any]:
    """What becomes of it on so many processes, when it is destroyed before the sixth step."""
    guard, watch, pupil = BenignQuality(order=False), Watch(), Pupil()
    parallel = {"devices": devices, "strategy": "ddp"} if devices > 1 else {}
    fit = loop(folder, watch, guard, Destroy({5: 40.0}), **parallel)
    fit.fit(pupil, shapes(num_train=32, num_val=13, batch_size=8 // devices))
    return {
        "step": fit.global_step,
        "validations": guard.validations,
        "kept_step": guard.kept_step,
        "given_back": weights_hash(pupil.interpreter) == watch.hashes[4],
    }
