"""Put robustness and benign quality side by side: a resilience counts only where the maps are worth something."""

from __future__ import annotations

from typing import Any

import pytorch_lightning as pl

from lightning_adv2.evaluation.attack_evaluation import AttackEvaluation
from lightning_adv2.evaluation.stages import idle
from lightning_adv2.modules.idls import interpreters_of
from lightning_adv2.report.harmless import harmless
from lightning_adv2.report.resilience import resilience_rows
from lightning_adv2.report.resilience_files import NUMBERS, print_resilience, read_evaluation, write_resilience
from lightning_adv2.results.records import BENIGN, record_key
from lightning_adv2.results.summary import Row
from lightning_adv2.runtime.folders import results_folder
from lightning_adv2.runtime.processes import on_rank_zero
from lightning_adv2.runtime.signals import interruption_of
from lightning_adv2.studies.map_quality import MapQualityEvaluation
from lightning_adv2.studies.noise import NoiseEvaluation
from lightning_adv2.studies.transfer import TransferEvaluation


class ResilienceReport(pl.Callback):
    """Rank the interpreters of an evaluation by how they resist, if their benign maps hold; comes last in the list.

    Reads what MapQualityEvaluation and AttackEvaluation wrote, and the files of NoiseEvaluation and TransferEvaluation
    where they are among the callbacks. Writes ``resilience.json``, ``resilience.csv`` and ``figures/resilience.png``,
    prints a table and logs ``{stage}/resilience/{interpreter}/{key}``. Does nothing during ``fit``. See
    :func:`lightning_adv2.report.resilience.resilience_rows` for the rules.

    Args:
        reference: the interpreter whose benign maps set the standard.
        tolerance: the share of a benign measure that may be lost against it.
        max_agreement_l1: how far the maps of its variants (named ``<reference>_...``) may be from its own, map L1.

    Raises:
        ValueError: a limit is negative.
    """

    def __init__(self, reference: str = "rts", tolerance: float = 0.05, max_agreement_l1: float = 0.05) -> None:
        for name, limit in (("tolerance", tolerance), ("max_agreement_l1", max_agreement_l1)):
            if not limit >= 0:
                raise ValueError(f"{name}={limit}: give a limit of 0 or more; 0.05 is the default")
        self.reference, self.tolerance, self.max_agreement_l1 = reference, tolerance, max_agreement_l1
        self.rows: list[Row] = []

    def on_validation_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Check, before hours of attack, that there will be something to read.

        Raises:
            ValueError: a callback is missing, comes too late or measures too little; or an attack aims at another map
                than the benign one.
        """
        if idle(trainer):
            return
        callbacks: list[Any] = trainer.callbacks  # type: ignore[attr-defined]
        before = callbacks[: callbacks.index(self)]
        for kind in (MapQualityEvaluation, AttackEvaluation):
            if not any(isinstance(callback, kind) for callback in before):
                raise ValueError(
                    f"callbacks: ResilienceReport reads what {kind.__name__} writes; list it after that one"
                )
        for one in callbacks[len(before) :]:
            if isinstance(one, (NoiseEvaluation, TransferEvaluation)):
                raise ValueError(
                    f"callbacks: {type(one).__name__} comes after ResilienceReport, which reads what it writes; list "
                    "it before that one"
                )
        for one in before:
            if isinstance(one, AttackEvaluation) and one.target.name != BENIGN:
                raise ValueError(
                    f"target: AttackEvaluation aims at the map {one.target.name!r}, and an IoU with that says nothing "
                    "of how far the map stays as it was, which ResilienceReport ranks by; leave target out (the benign "
                    "map), or leave out ResilienceReport"
                )
        quality = next(callback for callback in before if isinstance(callback, MapQualityEvaluation))
        if (quality.order, quality.randomise, quality.reference) != (True, True, self.reference):
            raise ValueError(
                f"callbacks: ResilienceReport(reference={self.reference!r}) needs all checks of the benign maps: "
                f"MapQualityEvaluation(order=True, reference={self.reference!r}, randomise=True)"
            )

    def on_validation_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Read, judge, write and print on one process; all log the same."""
        if idle(trainer):
            return
        with interruption_of(trainer).leaving(trainer):
            self.rows = on_rank_zero(trainer, lambda: self._report(trainer, pl_module))
        stage = "test" if trainer.testing else "val"
        for row in self.rows:
            values = {key: float(row[key]) for key in (*NUMBERS, "rank", "counts") if row[key] is not None}
            prefix = f"{stage}/resilience/{row['interpreter']}"
            pl_module.log_dict({f"{prefix}/{key}": value for key, value in values.items()}, rank_zero_only=True)

    on_test_start = on_validation_start
    on_test_epoch_end = on_validation_epoch_end

    def _report(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> list[Row]:
        folder = results_folder(trainer)
        settings: dict[str, Any] = {
            "reference": self.reference,
            "tolerance": self.tolerance,
            "max_agreement_l1": self.max_agreement_l1,
        }
        evaluation = read_evaluation(folder)
        callbacks: list[Any] = trainer.callbacks  # type: ignore[attr-defined]
        for name, writer in (("noise", NoiseEvaluation), ("transfer", TransferEvaluation)):
            if not any(isinstance(callback, writer) for callback in callbacks):
                evaluation[name] = []  # what lies there is of an earlier run
        rows = resilience_rows(**evaluation, **settings, blind=self._blind(trainer, pl_module))
        write_resilience(folder, rows, settings)
        with harmless(f"the table of {folder / 'resilience.json'}"):
            print_resilience(rows, self.reference)
        return rows

    def _blind(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> list[str]:
        """The attacks that ignore the map, as they themselves say."""
        callbacks: list[Any] = trainer.callbacks  # type: ignore[attr-defined]
        evaluation = next(callback for callback in callbacks if isinstance(callback, AttackEvaluation))
        first = interpreters_of(pl_module)[0]
        return [record_key(one.name, one.schedule) for one in evaluation.attacks_on(first) if not one.needs_map]
