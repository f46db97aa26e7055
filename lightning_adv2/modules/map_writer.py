"""Files and a figure of the maps that ``predict`` computes."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

import pytorch_lightning as pl
from pytorch_lightning.callbacks import BasePredictionWriter

from lightning_adv2.data.evaluated import evaluated_data
from lightning_adv2.models import save_weights
from lightning_adv2.report.figures import map_sheet
from lightning_adv2.report.harmless import SAME, draw
from lightning_adv2.results.records import to_uint8
from lightning_adv2.runtime.folders import results_folder
from lightning_adv2.types import Interpretation


class MapWriter(BasePredictionWriter):
    """Writes each batch's maps to ``maps/`` and a figure of the first batch to ``figures/maps.png``.

    With several interpreters each has its own folder: ``maps/<interpreter>/``, ``figures/<interpreter>/``. A file holds
    ``attribution_map`` ``(n, 1, h, w)`` in [0, 1], ``predicted`` ``(n,)`` and ``confidence`` ``(n,)`` in [0, 1], the
    image ids in its metadata.
    """

    def __init__(self) -> None:
        super().__init__(write_interval="batch")

    def write_on_batch_end(
        self,
        trainer: pl.Trainer,
        pl_module: pl.LightningModule,
        prediction: Interpretation | Mapping[str, Interpretation],
        batch_indices: Sequence[int] | None,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int,
    ) -> None:
        """Write one batch's maps, and for the first batch the figure.

        For the arguments see ``pytorch_lightning.callbacks.BasePredictionWriter``.

        Raises:
            OSError: the disk is full, or the folder cannot be written.
        """
        if not len(batch["images"]):
            return
        index = batch_idx * trainer.world_size + trainer.global_rank
        several = {"": prediction} if isinstance(prediction, Interpretation) else prediction
        for name, shown in several.items():
            self._write(trainer, shown, batch, index, name)

    def on_predict_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Print the folders of maps and figures.

        For the arguments see ``pytorch_lightning.Callback``.
        """
        if trainer.is_global_zero:
            print(f"{results_folder(trainer) / 'maps'}: the maps; {results_folder(trainer) / 'figures'}: a picture")

    def _write(self, trainer: pl.Trainer, prediction: Interpretation, batch: Any, index: int, name: str) -> None:
        folder = results_folder(trainer)
        confidence, predicted = prediction.logits.softmax(1).max(1)
        tensors = {"attribution_map": prediction.attribution_map, "predicted": predicted, "confidence": confidence}
        ids = {"image_id": json.dumps(batch["image_id"])}
        save_weights(tensors, folder / "maps" / name / f"batch_{index:05d}.safetensors", ids)
        if index == 0:
            classes = evaluated_data(trainer).class_titles(prediction.logits.shape[1])
            names = [classes[k] for k in predicted.tolist()]
            make = partial(map_sheet, to_uint8(batch["images"]), prediction.attribution_map.cpu(), names)
            draw(folder / "figures" / name / "maps.png", make, SAME)
