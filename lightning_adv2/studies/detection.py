"""Would anybody notice? Run detectors on the images that an evaluation attacked."""

from __future__ import annotations

import warnings
from collections.abc import Collection
from typing import Any

import pytorch_lightning as pl
import torch
from torch import Tensor
from torch.utils.data import default_collate

from lightning_adv2.data.images import ImageDataset
from lightning_adv2.data.skipping import read_items
from lightning_adv2.detectors import Detector
from lightning_adv2.evaluation.attack_evaluation import AttackEvaluation
from lightning_adv2.evaluation.stages import idle
from lightning_adv2.files.run import read_header, record_paths
from lightning_adv2.models import Classifier
from lightning_adv2.modules.idls import interpreters_of
from lightning_adv2.report.detection import detection_rows, print_detection, score_records, write_detection
from lightning_adv2.report.harmless import harmless
from lightning_adv2.results.records import read_records, record_key
from lightning_adv2.results.summary import Row
from lightning_adv2.runtime.folders import results_folder
from lightning_adv2.runtime.processes import on_rank_zero
from lightning_adv2.runtime.signals import interruption_of


class DetectionEvaluation(pl.Callback):
    """Score attacked images with detectors, after ``validate`` and ``test``; comes after AttackEvaluation in the list.

    Reads the records of the run. Each detector is fitted, and its threshold set, on benign images of the same split
    that the classifier gets right and that were not attacked. Writes ``detection.json``, ``detection.csv`` and
    ``figures/detection.png`` beside the attack's own files, prints a table and logs
    ``{stage}/detection/{detector}/{attack}/{interpreter}``. Does nothing during ``fit``.

    Args:
        detectors: what to run.
        calibration_images: how many benign images set the thresholds.
        false_positive_rate: the share of them that may be flagged (the paper's 0.05).
        seed: chooses them.
    """

    def __init__(
        self,
        detectors: list[Detector],
        calibration_images: int = 500,
        false_positive_rate: float = 0.05,
        seed: int = 0,
    ) -> None:
        names = [detector.name for detector in detectors]
        if not names or len(set(names)) < len(names):
            raise ValueError(f"detectors: expected one or more with different names, got {', '.join(names) or 'none'}")
        if calibration_images < 1:
            raise ValueError(f"calibration_images={calibration_images}: give at least 1; 500 is the default")
        if not 0 <= false_positive_rate < 1:
            raise ValueError(f"false_positive_rate={false_positive_rate}: a share in [0, 1); the paper takes 0.05")
        self.detectors, self.calibration_images = detectors, calibration_images
        self.false_positive_rate, self.seed = false_positive_rate, seed
        self.rows: list[Row] = []

    def on_validation_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Check that there will be records, and images to calibrate on, before hours of attack."""
        if idle(trainer):
            return
        callbacks: list[Any] = trainer.callbacks  # type: ignore[attr-defined]
        if not any(isinstance(callback, AttackEvaluation) for callback in callbacks[: callbacks.index(self)]):
            raise ValueError(
                "callbacks: DetectionEvaluation reads what AttackEvaluation writes; list it after that one"
            )
        if not hasattr(_source(trainer), "dataset"):
            raise TypeError(
                "DetectionEvaluation draws benign images from the data module, and there is none; "
                "give the trainer an AttackDataModule"
            )

    def on_validation_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Score, write and print on one process; the others wait and hear of errors."""
        if idle(trainer):
            return
        with interruption_of(trainer).leaving(trainer):
            self.rows = on_rank_zero(trainer, lambda: self._report(trainer, pl_module))

    on_test_start = on_validation_start
    on_test_epoch_end = on_validation_epoch_end

    def _report(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> list[Row]:
        folder = results_folder(trainer)
        stage = "test" if trainer.testing else "val"
        data: Any = trainer.datamodule  # type: ignore[attr-defined]
        manifest = getattr(data, "manifest", None)
        attacked = {entry.image_id for entry in manifest.entries} if manifest is not None else set()
        for path in record_paths(folder / "records"):
            header = read_header(path)
            attacked.update((*header["image_id"], *header["already_wrong"], *header["invalid"]))
        classifier: Any = pl_module.classifier
        device = trainer.strategy.root_device
        dataset = _source(trainer).dataset(getattr(data, "split", stage))
        images, label, chosen = draw_calibration(
            dataset, classifier, self.calibration_images, attacked, self.seed, device
        )
        scores = score_records(
            self.detectors, classifier, interpreters_of(pl_module), images, label,
            lambda name: read_records(folder / "records" / name),
        )  # fmt: skip
        rows = detection_rows(scores, self.false_positive_rate)
        settings = {
            "false_positive_rate": self.false_positive_rate,
            "seed": self.seed,
            "calibration_image_id": chosen,
        }
        write_detection(folder, rows, scores, settings)
        title = f"Detection at {self.false_positive_rate:.0%} false positives on {len(images)} benign images"
        with harmless(f"the table of {folder / 'detection.json'}"):
            print_detection(rows, title)
        values = {}
        for row in rows:
            if row["detection_rate"] is not None:
                attack = record_key(row["attack"], row["schedule"])
                key = f"{stage}/detection/{row['detector']}/{attack}/{row['interpreter']}"
                values[key] = row["detection_rate"]
        for logger in trainer.loggers:
            logger.log_metrics(values)
        return rows


@torch.no_grad()
def draw_calibration(
    dataset: ImageDataset,
    classifier: Classifier,
    count: int,
    exclude: Collection[str],
    seed: int,
    device: str | torch.device = "cpu",
) -> tuple[Tensor, Tensor, list[str]]:
    """Benign images that the classifier gets right, in a seeded random order.

    Args:
        dataset: where to look.
        classifier: in eval mode, on ``device``.
        count: how many; with fewer to be had, a warning names both numbers.
        exclude: identifiers of images that may not be among them.
        seed: of the order.
        device: where the images go.

    Returns:
        Images ``(N, C, H, W)``, labels ``(N,)`` and N identifiers.

    Raises:
        RuntimeError: there is none.
    """
    order = torch.randperm(len(dataset), generator=torch.Generator().manual_seed(seed)).tolist()
    size = 64
    free = [index for index in order if dataset.image_id(index) not in exclude]
    images: list[Tensor] = []
    label: list[Tensor] = []
    chosen: list[str] = []
    for start in range(0, len(free), size):
        items, _ = read_items(dataset, free[start : start + size], replace=False)
        if not items:
            continue
        batch = default_collate(items)
        pixels, truth = batch["images"].to(device), batch["label"].to(device)
        logits = classifier(pixels)
        right = (logits.argmax(1) == truth) & logits.isfinite().all(1)
        keep = right.nonzero()[:, 0][: count - len(chosen)]
        images.append(pixels[keep])
        label.append(truth[keep])
        chosen += [batch["image_id"][i] for i in keep.tolist()]
        if len(chosen) == count:
            break
    if not chosen:
        raise RuntimeError(
            f"calibration_images={count}: all {len(dataset)} images are attacked, misclassified or unreadable, so none "
            "is left to set a threshold on; attack fewer (AttackDataModule(num_images=...))"
        )
    if len(chosen) < count:
        warnings.warn(
            f"calibration_images={count}, but only {len(chosen)} images are classified correctly and not attacked; the "
            "thresholds are set on these",
            stacklevel=3,  # behind torch.no_grad
        )
    return torch.cat(images), torch.cat(label), chosen


def _source(trainer: pl.Trainer) -> Any:
    """The data module that knows the images, behind an AttackDataModule or by itself."""
    data: Any = getattr(trainer, "datamodule", None)
    return getattr(data, "source", data)
