"""What the tests of an attack's data share: a classifier of one answer, and a module that keeps its batches."""

from __future__ import annotations

from typing import Any

import pytorch_lightning as pl
from toys import Always

from lightning_adv2.data import AttackBatch, AttackDataModule, ShapesDataModule


def two_always() -> Always:
    """A classifier that sees class 2 everywhere, so that it is right on one image in seven."""
    return Always(2, 7)


class Collect(pl.LightningModule):
    """Keeps the batches that the loops hand it."""

    def __init__(self) -> None:
        super().__init__()
        self.classifier = two_always()
        self.batches: list[AttackBatch] = []

    def test_step(self, batch: AttackBatch) -> None:
        self.batches.append(batch)

    validation_step = test_step

    def predict_step(self, batch: AttackBatch) -> list[str]:
        return batch["image_id"]


def attack_data(**kwargs: Any) -> AttackDataModule:
    return AttackDataModule(ShapesDataModule(num_val=20, num_test=91), **{"num_images": 10, "batch_size": 4} | kwargs)
