"""What an interpreter's benign maps are worth, next to how robust they are."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
from pytorch_lightning.utilities import rank_zero_only
from rich.table import Table

from lightning_adv2.metrics import MapQuality
from lightning_adv2.report.tables import show


class MapQualityEvaluation(pl.Callback):
    """Measure preserved, destroyed and shuffled confidence, deletion and insertion in ``validate`` and ``test``.

    Logs ``{stage}/benign/{interpreter}/{metric}``, prints a table and writes ``map_quality.json``. See
    :class:`lightning_adv2.metrics.MapQuality` for the measures.

    Args:
        order: also deletion and insertion (68 forward passes per image).
        seed: for the backgrounds and the random map.
    """

    def __init__(self, order: bool = True, seed: int = 0) -> None:
        self.quality = MapQuality(order, seed)

    def on_test_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Start afresh on the module's device."""
        self.quality.to(pl_module.device).reset()

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
        interpreter: Any = pl_module.interpreter
        shown = interpreter.explain(classifier, batch["images"], batch["label"]).attribution_map
        self.quality.update(classifier, batch["images"], batch["label"], batch["image_id"], shown, batch.get("mask"))

    def on_test_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Log, print and write the means."""
        if trainer.sanity_checking:
            return
        interpreter: Any = pl_module.interpreter
        values = self.quality.compute()
        stage = "test" if trainer.testing else "val"
        pl_module.log_dict({f"{stage}/benign/{interpreter.name}/{key}": value for key, value in values.items()})
        _report(values, interpreter.name, Path(trainer.default_root_dir))

    on_validation_start = on_test_start
    on_validation_batch_end = on_test_batch_end
    on_validation_epoch_end = on_test_epoch_end


@rank_zero_only
def _report(values: dict[str, float], interpreter: str, folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "map_quality.json").write_text(json.dumps({interpreter: values}, indent=1) + "\n", encoding="utf-8")
    table = Table(title=f"{interpreter}: what the benign maps are worth", title_justify="left", title_style="bold")
    for key in values:
        table.add_column(key.replace("_", " "), justify="right")
    table.add_row(*(f"{value:.3f}" for value in values.values()))
    show(table)
