"""What a study studies: the networks of a run, and what is known of the run."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch

from lightning_adv2.data.evaluated import EvaluatedData, evaluated_data
from lightning_adv2.evaluation.attack_evaluation import AttackEvaluation
from lightning_adv2.interpreters import Interpreter
from lightning_adv2.models import Classifier
from lightning_adv2.modules.idls import interpreters_of
from lightning_adv2.runtime.folders import results_folder


@dataclass(frozen=True)
class Subject:
    """The networks of a loop over ``validate`` or ``test``, and where its results go.

    Attributes:
        trainer: runs the loop.
        module: has ``classifier`` and ``interpreter`` or ``interpreters``.
        classifier: in eval mode, on ``device``.
        device: where to compute.
        folder: of the run.
        stage: ``test`` or ``val``.
        data: what the loop runs over.
    """

    trainer: pl.Trainer
    module: Any
    classifier: Classifier
    device: torch.device
    folder: Path
    stage: str
    data: EvaluatedData

    @classmethod
    def of(cls, trainer: pl.Trainer, module: pl.LightningModule) -> Subject:
        """The subject of the trainer's current loop."""
        stage, data = "test" if trainer.testing else "val", evaluated_data(trainer)
        classifier: Any = module.classifier
        return cls(trainer, module, classifier, module.device, results_folder(trainer), stage, data)

    @property
    def interpreters(self) -> list[Interpreter]:
        """The module's, in eval mode."""
        return interpreters_of(self.module)

    @property
    def names(self) -> list[str]:
        """Of the interpreters."""
        return [one.name for one in self.interpreters]

    @property
    def class_titles(self) -> list[str]:
        """What people call the classes."""
        return self.data.class_titles(self.classifier.num_classes)

    @property
    def evaluation(self) -> AttackEvaluation:
        """The callback that attacked the images.

        Raises:
            ValueError: there is none.
        """
        callbacks: list[Any] = self.trainer.callbacks  # type: ignore[attr-defined]
        for one in callbacks:
            if isinstance(one, AttackEvaluation):
                return one
        raise ValueError("callbacks: there is no AttackEvaluation; add it before the studies that read its records")
