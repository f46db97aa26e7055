"""How much perturbation, and how many steps, does the attack need?"""

from __future__ import annotations

import pytorch_lightning as pl

from lightning_adv2.evaluation.stages import idle
from lightning_adv2.modules.idls import interpreters_of
from lightning_adv2.report.curves import control_rows, curve_rows, find_curves, print_curves, setting, write_curves
from lightning_adv2.report.harmless import harmless
from lightning_adv2.results.summary import Row
from lightning_adv2.runtime.processes import on_rank_zero
from lightning_adv2.runtime.signals import interruption_of
from lightning_adv2.studies.records import evaluation_before


class AttackCurves(pl.Callback):
    """Curves of success and agreement over epsilon and over the number of steps; comes after AttackEvaluation.

    Reads the records of the run, after ``validate`` and ``test``. Attacks make a curve when their names are the same
    but for an ending such as ``-eps4`` or ``-steps50`` (``adv2-eps4``), their schedule is the same, and they differ in
    epsilon alone or in the number of steps alone; attacks that differ in both make several. What cannot be varied, the
    controls, stands beside.

    Writes ``curves.json`` and ``figures/curves.png`` and prints a table. Does nothing during ``fit``.
    """

    def __init__(self) -> None:
        self.curves: list[Row] = []

    def on_validation_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Check, before hours of attack, that the attacks make a curve.

        Raises:
            ValueError: AttackEvaluation is missing or comes later, or no two attacks make a curve.
        """
        self.curves = []
        if idle(trainer):
            return
        evaluation, names = evaluation_before(trainer, self), []
        for interpreter in interpreters_of(pl_module):
            attacks = evaluation.attacks_on(interpreter)
            bounds = [getattr(one.perturbation, "epsilon", None) for one in attacks]
            found = [setting(a.name, a.schedule, e, a.steps) for a, e in zip(attacks, bounds, strict=True)]
            if find_curves(found):
                return
            names = [one.attack for one in found]
        raise ValueError(
            f"attacks: {', '.join(names)} make no curve; AttackCurves needs attacks of one schedule that differ in "
            "epsilon alone or in steps alone and are named so, such as adv2-eps4 and adv2-eps8, or adv2-steps50 and "
            "adv2-steps100"
        )

    def on_validation_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Read, write and print on one process."""
        if not idle(trainer):
            with interruption_of(trainer).leaving(trainer):
                self.curves = on_rank_zero(trainer, lambda: self._report(trainer))

    on_test_start = on_validation_start
    on_test_epoch_end = on_validation_epoch_end

    def _report(self, trainer: pl.Trainer) -> list[Row]:
        run = evaluation_before(trainer, self).run
        assert run is not None  # it has come to its end before
        curves, controls = curve_rows(run), control_rows(run)
        write_curves(run.folder, curves, controls)
        with harmless(f"the table of {run.folder / 'curves.json'}"):
            print_curves(curves, controls)
        return curves
