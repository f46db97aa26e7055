"""A small training in a process of its own, which may be killed or sent a signal in the middle."""

from __future__ import annotations

import hashlib
import json
import os
import signal
from functools import partial
from pathlib import Path
from threading import Timer
from typing import Any

import pytorch_lightning as pl
import torch
from lab import shapes, untrained_rts, victim
from pytorch_lightning.callbacks import ModelCheckpoint

from lightning_adv2.attacks import ADV2, adv2_rts
from lightning_adv2.evaluation import AttackEvaluation
from lightning_adv2.models import ResidualClassifier
from lightning_adv2.modules import AIDModule, ClassifierModule, RTSModule, TrainingCheckpoint
from lightning_adv2.runtime.signals import Interruption


class Diary(pl.Callback):
    """Writes each batch down before it is trained on; before the given one it kills the process, or signals it."""

    def __init__(self, folder: Path, die_before: int, tell: list[int] | None) -> None:
        self.folder, self.die_before, self.tell = folder, die_before, tell

    def on_train_batch_start(self, trainer: pl.Trainer, pl_module: Any, batch: Any, batch_idx: int) -> None:
        number = trainer.fit_loop.total_batch_idx
        if number == self.die_before:
            os.kill(os.getpid(), signal.SIGKILL)
        if self.tell is not None and [number, trainer.global_rank] == self.tell[:2]:
            os.kill(os.getpid(), self.tell[2])
        images = hashlib.sha256("".join(batch["image_id"]).encode()).hexdigest()[:12]
        with (self.folder / f"diary-{trainer.global_rank}.jsonl").open("a") as stream:
            stream.write(json.dumps([number, trainer.current_epoch, images]) + "\n")


class TellInAttack(AttackEvaluation):
    """Validation by an attack, in the middle of which a signal comes."""

    def __init__(self, step: int | None) -> None:
        super().__init__([adv2_rts(steps=20)])
        self.step = step

    def on_validation_batch_end(self, trainer: pl.Trainer, *rest: Any) -> None:
        if trainer.global_step == self.step:
            Timer(0.05, partial(os.kill, os.getpid(), signal.SIGTERM)).start()
        super().on_validation_batch_end(trainer, *rest)


def module(kind: str) -> pl.LightningModule:
    if kind == "rts":
        return RTSModule(victim(), untrained_rts(), selector_steps=3)
    if kind.endswith("aid"):
        interpreter = untrained_rts()
        interpreter.network.train_encoder()
        schedule: Any = "alternate" if kind == "alternating aid" else "weigh"
        return AIDModule(victim(), interpreter, ADV2(steps=3), schedule=schedule, warm_start=kind == "warm aid")
    torch.manual_seed(0)
    network = ResidualClassifier(num_classes=7, widths=(8, 12, 16), stem_stride=2)
    return ClassifierModule(network)


def train(folder: Path, options: dict[str, Any]) -> None:
    """One fit, which may be killed or sent a signal in the middle.

    Args:
        folder: of the run.
        options: ``kind`` of module and ``limits`` of the trainer; the others have defaults.
    """
    devices, workers = options.get("devices", 1), options.get("num_workers", 0)
    pl.seed_everything(options.get("seed", 7), workers=True, verbose=False)
    checkpoint = TrainingCheckpoint(every_n_steps=options.get("every_n_steps"))
    diary = Diary(folder, options.get("die_before", -1), options.get("tell"))
    callbacks = [diary, checkpoint, Interruption()]
    if options.get("attack"):
        best = ModelCheckpoint(folder / "best", monitor="val/adv2-fast/rts/iou", save_top_k=-1, filename="{step}")
        callbacks += [TellInAttack(options.get("tell_in")), best]
    trainer = pl.Trainer(
        accelerator="cpu",
        devices=devices,
        strategy="ddp" if devices > 1 else "auto",
        logger=False,
        inference_mode=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        default_root_dir=folder,
        callbacks=callbacks,
        **options["limits"],
    )
    data = shapes(num_train=67, num_val=19, batch_size=16 // devices, num_workers=workers)
    trainer.fit(module(options["kind"]), data, ckpt_path=checkpoint.found(folder))
