"""What the interpreters' benign maps are worth, next to how robust they are."""

from __future__ import annotations

from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
from pytorch_lightning.trainer.states import TrainerFn
from pytorch_lightning.utilities import rank_zero_only
from rich.table import Table

from lightning_adv2.files import write_json
from lightning_adv2.metrics import MapQuality
from lightning_adv2.modules.idls import interpreters_of
from lightning_adv2.report.terminal import show
from lightning_adv2.runtime.folders import results_folder
from lightning_adv2.runtime.processes import wait_for_all
from lightning_adv2.runtime.signals import interruption_of


class MapQualityEvaluation(pl.Callback):
    """Measure preserved, destroyed and shuffled confidence, deletion and insertion in ``validate`` and ``test``.

    Logs ``{stage}/benign/{interpreter}/{metric}`` for each of the module's interpreters, prints a table and writes
    ``map_quality.json``. See :class:`lightning_adv2.metrics.MapQuality` for the measures.

    Args:
        order: also deletion and insertion (68 forward passes per image).
        seed: for the backgrounds and the random map.
    """

    def __init__(self, order: bool = True, seed: int = 0) -> None:
        self.order, self.seed = order, seed
        self.quality: dict[str, MapQuality] = {}

    def on_test_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Start afresh on the module's device."""
        names = [interpreter.name for interpreter in interpreters_of(pl_module)]
        self.quality = {name: MapQuality(self.order, self.seed).to(pl_module.device) for name in names}

    def on_test_batch_end(
        self,
        trainer: pl.Trainer,
        pl_module: pl.LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Add one batch."""
        if trainer.sanity_checking or not len(batch["images"]):
            return
        classifier: Any = pl_module.classifier
        images, label = batch["images"], batch["label"]
        for interpreter in interpreters_of(pl_module):
            shown = interpreter.explain(classifier, images, label).attribution_map
            quality = self.quality[interpreter.name]
            quality.update(classifier, images, label, batch["image_id"], shown, batch.get("mask"))

    def on_test_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Log, print and write the means."""
        if trainer.sanity_checking:
            return
        # The metrics' own exchange gives up after minutes, and others may still attack.
        interruption = interruption_of(trainer)
        with nullcontext() if trainer.state.fn == TrainerFn.FITTING else interruption.leaving(trainer):
            wait_for_all(trainer)
        stage = "test" if trainer.testing else "val"
        values = {name: quality.compute() for name, quality in self.quality.items()}
        for name, means in values.items():
            pl_module.log_dict({f"{stage}/benign/{name}/{key}": mean for key, mean in means.items()})
        _report(values, results_folder(trainer))

    on_validation_start = on_test_start
    on_validation_batch_end = on_test_batch_end
    on_validation_epoch_end = on_test_epoch_end


@rank_zero_only
def _report(values: dict[str, dict[str, float]], folder: Path) -> None:
    write_json(folder / "map_quality.json", values)
    table = Table(title="What the benign maps are worth", title_justify="left", title_style="bold")
    table.add_column("interpreter")
    keys = list(dict.fromkeys(key for means in values.values() for key in means))
    for key in keys:
        table.add_column(key.replace("_", " "), justify="right")
    for name, means in values.items():
        table.add_row(name, *(f"{means[key]:.3f}" if key in means else "-" for key in keys))
    show(table)
