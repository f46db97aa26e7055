"""Does the map have to show what the attack gains in the prediction? The paper's proposition 1, in numbers."""

from __future__ import annotations

from typing import Any

import pytorch_lightning as pl

from lightning_adv2.evaluation.stages import idle
from lightning_adv2.modules.idls import interpreters_of
from lightning_adv2.report.harmless import harmless
from lightning_adv2.report.proposition import (
    METRICS,
    check_batch,
    print_proposition,
    proposition_images,
    proposition_rows,
    write_proposition,
)
from lightning_adv2.results.records import record_key
from lightning_adv2.results.summary import Row
from lightning_adv2.runtime.exchange import gathered
from lightning_adv2.runtime.folders import results_folder
from lightning_adv2.runtime.processes import on_rank_zero
from lightning_adv2.runtime.signals import interruption_of
from lightning_adv2.studies.records import batches_of_this_process, evaluation_before


class PropositionEvaluation(pl.Callback):
    """Check proposition 1 (section 5.3) on the attacked images; comes after AttackEvaluation.

    Reads the records of the run, after ``validate`` and ``test``. Along the line from the benign to the attacked image,
    Integrated Gradients of the target class's probability give the difference map; the proposition says that its L1
    norm is at least what the probability gained. How loose that is (``slack``, L1 over gain) says how much the coupling
    of prediction and map binds the attacker.

    Writes ``proposition.json`` and ``figures/proposition.png``, prints a table and logs
    ``{stage}/proposition/{attack}/{interpreter}/{metric}``, without the interpreter where the attack ignores the map.
    Does nothing during ``fit``.

    Args:
        steps: points of the quadrature; each costs a gradient of the classifier per image and attack.
        tolerance: numerical error in probability that is put up with. On CIFAR-10, 128 points miss by up to 0.018 under
            attacks with epsilon 0.031, 16 points by up to 0.58.

    Raises:
        ValueError: an argument is out of range.
    """

    def __init__(self, steps: int = 128, tolerance: float = 0.02) -> None:
        if steps < 1:
            raise ValueError(f"steps={steps}: the integral takes at least 1 point; 128 is the default")
        if not 0 < tolerance < 1:
            raise ValueError(f"tolerance={tolerance}: an error in probability, in (0, 1); 0.02 is the default")
        self.steps, self.tolerance = steps, tolerance
        self.rows: list[Row] = []

    def on_validation_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Check that there will be records, before hours of attack."""
        self.rows = []
        if not idle(trainer):
            evaluation_before(trainer, self)

    def on_validation_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Integrate, each process some of the batches; write and print on one."""
        if idle(trainer):
            return
        with interruption_of(trainer).leaving(trainer):
            classifier: Any = pl_module.classifier
            names = [interpreter.name for interpreter in interpreters_of(pl_module)]
            batches = batches_of_this_process(trainer)
            own = [check_batch(classifier, records, self.steps, pl_module.device) for records in batches]
            checked = [one for process in gathered(trainer, own) for batch in process for one in batch]
            images = proposition_images(checked, names, self.tolerance)
            self.rows = proposition_rows(images)
            on_rank_zero(trainer, lambda: self._report(trainer, images))
        stage = "test" if trainer.testing else "val"
        for row in self.rows:
            prefix = "/".join([stage, "proposition", record_key(row["attack"], row["schedule"])])
            prefix += f"/{row['interpreter']}" if row["interpreter"] else ""
            values = {f"{prefix}/{name}": float(row[name]) for name in METRICS if row[name] is not None}
            pl_module.log_dict(values, rank_zero_only=True)

    on_test_start = on_validation_start
    on_test_epoch_end = on_validation_epoch_end

    def _report(self, trainer: pl.Trainer, images: list[Row]) -> bool:
        folder = results_folder(trainer)
        write_proposition(folder, images, self.rows, self.steps, self.tolerance)
        with harmless(f"the table of {folder / 'proposition.json'}"):
            print_proposition(self.rows, self.steps, self.tolerance)
        return True
