"""Does an attack on one interpreter fool the others?"""

from __future__ import annotations

from functools import partial
from typing import Any

import pytorch_lightning as pl

from lightning_adv2.data.evaluated import evaluated_data
from lightning_adv2.evaluation.stages import idle
from lightning_adv2.interpreters import Interpreter
from lightning_adv2.interpreters.checks import check_module
from lightning_adv2.modules.idls import interpreters_of
from lightning_adv2.report.example_maps import transfer_maps
from lightning_adv2.report.harmless import SAME, draw, harmless
from lightning_adv2.report.transfer import (
    METRICS,
    Cells,
    judge_batch,
    print_transfer,
    transfer_rows,
    write_transfer,
)
from lightning_adv2.results.records import check_name, record_key
from lightning_adv2.results.summary import Row
from lightning_adv2.runtime.exchange import gathered
from lightning_adv2.runtime.folders import results_folder
from lightning_adv2.runtime.processes import on_rank_zero
from lightning_adv2.runtime.signals import interruption_of
from lightning_adv2.studies.records import batches_of_this_process, evaluation_before


class TransferEvaluation(pl.Callback):
    """Explain attacked images by the interpreters that the attack did not aim at; comes after AttackEvaluation.

    Reads the records of the run, after ``validate`` and ``test``. The adversarial images of every attack that aims at
    the map of one interpreter, ``source``, are explained by each other interpreter of the module, for the class that
    the classifier predicts on them, and compared with that interpreter's own benign map. Where it is the source itself,
    that is what the attack's own table has: its ``l1`` and ``iou``, or where the target is not the benign map its
    ``l1_benign`` and ``iou_benign``. Images count that both interpreters can explain.

    Writes ``transfer.json``, ``figures/transfer.png`` and, of one image, ``figures/transfer_maps.png`` (Figure 14),
    prints a matrix for each attack and logs
    ``{stage}/transfer/{source}/{attack}/{interpreter}/{metric}``. Does nothing during ``fit``.

    Args:
        judges: interpreters that are not attacked, and explain all the same: those without a right gradient, such as
            captum's. They are no part of the module, and other judges may look at the same records later. Judges also
            explain the images of the attacks that aim at no map and of the noise control, whose source is ``none``.

    Raises:
        TypeError: a judge is no Interpreter.
        ValueError: two judges share a name.
    """

    def __init__(self, judges: list[Interpreter] | None = None) -> None:
        self.judges = list(judges or [])
        for judge in self.judges:
            check_module("judges", judge, Interpreter)
            check_name("judges", judge.name)
            judge.requires_grad_(False).eval()
        self._check_names([])
        self.rows: list[Row] = []

    def on_validation_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Check, before hours of attack, that there will be records.

        Raises:
            ValueError: AttackEvaluation is missing or comes later; a judge has an attacked interpreter's name.
        """
        self.rows = []
        if idle(trainer):
            return
        evaluation_before(trainer, self)
        self._check_names([one.name for one in interpreters_of(pl_module)])

    def on_validation_batch_start(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, batch: Any, batch_idx: int, dataloader_idx: int = 0
    ) -> None:
        """Let the judges explain the first image before it is attacked: what they refuse comes up at once."""
        if idle(trainer) or batch_idx or not len(batch["images"]):
            return
        classifier: Any = pl_module.classifier
        for judge in self._judges_on(pl_module):
            judge.explain(classifier, batch["images"][:1], batch["label"][:1])

    def on_validation_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Explain, each process some of the batches; write and print on one."""
        if idle(trainer):
            return
        with interruption_of(trainer).leaving(trainer):
            names = [one.name for one in (*interpreters_of(pl_module), *self.judges)]
            cells = gathered(trainer, self._judge(trainer, pl_module))
            self.rows = transfer_rows([part for own in cells for part in own], names)
            on_rank_zero(trainer, lambda: self._report(trainer))
        stage = "test" if trainer.testing else "val"
        for row in self.rows:
            attack = record_key(row["attack"], row["schedule"])
            prefix = f"{stage}/transfer/{row['source']}/{attack}/{row['interpreter']}"
            values = {f"{prefix}/{name}": row[name] for name in METRICS if row[name] is not None}
            pl_module.log_dict(values, rank_zero_only=True)

    on_test_start = on_validation_start
    on_test_batch_start = on_validation_batch_start
    on_test_epoch_end = on_validation_epoch_end

    def _check_names(self, attacked: list[str]) -> None:
        names = [*attacked, *(judge.name for judge in self.judges)]
        twice = sorted({name for name in names if names.count(name) > 1})
        if twice:
            raise ValueError(
                f"judges: {', '.join(twice)} stands for two interpreters; a judge needs a name of its own, which no "
                "attacked interpreter has: set its attribute 'name'"
            )

    def _judges_on(self, pl_module: pl.LightningModule) -> list[Interpreter]:
        """The judges, beside the victim and in its precision."""
        return [judge.to(pl_module.device, pl_module.dtype) for judge in self.judges]  # type: ignore[arg-type]

    def _judge(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> list[Cells]:
        """The cells of every W-th batch, from the records of all interpreters."""
        classifier: Any = pl_module.classifier
        interpreters, judges = interpreters_of(pl_module), self._judges_on(pl_module)
        cells = []
        for records in batches_of_this_process(trainer):
            cells.append(judge_batch(classifier, interpreters, records, pl_module.device, judges))
            if trainer.is_global_zero and len(cells) == 1:
                classes = evaluated_data(trainer).class_titles(classifier.num_classes)
                make = partial(transfer_maps, classifier, interpreters, records, classes, pl_module.device, judges)
                draw(results_folder(trainer) / "figures" / "transfer_maps.png", make, SAME)
        return cells

    def _report(self, trainer: pl.Trainer) -> bool:
        folder = results_folder(trainer)
        write_transfer(folder, self.rows)
        with harmless(f"the table of {folder / 'transfer.json'}"):
            print_transfer(self.rows)
        return True
