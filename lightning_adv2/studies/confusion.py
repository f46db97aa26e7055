"""Confusion matrix: how many images of each class are classified as which (the paper's Figure 18)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from matplotlib.figure import Figure
from pytorch_lightning.utilities import rank_zero_warn
from torch import Tensor

from lightning_adv2.report.confusion import confusion_content, confusion_figure, confusion_tables
from lightning_adv2.report.findings import Findings
from lightning_adv2.report.table import Column, Table
from lightning_adv2.studies.base import Study
from lightning_adv2.studies.subject import Subject


class ConfusionMatrix(Study):
    """True and predicted classes, counted for any module that has a ``classifier``.

    See :func:`lightning_adv2.report.confusion.confusion_content` for what is counted. Logs
    ``{stage}/benign/balanced_accuracy``, ISIC 2018's weighted multi-class accuracy. Test a data module itself: an
    ``AttackDataModule`` chooses images that are classified correctly.
    """

    name = "confusion"
    title = "Confusion matrix"
    position = 100
    columns = (
        Column("class", "true class"),
        Column("images", "", ","),
        Column("recall", "", ".1%"),
        Column("precision", "", ".1%"),
    )
    reads = "batches"
    needs = ()

    def check(self, subject: Subject) -> None:
        """Warn where the images are chosen by how they are classified."""
        if subject.data.manifest is not None:
            rank_zero_warn(
                "ConfusionMatrix: the data module has chosen images that are classified correctly, so that the matrix "
                "says nothing; give its source as the data module"
            )

    def observe(self, batch: Any, subject: Subject) -> list[Tensor]:
        """True and predicted class of each image, ``(2, B)``: a matrix of ten thousand classes has 1e8 numbers."""
        with torch.no_grad():
            predicted = subject.classifier(batch["images"]).argmax(1)
        return [torch.stack([batch["label"], predicted]).cpu()]

    def summarise(self, observed: Sequence[Tensor], subject: Subject) -> Findings:
        """One row per class, and the cells of the matrix."""
        cells, count = torch.cat([torch.empty((2, 0), dtype=torch.int64), *observed], dim=1), len(subject.class_titles)
        counts = torch.sparse_coo_tensor(cells, torch.ones_like(cells[0]), (count, count), check_invariants=True)
        return confusion_content(counts, subject.class_titles, subject.stage)

    @classmethod
    def tables(cls, findings: Findings) -> list[Table]:
        """Counts of few classes; of many the worst, and the largest confusions."""
        return confusion_tables(findings)

    @classmethod
    def figure(cls, findings: Findings) -> Figure | None:
        """The matrix, or blocks of many classes."""
        return confusion_figure(findings)

    def scalars(self, stage: str) -> dict[str, float]:
        """The balanced accuracy, if there are images."""
        value = self.findings.settings["balanced_accuracy"] if self.findings else None
        return {} if value is None else {f"{stage}/benign/balanced_accuracy": value}
