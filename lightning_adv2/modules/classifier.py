"""Train a classifier."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
import torch.nn.functional as F
from torch import Tensor
from torchmetrics import MeanMetric

from lightning_adv2.metrics.attack import ImageMean
from lightning_adv2.models import Classifier, save_weights
from lightning_adv2.types import Batch


def one_cycle(step: int, steps: int) -> float:
    """The learning rate at ``step`` of ``steps`` as a share of its peak: OneCycleLR's curve with its defaults.

    Along cosines from 1/25 to 1 in the first 30% of the steps, then down to 1/250,000, where it stays.
    """
    top = 0.3 * steps - 1
    start, end, share = (1 / 25, 1.0, step / top) if step <= top else (1.0, 4e-6, (step - top) / (steps - 1 - top))
    return end + (start - end) * 0.5 * (1 + math.cos(math.pi * min(share, 1.0)))


class ClassifierModule(pl.LightningModule):
    """Cross entropy, AdamW, one learning-rate cycle; logs loss and accuracy.

    At the end of ``fit`` the weights lie in ``<default_root_dir>/classifier.safetensors``.

    Args:
        classifier: to be trained.
        learning_rate: the cycle's peak.
        weight_decay: AdamW's.
    """

    def __init__(self, classifier: Classifier, learning_rate: float = 5e-3, weight_decay: float = 1e-3) -> None:
        super().__init__()
        self.save_hyperparameters(ignore=["classifier"])
        self.classifier = classifier
        self.learning_rate, self.weight_decay = learning_rate, weight_decay
        self.train_accuracy, self.val_accuracy, self.val_loss = MeanMetric(), ImageMean(), ImageMean()

    def forward(self, images: Tensor) -> Tensor:
        """Images ``(B, C, H, W)`` in [0, 1] -> logits ``(B, K)``."""
        logits: Tensor = self.classifier(images)
        return logits

    def on_fit_start(self) -> None:
        """Classifiers come in eval mode; this is the one place where they are trained."""
        self.classifier.train()

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        """Cross entropy of one batch."""
        logits = self(batch["images"])
        loss = F.cross_entropy(logits, batch["label"])
        self.train_accuracy.update((logits.argmax(1) == batch["label"]).float())
        self.log("train/loss", loss)
        self.log("train/accuracy", self.train_accuracy, prog_bar=True)
        return loss

    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        """Log loss and accuracy, the means over all images, whatever the number of processes; a batch may be empty."""
        stage = "test" if self.trainer.testing else "val"
        size = len(batch["label"])
        if size:
            logits = self(batch["images"])
            self.val_accuracy.update(logits.argmax(1) == batch["label"])
            self.val_loss.update(F.cross_entropy(logits, batch["label"], reduction="none"))
        # The metrics, not values: they add up over processes, and every process must log them.
        self.log(f"{stage}/loss", self.val_loss, batch_size=size)
        self.log(f"{stage}/accuracy", self.val_accuracy, prog_bar=True, batch_size=size)

    test_step = validation_step

    def configure_optimizers(self) -> Any:
        """AdamW under a one-cycle learning rate over all steps."""
        optimizer = torch.optim.AdamW(
            self.classifier.parameters(), lr=self.learning_rate, weight_decay=self.weight_decay
        )
        steps = int(self.trainer.estimated_stepping_batches)
        # The length is no part of the schedule's state: a run resumed with more steps follows the longer cycle.
        scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: one_cycle(step, steps))
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": scheduler, "interval": "step"}}

    def on_fit_end(self) -> None:
        """Write the weights, without pickle; also when a run that is resumed has nothing left to train."""
        self.classifier.eval()
        if self.trainer.is_global_zero and not getattr(self.trainer, "fast_dev_run", False):
            save_weights(self.classifier.state_dict(), Path(self.trainer.default_root_dir) / "classifier.safetensors")
