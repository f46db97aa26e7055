"""Do the interpreters' benign maps find the object? (the paper's Table 2)"""

from __future__ import annotations

from typing import Any

import pytorch_lightning as pl
import torch

from lightning_adv2.data.evaluated import evaluated_data
from lightning_adv2.evaluation.stages import idle
from lightning_adv2.functional.validity import is_finite
from lightning_adv2.metrics.localization import Located, Object, calibrates, locate
from lightning_adv2.modules.idls import interpreters_of
from lightning_adv2.report.harmless import harmless
from lightning_adv2.report.localization import (
    Example,
    Tally,
    localization_results,
    print_localization,
    write_localization,
)
from lightning_adv2.results.records import to_uint8
from lightning_adv2.results.summary import Row
from lightning_adv2.runtime.exchange import gathered
from lightning_adv2.runtime.folders import results_folder
from lightning_adv2.runtime.processes import on_rank_zero
from lightning_adv2.runtime.signals import interruption_of

LOGGED = ("error", "iou", "mask_iou", "pointing", "energy_inside")


class LocalizationEvaluation(pl.Callback):
    """Weakly supervised localisation error of every interpreter, in ``validate`` and ``test`` (the paper's Table 2).

    Each image that the classifier gets right is explained for its true class; the map makes a box, by value, energy or
    mean thresholding, and the box is right when its IoU with one of the image's boxes is above 0.5. The error is the
    share of images with a wrong one. Rule and alpha are chosen on one part of the images, by a hash of their names,
    and the error is that of the others. Two boxes that no map made, the whole image and a central one of half its
    area, say what such an error is worth. See :mod:`lightning_adv2.functional.localization` for the rules.

    The images need ``boxes`` or a ``mask`` (a data module with ``boxes``, or drawn shapes). Images without an object
    are left out, and so are those that a box fills.

    Writes ``localization.json``, ``localization.csv`` (one row per image and interpreter) and
    ``figures/localization.png``, prints a table and logs ``{stage}/localization/{interpreter}/{metric}``. With fixed
    batches, such as the data modules yield, the results are the same for any number of processes. Does nothing during
    ``fit``.

    Args:
        calibration: share of the images to choose rule and alpha on, in (0, 1).
        max_area: leave out images with a box that takes a greater share of them, in (0, 1].
        examples: pictures in the figure: the first so many reported images.

    Raises:
        ValueError: an argument is out of range; when it starts, if the images have neither boxes nor a mask.
    """

    def __init__(self, calibration: float = 0.5, max_area: float = 0.95, examples: int = 4) -> None:
        if not 0 < calibration < 1:
            raise ValueError(f"calibration={calibration}: a share in (0, 1), such as 0.5")
        if not 0 < max_area <= 1:
            raise ValueError(f"max_area={max_area}: a share in (0, 1], such as 0.95; 1 leaves no image out")
        if examples < 0:
            raise ValueError(f"examples={examples}: give 0 (none) or more")
        self.calibration, self.max_area, self.examples = calibration, max_area, examples
        self.rows: list[Row] = []
        self._reset()

    def _reset(self) -> None:
        self._located: dict[str, list[Located]] = {}
        self._tally, self._examples = Tally(), list[Example]()

    def on_test_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Start afresh."""
        self.rows = []
        self._reset()
        self._located = {one.name: [] for one in interpreters_of(pl_module)}

    def on_test_batch_end(
        self,
        trainer: pl.Trainer,
        pl_module: pl.LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Explain those images that the classifier gets right, and locate their objects by every candidate."""
        if idle(trainer):
            return
        if batch.get("boxes") is None and batch.get("mask") is None:
            raise ValueError(
                "the images have neither 'boxes' nor 'mask', which LocalizationEvaluation compares with: give the data "
                "module boxes (a CSV with file,xmin,ymin,xmax,ymax), or take ShapesDataModule"
            )
        images, label = batch["images"], batch["label"]
        if not len(images):
            return
        classifier: Any = pl_module.classifier
        with torch.no_grad():
            logits = classifier(images)
        found = Object.of(batch.get("mask"), batch.get("boxes"), images.shape[-2:])
        right = (logits.argmax(1) == label) & is_finite(logits)
        absent, large = found.largest == 0, found.largest > self.max_area
        index = int(batch.get("batch_index", batch_idx * trainer.world_size + trainer.global_rank))
        status = torch.where(right, torch.where(absent, 2, torch.where(large, 3, 0)), 1).tolist()
        self._tally.add(batch["image_id"], status, images.shape[-2:])
        keep = (right & ~absent & ~large).nonzero()[:, 0]
        if not len(keep):
            return
        # The same images together on any number of processes: float32 results depend on what else is in a batch.
        names, images, label = [batch["image_id"][i] for i in keep.tolist()], images[keep], label[keep]
        found, maps = found.only(keep), {}
        for one in interpreters_of(pl_module):
            maps[one.name] = one.explain(classifier, images, label).attribution_map
            self._located[one.name].append(locate(maps[one.name], found, names, index))
        for i, name in enumerate(names):
            if len(self._examples) < self.examples and not calibrates(name, self.calibration):
                shown = {one: values[i].float().cpu() for one, values in maps.items()}
                self._examples.append(Example(index, i, name, to_uint8(images[i]).cpu(), shown))

    def on_test_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Gather, choose, measure; write and print on one process."""
        if idle(trainer):
            return
        with interruption_of(trainer).leaving(trainer):
            located = gathered(trainer, self._located)
            tally = Tally.joined(gathered(trainer, self._tally))
            manifest = evaluated_data(trainer).manifest
            tally.misclassified(manifest.wrong if manifest else ())  # who never came into a batch
            seen = [one for own in gathered(trainer, self._examples) for one in own]
            examples = sorted(seen, key=lambda one: (one.batch_index, one.place))[: self.examples]
            self._reset()
            parts = {name: [part for own in located for part in own[name]] for name in located[0]}
            settings = {"calibration": self.calibration, "max_area": self.max_area}
            results = localization_results(parts, tally, settings)
            self.rows = results.content["rows"]

            def report() -> bool:
                folder = results_folder(trainer)
                write_localization(folder, results, examples)
                with harmless(f"the table of {folder / 'localization.json'}"):
                    print_localization(results.content)
                return True

            on_rank_zero(trainer, report)
        stage = "test" if trainer.testing else "val"
        for row in self.rows:
            values = {name: row[name] for name in LOGGED if row.get(name) is not None}
            prefix = f"{stage}/localization/{row['interpreter']}"
            pl_module.log_dict({f"{prefix}/{name}": value for name, value in values.items()}, rank_zero_only=True)

    on_validation_start = on_test_start
    on_validation_batch_end = on_test_batch_end
    on_validation_epoch_end = on_test_epoch_end
