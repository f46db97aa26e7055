"""How many images a second RTS and AID train on, against one forward + backward through the classifier."""

from __future__ import annotations

import statistics
import tempfile
import time
from typing import Any

import pytorch_lightning as pl
import torch

from benchmarks.options import Options
from benchmarks.pairing import Row, seconds
from lightning_adv2.attacks import ADV2
from lightning_adv2.data import ShapesDataModule
from lightning_adv2.interpreters import RTS
from lightning_adv2.models import CifarResNet
from lightning_adv2.modules import AIDModule, RTSModule

BATCH, SIDE = 64, 32


class StepTimes(pl.Callback):
    """Seconds of each training step, without the loading."""

    def __init__(self) -> None:
        self.seconds: list[float] = []
        self._begun = 0.0

    def on_train_batch_start(self, *_: Any) -> None:
        """It begins."""
        self._begun = time.perf_counter()

    def on_train_batch_end(self, trainer: pl.Trainer, *_: Any) -> None:
        """It ends when the device is done."""
        if trainer.strategy.root_device.type == "cuda":
            torch.cuda.synchronize()
        self.seconds.append(time.perf_counter() - self._begun)


def run(options: Options) -> list[Row]:
    """A row per training."""
    weights = options.data / "cifar10" / "resnet20.safetensors"

    def network() -> CifarResNet:
        return CifarResNet(20, num_classes=10, weights=str(weights) if weights.exists() else None)

    classifier = network().requires_grad_(False).to(options.device)
    images = torch.rand(BATCH, 3, SIDE, SIDE, device=options.device)

    def floor() -> None:
        leaf = images.clone().requires_grad_()
        torch.autograd.grad(classifier(leaf).sum(), leaf)

    floor()
    trainings = {
        "RTS": lambda: RTSModule(network(), RTS(network(), map_stride=2), selector_steps=0),
        "AID, 3 attack steps": lambda: AIDModule(
            network(), RTS(network(), map_stride=2, train_encoder=True), ADV2(steps=3)
        ),
    }
    rows = []
    for name, build in trainings.items():
        least = statistics.median(seconds(floor, options.device) for _ in range(9))
        times = StepTimes()
        with tempfile.TemporaryDirectory() as folder:
            trainer = pl.Trainer(
                default_root_dir=folder, max_steps=12 if options.quick else 30, callbacks=[times], logger=False,
                accelerator=options.device.type, devices=1, enable_checkpointing=False, enable_progress_bar=False,
                enable_model_summary=False, limit_val_batches=0, num_sanity_val_steps=0,
            )  # fmt: skip
            # Its seven classes are seven of the classifier's ten: only the time counts here.
            data = ShapesDataModule(num_train=30 * BATCH, num_val=8, num_test=8, image_size=SIDE, batch_size=BATCH)
            trainer.fit(build(), data)
        step = statistics.median(times.seconds[len(times.seconds) // 4 :])
        rows.append({
            "case": f"ResNet-20, {SIDE} px, batch {BATCH}", "what": name, "floor": "forward + backward",
            "ms": step / BATCH * 1000, "images/s": BATCH / step, "ratio": step / least,
        })  # fmt: skip
    return rows
