"""The identity of an evaluation: everything that its results depend on, for the folder that keeps them."""

from __future__ import annotations

import shutil
from typing import Any

import pytorch_lightning as pl

from lightning_adv2 import __version__
from lightning_adv2.data.evaluated import evaluated_data
from lightning_adv2.files.run import experiments_of, stray_lines
from lightning_adv2.modules.idls import interpreters_of
from lightning_adv2.results.records import FORMAT
from lightning_adv2.runtime.describe import describe
from lightning_adv2.runtime.experiment import claim
from lightning_adv2.runtime.folders import continues, results_folder


def identity(
    trainer: pl.Trainer, pl_module: pl.LightningModule, settings: dict[str, Any]
) -> tuple[dict[str, Any], dict[str, Any]]:
    """The experiment, and the facts that reports show besides; see ``runtime.experiment.claim``.

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


def claim_folder(trainer: pl.Trainer, pl_module: pl.LightningModule, settings: dict[str, Any]) -> str:
    """Write the experiment into the run's folder, or check that it is the folder's; returns the experiment's hash.

    A rehearsal and a validation inside ``fit`` start without records.

    Args:
        trainer: runs the evaluation.
        pl_module: has ``classifier`` and ``interpreter`` or ``interpreters``.
        settings: see :func:`identity`.

    Raises:
        ValueError: the folder holds records of another experiment; names what differs.
    """
    folder = results_folder(trainer) / "records"
    if not continues(trainer):
        shutil.rmtree(folder, ignore_errors=True)
    for rest in folder.glob("*/.*.tmp"):  # of killed processes
        rest.unlink(missing_ok=True)
    experiment, about = identity(trainer, pl_module, settings)
    own = claim(folder, experiment, about, experiments_of(folder))
    for line in stray_lines(folder):
        print(line, flush=True)
    return own


def num_batches(trainer: pl.Trainer) -> int | None:
    """The number of batches on all processes together; None where the loader does not number its batches."""
    loader: Any = trainer.test_dataloaders if trainer.testing else trainer.val_dataloaders
    batches = getattr(loader, "batches", None) or getattr(loader, "dataset", None)
    return getattr(batches, "num_batches", None)
