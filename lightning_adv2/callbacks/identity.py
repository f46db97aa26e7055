"""What an evaluation's results depend on, for the folder that keeps them."""

from __future__ import annotations

import hashlib
from typing import Any

import pytorch_lightning as pl

from lightning_adv2 import __version__
from lightning_adv2.modules.idls import interpreters_of
from lightning_adv2.report.records import FORMAT
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
        "dataset": str(getattr(source, "name", "data")),
        "classifier": str(classifier.name),
        "classes": list(getattr(source, "class_titles", None) or map(str, range(classifier.num_classes))),
        "stage": "test" if trainer.testing else "val",
        "selected": len(manifest.entries) if manifest else None,
        "passed_over": manifest.passed_over() if manifest else {},
    }
    return experiment, about
