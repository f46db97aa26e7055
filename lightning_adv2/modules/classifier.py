"""Training of a classifier."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.nn.modules.batchnorm import _BatchNorm
from torchmetrics import Metric

from lightning_adv2.functional.symmetry import apply_dihedral
from lightning_adv2.metrics.attack import ImageMean
from lightning_adv2.metrics.classification import BalancedAccuracy
from lightning_adv2.models import Classifier, save_weights
from lightning_adv2.runtime.exchange import computed
from lightning_adv2.types import Batch


def one_cycle(step: int, steps: int) -> float:
    """The learning rate as a share of its peak: OneCycleLR's curve with its defaults (Smith and Topin 2018).

    Along cosines from 1/25 to 1 in the first 30% of the steps, then down to 1/250,000, where it stays.

    Args:
        step: from 0.
        steps: of the whole training.

    Returns:
        A share in (0, 1].
    """
    top = 0.3 * steps - 1
    start, end, share = (1 / 25, 1.0, step / top) if step <= top else (1.0, 4e-6, (step - top) / (steps - 1 - top))
    return end + (start - end) * 0.5 * (1 + math.cos(math.pi * min(share, 1.0)))


class ClassifierModule(pl.LightningModule):
    """Cross entropy, AdamW, one learning-rate cycle; logs loss, accuracy and balanced accuracy.

    At the end of ``fit`` the weights lie in ``<default_root_dir>/classifier.safetensors``.

    Args:
        classifier: the network to train.
        learning_rate: the cycle's peak.
        weight_decay: AdamW's.
        label_smoothing: share of each training label spread over all classes, in [0, 1).
        class_weight: K weights of the classes in the training loss, or None for equal ones; where the data module can
            draw the classes equally often, the effect is the same with less noise.
        frozen_batchnorm: keep BatchNorm's statistics in training, too: for fine-tuning with small batches, and
            necessary where they are folded into its weights.
        frozen: names of parts of the classifier that are not trained, such as ``features.0``.
        symmetries: mirror and rotate each training image at random, eight ways; for images without a preferred
            orientation.

    Attributes:
        class_weight: ``(K,)``, or None.

    Raises:
        ValueError: an argument is out of range, of another length than K, or names no part of the classifier.
    """

    class_weight: Tensor | None

    def __init__(
        self,
        classifier: Classifier,
        learning_rate: float = 5e-3,
        weight_decay: float = 1e-3,
        label_smoothing: float = 0.0,
        class_weight: list[float] | None = None,
        frozen_batchnorm: bool = False,
        frozen: Sequence[str] = (),
        symmetries: bool = False,
    ) -> None:
        super().__init__()
        if not 0 <= label_smoothing < 1:
            raise ValueError(f"label_smoothing={label_smoothing}: give a share in [0, 1)")
        if class_weight is not None and len(class_weight) != classifier.num_classes:
            raise ValueError(f"class_weight={class_weight}: give one for each of the {classifier.num_classes} classes")
        self.save_hyperparameters(ignore=["classifier"])
        self.classifier = classifier
        parts = dict(classifier.named_modules())
        if unknown := [name for name in frozen if name not in parts]:
            raise ValueError(f"frozen={list(frozen)}: no part {', '.join(unknown)}; there are: {', '.join(parts)}")
        still = [part for part in parts.values() if frozen_batchnorm and isinstance(part, _BatchNorm)]
        self._still = [parts[name].requires_grad_(False) for name in frozen] + still
        self.learning_rate, self.weight_decay = learning_rate, weight_decay
        self.label_smoothing, self.symmetries = label_smoothing, symmetries
        weight = None if class_weight is None else torch.tensor(class_weight, dtype=torch.float32)
        self.register_buffer("class_weight", weight, persistent=False)
        self.val_accuracy, self.val_loss = ImageMean(), ImageMean()
        self.val_balanced = BalancedAccuracy(classifier.num_classes)

    def forward(self, images: Tensor) -> Tensor:
        """The classifier's logits.

        Args:
            images: ``(B, C, H, W)`` in [0, 1].

        Returns:
            ``(B, K)``.
        """
        logits: Tensor = self.classifier(images)
        return logits

    def on_fit_start(self) -> None:
        """Set train mode, except for the frozen parts; classifiers are made in eval mode."""
        self.classifier.train()
        for part in self._still:
            part.eval()

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        """The cross entropy of one batch, ``()`` in nats; logs loss and accuracy.

        Args:
            batch: of B images; see :class:`~lightning_adv2.types.Batch`.
            batch_idx: its index in the epoch.
        """
        images = batch["images"]
        if self.symmetries:  # from the global generator, which TrainingCheckpoint seeds at each step
            images = apply_dihedral(images, torch.randint(8, (len(images),)))
        logits = self(images)
        loss = F.cross_entropy(logits, batch["label"], self.class_weight, label_smoothing=self.label_smoothing)
        self.log("train/loss", loss)
        self.log("train/accuracy", (logits.argmax(1) == batch["label"]).float().mean(), prog_bar=True)
        return loss

    def _metrics(self) -> dict[str, Metric]:
        return {"loss": self.val_loss, "accuracy": self.val_accuracy, "balanced_accuracy": self.val_balanced}

    def on_validation_epoch_start(self) -> None:
        """Reset loss and accuracies, for a validation may have been interrupted."""
        for metric in self._metrics().values():
            metric.reset()

    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        """Add one batch, which may be empty, to loss and accuracies.

        Args:
            batch: of B images; see :class:`~lightning_adv2.types.Batch`.
            batch_idx: its index in the epoch.
        """
        if len(batch["label"]):
            logits = self(batch["images"])
            self.val_accuracy.update(logits.argmax(1) == batch["label"])
            self.val_balanced.update(logits, batch["label"])
            self.val_loss.update(F.cross_entropy(logits, batch["label"], reduction="none"))

    def on_validation_epoch_end(self) -> None:
        """Log the means over all images, the same for any number of processes."""
        stage = "test" if self.trainer.testing else "val"
        for name, metric in self._metrics().items():
            self.log(f"{stage}/{name}", computed(self.trainer, metric), prog_bar=name == "accuracy")

    test_step = validation_step
    on_test_epoch_start = on_validation_epoch_start
    on_test_epoch_end = on_validation_epoch_end

    def configure_optimizers(self) -> Any:
        """AdamW under a one-cycle learning rate over all steps."""
        trained = [parameter for parameter in self.classifier.parameters() if parameter.requires_grad]
        optimizer = torch.optim.AdamW(trained, lr=self.learning_rate, weight_decay=self.weight_decay)
        steps = int(self.trainer.estimated_stepping_batches)
        # The length is no part of the schedule's state: a run resumed with more steps follows the longer cycle.
        scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: one_cycle(step, steps))
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": scheduler, "interval": "step"}}

    def on_fit_end(self) -> None:
        """Write the weights, without pickle; also when a resumed run has nothing left to train.

        Raises:
            OSError: the disk is full, or the folder cannot be written.
        """
        self.classifier.eval()
        if self.trainer.is_global_zero and not getattr(self.trainer, "fast_dev_run", False):
            path = Path(self.trainer.default_root_dir) / "classifier.safetensors"
            save_weights(self.classifier.state_dict(), path)
            print(f"{path}: the trained weights", flush=True)
