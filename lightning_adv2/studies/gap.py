"""Can the attacker choose the map at will? The paper's prediction-interpretation gap."""

from __future__ import annotations

import pytorch_lightning as pl

from lightning_adv2.evaluation.finished_records import evaluation_before
from lightning_adv2.evaluation.stages import idle
from lightning_adv2.report.gap import gap_rows, print_gap, write_gap
from lightning_adv2.report.harmless import harmless
from lightning_adv2.results.records import BENIGN, read_records
from lightning_adv2.results.summary import Row
from lightning_adv2.runtime.folders import results_folder
from lightning_adv2.runtime.processes import on_rank_zero
from lightning_adv2.runtime.signals import interruption_of


class GapEvaluation(pl.Callback):
    """Agreement with a target map that has nothing to do with the image (section 5.2); comes after AttackEvaluation.

    Reads the records of the run, after ``validate`` and ``test``: how near the benign image's own map is to the target
    map, which is the level of chance, and how near it is under each attack.

    Writes ``gap.json`` and ``figures/gap.png`` and prints a table. Does nothing during ``fit``.
    """

    def __init__(self) -> None:
        self.rows: list[Row] = []

    def on_validation_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Check, before hours of attack, that there will be records with a target map of another origin.

        Raises:
            ValueError: AttackEvaluation is missing or comes later, or aims at the benign map.
        """
        self.rows = []
        if not idle(trainer) and evaluation_before(trainer, self).target.name == BENIGN:
            raise ValueError(
                "target: AttackEvaluation aims at the benign map, with which the benign image agrees as it is; "
                "GapEvaluation needs a target such as attacks.RandomPatch or attacks.RandomClass"
            )

    def on_validation_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Read, write and print on one process."""
        if not idle(trainer):
            with interruption_of(trainer).leaving(trainer):
                self.rows = on_rank_zero(trainer, lambda: self._report(trainer))

    on_test_start = on_validation_start
    on_test_epoch_end = on_validation_epoch_end

    def _report(self, trainer: pl.Trainer) -> list[Row]:
        folder = results_folder(trainer)
        rows = gap_rows(read_records(folder / "records"))
        write_gap(folder, rows)
        with harmless(f"the table of {folder / 'gap.json'}"):
            print_gap(rows)
        return rows
