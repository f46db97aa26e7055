"""What the interpreters' benign maps are worth, next to how robust they are."""

from __future__ import annotations

from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
from pytorch_lightning.trainer.states import TrainerFn
from pytorch_lightning.utilities import rank_zero_only
from torch import Tensor

from lightning_adv2.files import write_json
from lightning_adv2.functional.randomisation import randomised, rank_correlation
from lightning_adv2.functional.validity import is_finite
from lightning_adv2.metrics import MapAgreement, MapQuality
from lightning_adv2.metrics.attack import ImageMean
from lightning_adv2.modules.idls import interpreters_of
from lightning_adv2.report.harmless import harmless
from lightning_adv2.report.map_quality import print_quality
from lightning_adv2.runtime.exchange import computed
from lightning_adv2.runtime.folders import results_folder
from lightning_adv2.runtime.signals import interruption_of


class MapQualityEvaluation(pl.Callback):
    """Measure preserved, destroyed and shuffled confidence, deletion and insertion in ``validate`` and ``test``.

    Logs ``{stage}/benign/{interpreter}/{metric}`` for each of the module's interpreters, prints a table and writes
    ``map_quality.json``. See :class:`lightning_adv2.metrics.MapQuality` for the measures.

    Args:
        order: also deletion and insertion (68 forward passes per image).
        seed: for the backgrounds, the random map and the shuffled weights.
        reference: name of the interpreter that all are compared with: ``agreement_l1`` and ``agreement_iou``, of the
            maps for the true class, enlarged or shrunk to the reference's size. None leaves them out.
        randomise: also ``randomised_correlation``, the mean rank correlation of the map with the one that classifier
            and interpreter give when their weights are shuffled; near 1 the map does not depend on what was learned
            (Adebayo et al. 2018, "Sanity checks for saliency maps").

    Raises:
        ValueError: when it starts, if no interpreter has the name ``reference``.
    """

    def __init__(
        self, order: bool = True, seed: int = 0, reference: str | None = None, randomise: bool = False
    ) -> None:
        self.order, self.seed, self.reference, self.randomise = order, seed, reference, randomise
        self.quality: dict[str, MapQuality] = {}
        self.agreement: dict[str, MapAgreement] = {}
        self.correlation: dict[str, ImageMean] = {}
        self._shuffled: dict[str, Any] = {}

    def on_test_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Start afresh on the module's device."""
        names, device = [interpreter.name for interpreter in interpreters_of(pl_module)], pl_module.device
        if self.reference is not None and self.reference not in names:
            raise ValueError(
                f"reference={self.reference!r}: MapQualityEvaluation compares with one of the module's interpreters, "
                f"which are {', '.join(names)}; add it to them, or leave reference out"
            )
        self.quality = {name: MapQuality(self.order, self.seed).to(device) for name in names}
        self.agreement = {name: MapAgreement().to(device) for name in names if self.reference is not None}
        self.correlation = {name: ImageMean().to(device) for name in names if self.randomise}
        if self.randomise and not trainer.sanity_checking:
            classifier: Any = pl_module.classifier
            parts = [randomised(part, self.seed).eval() for part in (classifier, *interpreters_of(pl_module))]
            self._shuffled = dict(zip(["", *names], parts, strict=True))  # "" is the classifier

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
        maps = {one.name: one.explain(classifier, images, label).attribution_map for one in interpreters_of(pl_module)}
        for name, shown in maps.items():
            self.quality[name].update(classifier, images, label, batch["image_id"], shown, batch.get("mask"))
            if self.reference is not None:
                self.agreement[name].update(shown, maps[self.reference])
            if self.randomise:
                self._correlate(name, shown, images, label)

    def _correlate(self, name: str, shown: Tensor, images: Tensor, label: Tensor) -> None:
        other = self._shuffled[name].explain(self._shuffled[""], images, label).attribution_map
        fine = is_finite(shown) & is_finite(other)
        self.correlation[name].update(rank_correlation(shown[fine], other[fine]))

    def on_test_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Log, print and write the means."""
        if trainer.sanity_checking:
            return
        interruption = interruption_of(trainer)
        with nullcontext() if trainer.state.fn == TrainerFn.FITTING else interruption.leaving(trainer):
            values = {name: self._values(trainer, name) for name in self.quality}
        self._shuffled = {}  # as large as the networks themselves
        stage = "test" if trainer.testing else "val"
        for name, means in values.items():
            pl_module.log_dict({f"{stage}/benign/{name}/{key}": mean for key, mean in means.items()})
        _report(values, results_folder(trainer))

    on_validation_start = on_test_start
    on_validation_batch_end = on_test_batch_end
    on_validation_epoch_end = on_test_epoch_end

    def _values(self, trainer: pl.Trainer, name: str) -> dict[str, float]:
        values: dict[str, float] = computed(trainer, self.quality[name])
        if self.reference is not None:
            values |= computed(trainer, self.agreement[name])
        if self.randomise:
            mean = float(computed(trainer, self.correlation[name]))
            values |= {"randomised_correlation": mean} if mean == mean else {}  # NaN: nothing seen
        return values


@rank_zero_only
def _report(values: dict[str, dict[str, float]], folder: Path) -> None:
    write_json(folder / "map_quality.json", values)
    with harmless(f"the table of {folder / 'map_quality.json'}"):
        print_quality(values)
