"""Training of an interpreter to imitate another interpreter's maps."""

from __future__ import annotations

import math
from typing import Any, Self

import torch
from torch import Tensor

from lightning_adv2.functional.agreement import map_l1
from lightning_adv2.functional.losses import map_mse
from lightning_adv2.functional.masking import resize_map
from lightning_adv2.functional.random import draw_target_class, image_generators
from lightning_adv2.interpreters import Interpreter, TrainableInterpreter, give_encoders
from lightning_adv2.metrics.attack import ImageMean
from lightning_adv2.models import Classifier
from lightning_adv2.modules.training import InterpreterTraining
from lightning_adv2.runtime.exchange import computed
from lightning_adv2.types import Batch


class DistillationModule(InterpreterTraining):
    """Mean square plus mean absolute difference from a teacher's maps, for the true class and for another class.

    Both classes, so that the student learns the teacher's response to the class asked for and not only what is in the
    image. The other class is drawn anew at every step, per image, whatever the number of processes. Validation logs
    ``teacher_l1``, the distance for the true class, and ``teacher_l1_other_class``, both in [0, 1].

    Args:
        classifier: f, explained; frozen.
        interpreter: the student.
        teacher: any interpreter of the same classifier; frozen. Its maps are resized to the student's size.
        learning_rate: Adam's; decays along a cosine.
        weight_decay: Adam's.
        seed: for the other classes.

    Raises:
        ValueError: the student's encoder has other classes than the classifier, or is the classifier itself.
    """

    def __init__(
        self,
        classifier: Classifier,
        interpreter: TrainableInterpreter,
        teacher: Interpreter,
        learning_rate: float = 1e-3,
        weight_decay: float = 1e-4,
        seed: int = 0,
    ) -> None:
        super().__init__(classifier, interpreter)
        self.save_hyperparameters(ignore=["classifier", "interpreter", "teacher"])
        give_encoders(classifier, [teacher])
        self.teacher = teacher.requires_grad_(False).eval()
        self.teacher_l1, self.teacher_l1_other_class = ImageMean(), ImageMean()

    def description(self) -> dict[str, Any]:
        """The objects by which trainings are compared, beside the hyper-parameters."""
        return {"teacher": self.teacher}

    def train(self, mode: bool = True) -> Self:
        """Set train mode for the trained parts; classifier and teacher stay in eval mode.

        Args:
            mode: False for eval mode.
        """
        super().train(mode)
        self.teacher.eval()
        return self

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        """The loss of one step, ``()``; logs both terms.

        Args:
            batch: of B images; see :class:`~lightning_adv2.types.Batch`.
            batch_idx: its index in the epoch.
        """
        images, label = batch["images"], batch["label"]
        other = self._other_class(batch, f"distillation {self.global_step}")
        shown, wanted = self._maps(images.repeat(2, 1, 1, 1), torch.cat([label, other]))
        losses = {"teacher_mse": map_mse(shown, wanted).mean(), "teacher_l1": map_l1(shown, wanted).mean()}
        total = losses["teacher_mse"] + losses["teacher_l1"]
        self.log_dict({f"train/{name}": value.detach() for name, value in losses.items()})
        self.log("train/loss", total.detach(), prog_bar=True)
        return self.touching_all(total)

    def on_validation_epoch_start(self) -> None:
        """Reset the measures, for a validation may have been interrupted."""
        super().on_validation_epoch_start()
        for metric in (self.teacher_l1, self.teacher_l1_other_class):
            metric.reset()

    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        """Add one batch to the quality of the maps and to their distance from the teacher's.

        Args:
            batch: of B images; see :class:`~lightning_adv2.types.Batch`.
            batch_idx: its index in the epoch.
        """
        super().validation_step(batch, batch_idx)
        if not len(batch["label"]):
            return
        other = self._other_class(batch, "distillation validation")
        for metric, class_idx in ((self.teacher_l1, batch["label"]), (self.teacher_l1_other_class, other)):
            with torch.no_grad():
                shown, wanted = self._maps(batch["images"], class_idx)
            metric.update(map_l1(shown, wanted))

    def on_validation_epoch_end(self) -> None:
        """Log the means over all validation images."""
        super().on_validation_epoch_end()
        for name in ("teacher_l1", "teacher_l1_other_class"):
            metric = getattr(self, name)
            mean = float(computed(self.trainer, metric))
            if not math.isnan(mean):  # no image seen
                self.log(f"val/benign/{self.interpreter.name}/{name}", mean)

    def _maps(self, images: Tensor, class_idx: Tensor) -> tuple[Tensor, Tensor]:
        """The student's maps, with a graph to its parameters, and the teacher's at their size."""
        shown = self.interpreter(self.classifier, images, class_idx).attribution_map
        wanted = self.teacher.explain(self.classifier, images, class_idx).attribution_map
        return shown, resize_map(wanted, shown.shape[-2:])

    def _other_class(self, batch: Batch, purpose: str) -> Tensor:
        generators = image_generators(self.hparams["seed"], batch["image_id"], purpose)
        return draw_target_class(batch["label"], self.classifier.num_classes, generators)
