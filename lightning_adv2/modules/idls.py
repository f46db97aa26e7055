"""An interpretable deep learning system: a classifier and its interpreter, ready to be evaluated."""

from __future__ import annotations

import pytorch_lightning as pl
from torch import Tensor
from torchmetrics import MeanMetric

from lightning_adv2.interpreters import Interpreter
from lightning_adv2.models import Classifier
from lightning_adv2.types import Batch, Interpretation


class IDLS(pl.LightningModule):
    """Classifier plus interpreter (the paper's term), frozen; callbacks attack and measure it.

    Args:
        classifier: the network explained and attacked.
        interpreter: explains it.
    """

    def __init__(self, classifier: Classifier, interpreter: Interpreter) -> None:
        super().__init__()
        self.classifier = classifier.requires_grad_(False).eval()
        self.interpreter = interpreter.requires_grad_(False).eval()
        self.accuracy = MeanMetric()

    def forward(self, images: Tensor, target_class: Tensor | None = None) -> Interpretation:
        """Explain the given class, by default the predicted one, in images ``(B, C, H, W)``."""
        if target_class is None:
            target_class = self.classifier(images).argmax(1)
        return self.interpreter.explain(self.classifier, images, target_class)

    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        """Log the classifier's accuracy on the images given; the callbacks do the rest."""
        if len(batch["label"]):
            self.accuracy.update((self.classifier(batch["images"]).argmax(1) == batch["label"]).float())
        stage = "test" if self.trainer.testing else "val"
        self.log(f"{stage}/benign/accuracy", self.accuracy, batch_size=len(batch["label"]))

    test_step = validation_step

    def predict_step(self, batch: Batch, batch_idx: int) -> Interpretation:
        """Explain what the classifier sees."""
        result: Interpretation = self(batch["images"])
        return result

    def configure_optimizers(self) -> None:
        """Nothing is trained here."""
        return None
