"""The common part of all trainings of an interpreter."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any, Self

import pytorch_lightning as pl
import torch
from pytorch_lightning.utilities import rank_zero_warn
from torch import Tensor, nn

from lightning_adv2.attacks import AcceleratedCopy, make_accelerated_copy
from lightning_adv2.interpreters import TrainableInterpreter, give_encoders
from lightning_adv2.metrics import MapQuality, says_little
from lightning_adv2.models import Classifier
from lightning_adv2.runtime.exchange import computed
from lightning_adv2.types import Batch


class InterpreterTraining(pl.LightningModule):
    """A frozen classifier, an interpreter in training, and the quality of its benign maps.

    A subclass has ``training_step`` and calls ``save_hyperparameters``; ``learning_rate`` and ``weight_decay`` must be
    among the hyper-parameters. At the end of ``fit`` the weights lie in ``<default_root_dir>/<interpreter's
    name>.safetensors``; checkpoints hold the trained weights without the frozen networks.

    Args:
        classifier: f, explained; frozen.
        interpreter: the interpreter to train; its frozen parts stay frozen. Without an encoder it gets a copy of f.

    Raises:
        ValueError: the interpreter's encoder has other classes than the classifier, or is the classifier itself.
    """

    def __init__(self, classifier: Classifier, interpreter: TrainableInterpreter) -> None:
        super().__init__()
        give_encoders(classifier, [interpreter])
        encoder = interpreter.network.encoder
        if classifier.num_classes != encoder.num_classes:
            raise ValueError(
                f"interpreter: its encoder has {encoder.num_classes} classes, the classifier {classifier.num_classes}; "
                "both must be trained on the same task"
            )
        if {id(p) for p in encoder.parameters()} & {id(p) for p in classifier.parameters()}:
            raise ValueError(
                "interpreter: its encoder shares weights with the classifier, so that training one would change the "
                "other; give it another instance of the network"
            )
        self.classifier = classifier.requires_grad_(False).eval()
        self.interpreter = interpreter
        self.quality = MapQuality()
        self._accelerated: AcceleratedCopy | None = None  # no part of the module: neither saved nor counted
        self.strict_loading = False  # the frozen networks are not in the checkpoints

    @property
    def trained(self) -> list[nn.Parameter]:
        """The parameters that the optimiser gets."""
        return [p for p in self.interpreter.parameters() if p.requires_grad]

    def touching_all(self, loss: Tensor) -> Tensor:
        """The same loss with a gradient, zero if need be, for every trained parameter: DDP waits for all of them.

        Args:
            loss: ``()``.

        Returns:
            ``()``.
        """
        return loss + 0.0 * torch.stack([parameter.sum() for parameter in self.trained]).sum()

    def train(self, mode: bool = True) -> Self:
        """Set train mode for the trained parts; the classifier stays in eval mode.

        Args:
            mode: False for eval mode.
        """
        super().train(mode)
        self.classifier.eval()
        return self

    def on_fit_start(self) -> None:
        """Set the interpreter to train mode; interpreters are made in eval mode."""
        self.interpreter.train()

    def setup(self, stage: str) -> None:
        """Discard the classifier's accelerated copy, which is made anew for each run's device, precision and weights.

        Args:
            stage: Lightning's.
        """
        self._accelerated = None

    def teardown(self, stage: str) -> None:
        """Free the classifier's accelerated copy.

        Args:
            stage: Lightning's.
        """
        self._accelerated = None

    def fast_classifier(self, images: Tensor) -> Classifier:
        """The classifier's accelerated copy: the same function, faster where gradients pass through it.

        Args:
            images: ``(B, C, H, W)``; the copy is made for the shape, type and device of the first images.
        """
        if self._accelerated is None:
            self._accelerated = make_accelerated_copy(self.classifier, None, images)
        return self._accelerated.classifier

    def on_validation_epoch_start(self) -> None:
        """Reset the quality, for a validation may have been interrupted."""
        self.quality.reset()

    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        """Add one batch to the quality of the benign maps; see :class:`~lightning_adv2.metrics.MapQuality`.

        Args:
            batch: of B images; see :class:`~lightning_adv2.types.Batch`.
            batch_idx: its index in the epoch.
        """
        images, label = batch["images"], batch["label"]
        if not len(label):
            return
        shown = self.interpreter.explain(self.classifier, images, label).attribution_map
        self.quality.update(self.classifier, images, label, batch["image_id"], shown, batch.get("mask"))

    def on_validation_epoch_end(self) -> None:
        """Log the means over all validation images; warn where the maps are nearly empty or full."""
        values = computed(self.trainer, self.quality)
        self.log_dict({f"val/benign/{self.interpreter.name}/{name}": value for name, value in values.items()})
        if values and self.trainer.is_global_zero and not self.trainer.sanity_checking:
            self._tell(values)

    def _tell(self, values: dict[str, float]) -> None:
        name, shown = self.interpreter.name, ("area", "preserved", "shuffled", "destroyed")
        told = ", ".join(f"{key} {values[key]:.3f}" for key in shown if key in values)
        print(f"Step {self.trainer.global_step}: benign maps of {name}: {told}", flush=True)
        if wrong := says_little(values.get("area", 0.5)):
            change = "lower" if values["area"] < 0.5 else "raise"
            rank_zero_warn(
                f"Step {self.trainer.global_step}: the maps of {name} are {wrong}: they show nothing, and no attack on "
                f"them means anything. Train longer, or {change} area_weight"
            )

    def configure_optimizers(self) -> Any:
        """AdamW under a cosine over all steps (Loshchilov and Hutter 2019).

        The weight decay is decoupled: with the coupled decay of the RTS authors Adam would take full steps where the
        gradient is zero, and shrink the decoder while the selector alone is trained.
        """
        optimizer = torch.optim.AdamW(
            self.trained, lr=self.hparams["learning_rate"], weight_decay=self.hparams["weight_decay"]
        )
        steps = int(self.trainer.estimated_stepping_batches)
        # The length is no part of the schedule's state: a run resumed with more steps follows the longer cosine.
        scheduler = torch.optim.lr_scheduler.LambdaLR(
            optimizer, lambda step: 0.5 * (1 + math.cos(math.pi * min(step / steps, 1.0)))
        )
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": scheduler, "interval": "step"}}

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Keep only the trained weights in a checkpoint.

        Args:
            checkpoint: Lightning's.
        """
        kept = {f"interpreter.network.{name}" for name in self.interpreter.network.trainable_state()}
        checkpoint["state_dict"] = {name: value for name, value in checkpoint["state_dict"].items() if name in kept}

    def on_fit_end(self) -> None:
        """Write the trained weights, without pickle; also when a resumed run has nothing left to train.

        Raises:
            OSError: the disk is full, or the folder cannot be written.
        """
        self.interpreter.eval()
        if self.trainer.is_global_zero and not getattr(self.trainer, "fast_dev_run", False):
            path = Path(self.trainer.default_root_dir) / f"{self.interpreter.name}.safetensors"
            self.interpreter.save(path)
            print(f"{path}: the trained weights", flush=True)
