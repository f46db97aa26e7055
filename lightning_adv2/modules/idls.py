"""An interpretable deep learning system: a classifier and its interpreters, ready to be evaluated."""

from __future__ import annotations

from typing import Any, cast

import pytorch_lightning as pl
from torch import Tensor, nn

from lightning_adv2.interpreters import Interpreter, give_encoders
from lightning_adv2.metrics.attack import ImageMean
from lightning_adv2.models import Classifier
from lightning_adv2.runtime.exchange import computed
from lightning_adv2.types import Batch, Interpretation


def interpreters_of(module: nn.Module) -> list[Interpreter]:
    """A module's interpreters: its list ``interpreters``, or its single ``interpreter``.

    Args:
        module: with one of the two attributes.

    Raises:
        AttributeError: the module has neither.
        ValueError: the list is empty, or two interpreters share a name.
    """
    several: Any = getattr(module, "interpreters", None)
    found: list[Interpreter] = [cast(Any, module).interpreter] if several is None else list(several)
    names = [interpreter.name for interpreter in found]
    if not names or len(set(names)) < len(names):
        raise ValueError(
            f"interpreter: expected one or more with different names, got {', '.join(names) or 'none'}; files and "
            "tables go by the name: evaluate one of two alike in a run of its own, or set its attribute 'name'"
        )
    return found


class IDLS(pl.LightningModule):
    """Classifier plus interpreter (an interpretable deep learning system, the paper's term), frozen, for evaluations.

    Args:
        classifier: the network explained and attacked.
        interpreter: explains it; or a list of several with different names, each evaluated by itself. An interpreter
            without an encoder gets a copy of the classifier.

    Raises:
        ValueError: there is no interpreter, or two of them share a name.
    """

    def __init__(self, classifier: Classifier, interpreter: Interpreter | list[Interpreter]) -> None:
        super().__init__()
        self.classifier = classifier.requires_grad_(False).eval()
        several = interpreter if isinstance(interpreter, list) else [interpreter]
        self.interpreters = nn.ModuleList(several)
        give_encoders(self.classifier, self.interpreters)
        self.interpreters.requires_grad_(False).eval()
        interpreters_of(self)
        self.accuracy = ImageMean()

    @property
    def interpreter(self) -> Interpreter:
        """The first interpreter."""
        return cast(Interpreter, self.interpreters[0])

    def forward(self, images: Tensor, class_idx: Tensor | None = None) -> Interpretation:
        """The first interpreter's explanation of a class.

        Args:
            images: ``(B, C, H, W)`` in [0, 1].
            class_idx: ``(B,)`` in [0, K); None explains the predicted classes.

        Returns:
            Logits ``(B, K)`` and map ``(B, 1, h, w)`` in [0, 1].

        Raises:
            ValueError: images or classes do not fit; see :meth:`Interpreter.explain`.
        """
        if class_idx is None:
            class_idx = self.classifier(images).argmax(1)
        return self.interpreter.explain(self.classifier, images, class_idx)

    def on_validation_epoch_start(self) -> None:
        """Reset the accuracy, for an evaluation may have been interrupted."""
        self.accuracy.reset()

    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        """Count the images that the classifier gets right; callbacks attack them.

        Args:
            batch: of B images; see :class:`~lightning_adv2.types.Batch`.
            batch_idx: its index in the epoch.
        """
        if len(batch["label"]):
            self.accuracy.update(self.classifier(batch["images"]).argmax(1) == batch["label"])

    def on_validation_epoch_end(self) -> None:
        """Log the classifier's accuracy on the benign images, in [0, 1]."""
        stage = "test" if self.trainer.testing else "val"
        self.log(f"{stage}/benign/accuracy", computed(self.trainer, self.accuracy))

    test_step = validation_step
    on_test_epoch_start = on_validation_epoch_start
    on_test_epoch_end = on_validation_epoch_end

    def predict_step(self, batch: Batch, batch_idx: int) -> Interpretation | dict[str, Interpretation]:
        """The explanation of the predicted classes; with several interpreters one explanation by each name.

        Args:
            batch: of B images; see :class:`~lightning_adv2.types.Batch`.
            batch_idx: its index in the epoch.
        """
        images = batch["images"]
        predicted = self.classifier(images).argmax(1)
        shown = {one.name: one.explain(self.classifier, images, predicted) for one in interpreters_of(self)}
        return shown if len(shown) > 1 else shown[self.interpreter.name]

    def configure_optimizers(self) -> None:
        """None: nothing is trained."""
        return None
