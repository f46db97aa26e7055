"""Does an attack on one classifier fool others, and what do their maps look like then?"""

from __future__ import annotations

from typing import Any

import pytorch_lightning as pl
import torch

from lightning_adv2.evaluation.stages import idle
from lightning_adv2.models import Classifier, weights_hash
from lightning_adv2.modules.idls import interpreters_of
from lightning_adv2.report.classifier_transfer import METRICS, Judged, judge_records, transfer_rows
from lightning_adv2.report.classifier_transfer_files import print_classifier_transfer, write_classifier_transfer
from lightning_adv2.report.harmless import harmless
from lightning_adv2.results.records import check_name, record_key
from lightning_adv2.results.summary import Row
from lightning_adv2.runtime.exchange import gathered
from lightning_adv2.runtime.folders import results_folder
from lightning_adv2.runtime.processes import on_rank_zero
from lightning_adv2.runtime.signals import interruption_of
from lightning_adv2.studies.records import batches_of_this_process, evaluation_before


class ClassifierTransferEvaluation(pl.Callback):
    """Show attacked images to classifiers that the attack did not aim at; comes after AttackEvaluation.

    Reads the records of the run, after ``validate`` and ``test``. Each classifier sees the images of every attack: are
    they taken for the target class, are they still taken for the true one, and how far is the map of the class that is
    predicted from the classifier's own benign map? An interpreter goes along to the other classifiers unless it has
    weights of its own (RTS, students), whose maps are left out, with the reason. An image counts for a classifier that
    gets it right when benign.

    Writes ``classifier_transfer.json`` and ``figures/classifier_transfer.png``, prints a table and logs
    ``{stage}/classifier_transfer/{attack}/{interpreter}/{classifier}/{metric}``. Does nothing during ``fit``.

    Args:
        classifiers: other ones for the same classes, with their weights.
        names: for tables and log keys; None takes the classifiers' own, such as ``resnet56``.

    Raises:
        ValueError: no classifier, or names that are not one for each, all different.
    """

    def __init__(self, classifiers: list[Classifier], names: list[str] | None = None) -> None:
        own = [one.name for one in classifiers] if names is None else names
        if not own or len(own) != len(classifiers) or len(set(own)) < len(own):
            raise ValueError(
                f"classifiers: got {len(classifiers)}, named {', '.join(own) or 'nothing'}; give one or more, and a "
                "different name for each (names)"
            )
        for name in own:
            check_name("names", name)
        self.classifiers = dict(zip(own, (one.requires_grad_(False).eval() for one in classifiers), strict=True))
        self.rows: list[Row] = []

    def on_validation_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Check, before hours of attack, that there will be records and that the classifiers are for the same classes.

        Raises:
            ValueError: AttackEvaluation is missing or comes later; a classifier has another number of classes, or the
                attacked one's name.
        """
        self.rows = []
        if idle(trainer):
            return
        evaluation_before(trainer, self)
        attacked: Any = pl_module.classifier
        for name, classifier in self.classifiers.items():
            if name == attacked.name:
                raise ValueError(f"names: {name!r} is the attacked classifier's name; give another (names)")
            if classifier.num_classes != attacked.num_classes:
                raise ValueError(
                    f"classifiers: {name} has {classifier.num_classes} classes and the attacked {attacked.name} has "
                    f"{attacked.num_classes}; give classifiers for the same classes in the same order"
                )

    def on_validation_batch_start(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, batch: Any, batch_idx: int, dataloader_idx: int = 0
    ) -> None:
        """Show the first image to the classifiers, before it is attacked.

        Raises:
            ValueError: one of them does not take such images.
        """
        if idle(trainer) or batch_idx or not len(batch["images"]):
            return
        for name, classifier in self.classifiers.items():
            try:
                with torch.no_grad():
                    classifier.to(pl_module.device)(batch["images"][:1])
            except RuntimeError as error:
                size = tuple(batch["images"].shape[1:])
                raise ValueError(f"classifiers: {name} does not take images of shape {size}: {error}") from error

    def on_validation_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Classify and explain, each process some of the batches; write and print on one."""
        if idle(trainer):
            return
        attacked: Any = pl_module.classifier
        with interruption_of(trainer).leaving(trainer):
            others = {name: one.to(pl_module.device) for name, one in self.classifiers.items()}
            batches = batches_of_this_process(trainer)
            own = judge_records(attacked.name, others, interpreters_of(pl_module), batches, pl_module.device)
            parts = gathered(trainer, own)
            self.rows = transfer_rows(one for part in parts for one in part.seen)
            on_rank_zero(trainer, lambda: self._report(trainer, attacked, parts))
        stage = "test" if trainer.testing else "val"
        for row in self.rows:
            attack = record_key(row["attack"], row["schedule"])
            prefix = f"{stage}/classifier_transfer/{attack}/{row['interpreter']}/{row['classifier']}"
            values = {f"{prefix}/{name}": row[name] for name in METRICS if row[name] is not None}
            pl_module.log_dict(values, rank_zero_only=True)

    on_test_start = on_validation_start
    on_test_batch_start = on_validation_batch_start
    on_test_epoch_end = on_validation_epoch_end

    def _report(self, trainer: pl.Trainer, attacked: Classifier, parts: list[Judged]) -> bool:
        classifiers: list[Row] = [{"name": attacked.name, "sha256": weights_hash(attacked)}]
        for name, one in self.classifiers.items():
            counts = {key: len(set().union(*(getattr(p, key)[name] for p in parts))) for key in ("asked", "right")}
            classifiers.append({"name": name, "sha256": weights_hash(one), **counts})
        reasons = {key: reason for part in parts for key, reason in sorted(part.skipped.items())}
        skipped: list[Row] = [
            {"classifier": classifier, "interpreter": interpreter, "reason": reasons[classifier, interpreter]}
            for classifier, interpreter in sorted(reasons)
        ]
        folder = results_folder(trainer)
        write_classifier_transfer(folder, classifiers, self.rows, skipped)
        with harmless(f"the table of {folder / 'classifier_transfer.json'}"):
            print_classifier_transfer(classifiers, self.rows, skipped)
        return True
