"""What an evaluation's results depend on, for the folder that keeps them."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch

from lightning_adv2 import __version__
from lightning_adv2.modules.idls import interpreters_of
from lightning_adv2.report.records import FORMAT, BatchRecord, to_uint8
from lightning_adv2.runtime.describe import describe
from lightning_adv2.types import Batch


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
    data: Any = getattr(trainer, "datamodule", None)
    source, manifest = getattr(data, "source", data), getattr(data, "manifest", None)
    classifier: Any = pl_module.classifier
    experiment = {
        "classifier": describe(classifier),
        "interpreters": {one.name: describe(one) for one in interpreters_of(pl_module)},
        **settings,
        "manifest": manifest and hashlib.sha256(manifest.to_json().encode()).hexdigest(),
        "batch_size": getattr(data, "batch_size", None),
        "precision": str(trainer.precision),
        "format": FORMAT,
        "version": __version__,
    }
    about = {
        # As it was when the images were chosen: the default is a folder's name, and that may be another one today.
        "dataset": manifest.dataset if manifest else str(getattr(source, "name", "data")),
        "classifier": str(classifier.name),
        "classes": class_titles(trainer, classifier.num_classes),
        "stage": "test" if trainer.testing else "val",
        "selected": len(manifest.entries) if manifest else None,
        "passed_over": manifest.passed_over() if manifest else {},
    }
    return experiment, about


def class_titles(trainer: pl.Trainer, count: int) -> list[str]:
    """What people call the classes: as the data module has it, or their numbers."""
    data: Any = getattr(trainer, "datamodule", None)
    return list(getattr(getattr(data, "source", data), "class_titles", None) or map(str, range(count)))


def num_batches(trainer: pl.Trainer) -> int | None:
    """How many batches there are on all processes, where the loader knows; they have fixed numbers then."""
    loader: Any = trainer.test_dataloaders if trainer.testing else trainer.val_dataloaders
    batches = getattr(loader, "batches", None) or getattr(loader, "dataset", None)
    return getattr(batches, "num_batches", None)


def check_same_images(record: BatchRecord, batch: Batch, path: Path) -> None:
    """Compare the record of an earlier run with the batch that it is said to be of.

    Raises:
        RuntimeError: other images, pixels, labels or target classes.
    """
    names = batch["image_id"]
    same = {*record.image_id, *record.already_wrong, *record.invalid} == set(names)
    if same:
        rows = [names.index(name) for name in record.image_id]
        same = torch.equal(record.images, to_uint8(batch["images"][rows]))
        same &= torch.equal(record.label, batch["label"][rows].cpu())
        same &= "target_class" not in batch or torch.equal(record.target_class, batch["target_class"][rows].cpu())
    if not same:
        raise RuntimeError(
            f"{path} is of other images than this batch: they have changed, or the loader yields other batches than "
            "before. Put them back, take a data module with a fixed order such as AttackDataModule, or another folder"
        )
