"""What an evaluation's results depend on, for the folder that keeps them."""

from __future__ import annotations

from typing import Any

import pytorch_lightning as pl

from lightning_adv2 import __version__
from lightning_adv2.data.evaluated import evaluated_data
from lightning_adv2.modules.idls import interpreters_of
from lightning_adv2.results.records import FORMAT
from lightning_adv2.runtime.describe import describe


def identity(
    trainer: pl.Trainer, pl_module: pl.LightningModule, settings: dict[str, Any]
) -> tuple[dict[str, Any], dict[str, Any]]:
    """The experiment, and what reports want to know about it besides; see ``runtime.experiment.claim``.

    The number of processes, the device and where data and weights lie are no part of it: a run may be continued on
    another machine.

    Args:
        trainer: runs the evaluation.
        pl_module: has ``classifier`` and ``interpreter`` or ``interpreters``.
        settings: the callback's own, as plain data.
    """
    data = evaluated_data(trainer)
    manifest = data.manifest
    classifier: Any = pl_module.classifier
    experiment = {
        "classifier": describe(classifier),
        "interpreters": {one.name: describe(one) for one in interpreters_of(pl_module)},
        **settings,
        "manifest": manifest and manifest.sha256,
        "batch_size": getattr(data.module, "batch_size", None),
        "precision": str(trainer.precision),
        "format": FORMAT,
        "version": __version__,
    }
    about = {
        # As it was when the images were chosen: the default is a folder's name, and that may be another one today.
        "dataset": manifest.dataset if manifest else str(getattr(data.source, "name", "data")),
        "classifier": str(classifier.name),
        "classes": data.class_titles(classifier.num_classes),
        "stage": "test" if trainer.testing else "val",
        "selected": len(manifest.entries) if manifest else None,
        "passed_over": manifest.passed_over() if manifest else {},
    }
    return experiment, about


def num_batches(trainer: pl.Trainer) -> int | None:
    """How many batches there are on all processes, where the loader knows; they have fixed numbers then."""
    loader: Any = trainer.test_dataloaders if trainer.testing else trainer.val_dataloaders
    batches = getattr(loader, "batches", None) or getattr(loader, "dataset", None)
    return getattr(batches, "num_batches", None)
