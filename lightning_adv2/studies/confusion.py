"""Which classes the classifier takes for which (the paper's Figure 18)."""

from __future__ import annotations

from typing import Any

import pytorch_lightning as pl
import torch
from pytorch_lightning.utilities import rank_zero_warn
from torch import Tensor

from lightning_adv2.data.evaluated import evaluated_data
from lightning_adv2.evaluation.stages import idle
from lightning_adv2.report.confusion import write_confusion
from lightning_adv2.report.confusion_counts import confusion_content
from lightning_adv2.runtime.exchange import gathered
from lightning_adv2.runtime.folders import results_folder
from lightning_adv2.runtime.processes import on_rank_zero


class ConfusionMatrix(pl.Callback):
    """Count true and predicted classes in ``validate`` and ``test``, for any module that has a ``classifier``.

    Writes ``confusion.json`` and ``figures/confusion.png`` and prints a table; see
    :func:`lightning_adv2.report.confusion_counts.confusion_content`. Logs ``{stage}/benign/balanced_accuracy``, ISIC
    2018's weighted multi-class accuracy. Test a data module itself: an ``AttackDataModule`` chooses images that are
    classified correctly.
    """

    def __init__(self) -> None:
        self._seen: list[Tensor] = []

    def on_test_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Start afresh."""
        if idle(trainer):
            return
        if evaluated_data(trainer).manifest is not None:
            rank_zero_warn(
                "ConfusionMatrix: the data module has chosen images that are classified correctly, so that the matrix "
                "says nothing; give its source as the data module"
            )
        self._seen = []

    def on_test_batch_end(
        self,
        trainer: pl.Trainer,
        pl_module: pl.LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Add one batch."""
        if idle(trainer) or not len(batch["label"]):
            return
        classifier: Any = pl_module.classifier
        with torch.no_grad():
            predicted = classifier(batch["images"]).argmax(1)
        self._seen.append(torch.stack([batch["label"], predicted]).cpu())

    def on_test_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Add the processes up, log, print and write."""
        if idle(trainer):
            return
        classifier: Any = pl_module.classifier
        stage, classes = (
            "test" if trainer.testing else "val",
            evaluated_data(trainer).class_titles(classifier.num_classes),
        )
        # Of each image two numbers: a matrix of ten thousand classes has a hundred million.
        own = torch.cat([torch.empty((2, 0), dtype=torch.int64), *self._seen], dim=1)
        cells = torch.cat(gathered(trainer, own), dim=1)
        counts = torch.sparse_coo_tensor(cells, torch.ones_like(cells[0]), (len(classes),) * 2, check_invariants=True)
        content = confusion_content(counts, classes, stage)
        self._seen = []
        if content["balanced_accuracy"] is not None:
            pl_module.log(f"{stage}/benign/balanced_accuracy", content["balanced_accuracy"])
        on_rank_zero(trainer, lambda: write_confusion(results_folder(trainer), content))

    on_validation_start = on_test_start
    on_validation_batch_end = on_test_batch_end
    on_validation_epoch_end = on_test_epoch_end
