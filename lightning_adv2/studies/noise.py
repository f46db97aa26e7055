"""How far do maps move when nobody attacks, and the image is only noisy?"""

from __future__ import annotations

from functools import partial
from typing import Any

import pytorch_lightning as pl

from lightning_adv2.data.evaluated import evaluated_data
from lightning_adv2.evaluation.stages import idle
from lightning_adv2.functional.noise import KINDS, Kind
from lightning_adv2.modules.idls import interpreters_of
from lightning_adv2.report import noise
from lightning_adv2.report.example_maps import noise_maps
from lightning_adv2.report.harmless import SAME, draw, harmless
from lightning_adv2.results.records import to_uint8
from lightning_adv2.results.summary import Row
from lightning_adv2.runtime.exchange import gathered
from lightning_adv2.runtime.folders import results_folder
from lightning_adv2.runtime.processes import on_rank_zero
from lightning_adv2.runtime.signals import interruption_of


class NoiseEvaluation(pl.Callback):
    """Sensitivity of the maps to plain noise, in ``validate`` and ``test`` (the paper's Figure 15).

    The level of the noise is found by search: that at which the classifier misclassifies these shares of the images
    that it gets right without noise. Then every interpreter of the module explains the noisy images, for the true class
    (``l1``, ``iou``: only the image differs) and for the predicted one (``l1_predicted``, ``iou_predicted``), and each
    map is compared with that of the benign image for the true class.

    Writes ``noise.json``, ``figures/noise.png`` and, with images that it misleads, ``figures/noise_maps.png``, prints a
    table and logs ``{stage}/noise/{kind}-{rate}/{interpreter}/{metric}``. With an AttackDataModule, whose batches are
    fixed, the results are the same for any number of processes. Does nothing during ``fit``.

    Args:
        rates: shares of misclassified images, in (0, 1]; with few images the next that can be reached above.
        kinds: of noise: ``normal``, ``uniform``.
        max_images: take the first so many that the classifier gets right; None takes all.
        seed: for the noise's direction, which is drawn per image.

    Raises:
        ValueError: an argument is out of range.
    """

    def __init__(
        self,
        rates: tuple[float, ...] = (0.03, 0.30),
        kinds: tuple[Kind, ...] = KINDS,
        max_images: int | None = 256,
        seed: int = 0,
    ) -> None:
        if not rates or len(set(rates)) < len(rates) or not all(0 < rate <= 1 for rate in rates):
            raise ValueError(f"rates={rates}: one or more different shares in (0, 1]; the paper takes 0.03 and 0.30")
        if not kinds or len(set(kinds)) < len(kinds) or not set(kinds) <= set(KINDS):
            raise ValueError(f"kinds={kinds}: one or more of {', '.join(KINDS)}, each once")
        if max_images is not None and max_images < 1:
            raise ValueError(f"max_images={max_images}: give at least 1, or None for all")
        self.rates, self.kinds, self.max_images, self.seed = tuple(rates), tuple(kinds), max_images, seed
        self.levels: list[Row] = []
        self.rows: list[Row] = []
        self._parts: list[noise.Correct] = []

    def on_test_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Start afresh."""
        self.levels, self.rows, self._parts = [], [], []

    def on_test_batch_end(
        self,
        trainer: pl.Trainer,
        pl_module: pl.LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Keep those images that the classifier gets right, as long as they may be among the first."""
        if idle(trainer) or not len(batch["images"]):
            return
        # Batches come in ascending order, so that what this process has is ahead of all that it will see.
        found = {name for part in self._parts for name in part.image_id}
        if self.max_images is not None and len(found) >= self.max_images:
            return
        classifier: Any = pl_module.classifier
        right = noise.predict(classifier, batch["images"], batch["label"])[1].nonzero()[:, 0]
        index = batch.get("batch_index", batch_idx * trainer.world_size + trainer.global_rank)
        names = [batch["image_id"][i] for i in right.tolist()]
        images, label = to_uint8(batch["images"][right]), batch["label"][right].cpu()
        self._parts.append(noise.Correct(index, names, label, images))

    def on_test_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Search and measure, each process on its own images; write and print on one."""
        if idle(trainer):
            return
        with interruption_of(trainer).leaving(trainer):
            self._evaluate(trainer, pl_module)
            on_rank_zero(trainer, lambda: self._report(trainer))
        stage = "test" if trainer.testing else "val"
        for row in self.rows:
            prefix = f"{stage}/noise/{row['kind']}-{row['rate']:g}/{row['interpreter']}"
            values = {f"{prefix}/{name}": row[name] for name in noise.METRICS if row[name] is not None}
            pl_module.log_dict(values, rank_zero_only=True)

    on_validation_start = on_test_start
    on_validation_batch_end = on_test_batch_end
    on_validation_epoch_end = on_test_epoch_end

    def _evaluate(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        classifier: Any = pl_module.classifier
        device, interpreters = pl_module.device, interpreters_of(pl_module)
        keys = gathered(trainer, [key for part in self._parts for key in part.keys])
        chosen = noise.choose((key for own in keys for key in own), self.max_images)
        parts = [part.only(chosen) for part in self._parts]

        def count(kind: Kind, level: float) -> int:
            return sum(gathered(trainer, noise.count_wrong(classifier, parts, kind, level, self.seed, device)))

        self.levels = noise.find_levels(self.kinds, self.rates, len(chosen), count)
        own = noise.measure(classifier, interpreters, parts, self.levels, self.seed, device)
        self.rows = noise.noise_rows(self.levels, gathered(trainer, own))
        if trainer.is_global_zero and parts:
            classes = evaluated_data(trainer).class_titles(classifier.num_classes)
            make = partial(noise_maps, classifier, interpreters, parts, self.levels, classes, self.seed, device)
            draw(results_folder(trainer) / "figures" / "noise_maps.png", make, SAME)
        self._parts = []

    def _report(self, trainer: pl.Trainer) -> bool:
        folder, images = results_folder(trainer), self.levels[0]["images"]
        noise.write_noise(folder, self.levels, self.rows)
        with harmless(f"the table of {folder / 'noise.json'}"):
            noise.print_noise(self.levels, self.rows, f"Maps under plain noise: {images} correctly classified images")
        return True
