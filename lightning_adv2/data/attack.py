"""The data of an evaluation: a manifest, cut into fixed batches that the processes share out."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Literal

import pytorch_lightning as pl
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader

from lightning_adv2.data.attack_batches import AttackBatch, AttackBatches
from lightning_adv2.data.data_module import ImageDataModule, Split
from lightning_adv2.data.evaluated import LimitsBatch
from lightning_adv2.data.manifest import Manifest
from lightning_adv2.data.sampling import BatchShard
from lightning_adv2.data.scan import build_manifest
from lightning_adv2.data.target_classes import RANDOM, TargetClass, target_classes
from lightning_adv2.data.workers import shield
from lightning_adv2.models import weights_hash
from lightning_adv2.runtime.experiment import check_same, former_batch_size, former_part
from lightning_adv2.runtime.folders import continues, results_folder
from lightning_adv2.runtime.processes import on_rank_zero
from lightning_adv2.runtime.signals import interruption_of

SCANNED = 64  # images at once where they are chosen, with the batch size still open


class AttackDataModule(pl.LightningDataModule):
    """Images to attack, from another data module: correctly classified images, each with a target class.

    Under a trainer, ``setup`` lets the process of global rank 0 choose the images with the module's ``classifier`` and
    write ``<default_root_dir>/manifest.json``; a later run in the same folder takes the choice from that file.

    Args:
        source: the images.
        num_images: how many correctly classified images, or None for all.
        batch_size: images per batch, and so per record; ``auto`` for as many as fit into the memory under all attacks,
            and at least a batch for each process. A run that is resumed keeps its own.
        split: the split to take the images from.
        seed: of the choice and of the target classes.
        num_workers: worker processes that decode ahead; None for 2 where the attacks run on an accelerator, and none
            where they need all of the CPU.
        partners: whether each image brings another image along, as the target ``RandomClass`` needs it: one of the
            chosen images that is not of the first image's target class, the same at any batch size.
        max_skipped: share of the images looked at that may be unreadable, in [0, 1], before the run fails; 0 allows
            none.
        target_class: the class that the attacks aim at. None draws a class other than the true class for each image, by
            ``seed``. An index or a class's name: this class for all images but its own, which are not attacked. A list:
            the target of each true class, in the order of the classes; null leaves a class out. A ``.csv`` file with
            the columns ``file`` (or ``image_id``) and ``target_class``: the target of each image, and only these images
            are attacked.

    Attributes:
        manifest: the chosen images; None before ``setup`` or ``manifest_for``.

    Raises:
        ValueError: ``num_images`` or ``batch_size`` below 1, ``num_workers`` below 0; when the images are chosen, a
            target that is unknown or is the true class.
    """

    def __init__(
        self,
        source: ImageDataModule,
        num_images: int | None = 128,
        batch_size: int | Literal["auto"] = 32,
        split: Split = "test",
        seed: int = 0,
        num_workers: int | None = None,
        partners: bool = False,
        max_skipped: float = 0.01,
        target_class: TargetClass = None,
    ) -> None:
        super().__init__()
        for name, value in (("num_images", num_images), ("batch_size", batch_size)):
            if isinstance(value, int) and value < 1:
                raise ValueError(f"{name}={value}: give at least 1")
        if not isinstance(batch_size, int) and batch_size != "auto":
            raise ValueError(f"batch_size={batch_size!r}: give a whole number, at least 1, or 'auto'")
        if num_workers is not None and num_workers < 0:
            raise ValueError(f"num_workers={num_workers}: give 0 (load in the main process) or more, or leave it out")
        self.source, self.num_images, self.batch_size = source, num_images, batch_size
        self.split, self.seed, self.num_workers, self.partners = split, seed, num_workers, partners
        self.max_skipped, self.target_class = max_skipped, target_class
        self.manifest: Manifest | None = None

    def manifest_for(self, classifier: Callable[[Tensor], Tensor], device: str | torch.device = "cpu") -> Manifest:
        """Choose the images with a classifier, keep the choice, and return it.

        Args:
            classifier: images ``(B, C, H, W)`` in [0, 1] -> logits ``(B, K)``; it is moved to ``device`` for the scan.
            device: where the scan runs.

        Raises:
            ValueError: the classifier's K is not the dataset's.
            RuntimeError: no image is classified correctly.
        """
        home = next(classifier.parameters(), torch.empty(0)).device if isinstance(classifier, nn.Module) else None
        try:
            if isinstance(classifier, nn.Module):
                classifier.to(device)
            self.manifest = build_manifest(
                self.source.dataset(self.split),
                self.source.name,
                self.split,
                classifier,
                self.num_images,
                self.seed,
                SCANNED if self.batch_size == "auto" else self.batch_size,
                device,
                self.max_skipped,
                self.target_class,
            )
        finally:
            if isinstance(classifier, nn.Module):
                classifier.to(home)
        return self.manifest

    def setup(self, stage: str) -> None:
        """Make or read the manifest on global rank 0, and tell the other processes.

        Raises:
            DifferentExperimentError: the folder's manifest is of another split, seed, number, classifier or targets.
            TypeError: the module has no ``classifier``.
            ValueError, RuntimeError: see :meth:`manifest_for`.
        """
        if self.trainer is None:
            raise RuntimeError("setup runs under a Trainer; without one call manifest_for(classifier)")
        module = self.trainer.lightning_module
        classifier = getattr(module, "classifier", None)
        if classifier is None:
            raise TypeError(
                f"{type(module).__name__} has no attribute classifier, which chooses the images to attack; "
                "give a module that has one"
            )
        trainer = self.trainer
        with interruption_of(trainer).leaving(trainer, "no image was attacked yet"):
            self.manifest, self.batch_size = on_rank_zero(trainer, lambda: self._prepare(trainer, classifier))

    def _prepare(
        self, trainer: pl.Trainer, classifier: Callable[[Tensor], Tensor]
    ) -> tuple[Manifest, int | Literal["auto"]]:
        """Choose the images, and the number of images per batch."""
        folder, reuse = results_folder(trainer), continues(trainer)
        manifest = self._choose(folder, classifier, trainer.strategy.root_device, reuse)
        if self.batch_size != "auto":
            return manifest, self.batch_size
        known = former_batch_size(folder / "records") if reuse else None
        if known is not None:  # another size would be another experiment
            return manifest, known
        image = self.source.dataset(self.split)[manifest.entries[0].index]["images"]
        callbacks: list[pl.Callback] = trainer.callbacks  # type: ignore[attr-defined]
        limits = [one.fitting_batch(trainer, image) for one in callbacks if isinstance(one, LimitsBatch)]
        size = min([*(limits or [SCANNED]), -(-len(manifest.entries) // trainer.world_size)])
        print(f"batch_size=auto: {size} images at once", flush=True)
        return manifest, size

    def _choose(
        self, folder: Path, classifier: Callable[[Tensor], Tensor], device: torch.device, reuse: bool
    ) -> Manifest:
        """The choice of an earlier run of the same experiment, or a new one, kept in the folder."""
        path, manifest = folder / "manifest.json", None
        if reuse:
            manifest = self._former(path)
        if manifest is not None:
            sha256 = weights_hash(classifier) if isinstance(classifier, nn.Module) else ""
            targets = None
            if self.target_class is not None:
                targets = target_classes(self.target_class, self.source.dataset(self.split))
            arguments = self.split, self.seed, self.num_images, sha256, targets.description if targets else RANDOM
            check_same(folder, manifest.differences(*arguments))
            return manifest
        manifest = self.manifest_for(classifier, device)
        if reuse and former_part(folder / "records", "manifest") not in (None, manifest.sha256):
            check_same(folder, ["manifest: the records are of other images, or of other targets, than are chosen now"])
        manifest.save(path)
        return manifest

    def _former(self, path: Path) -> Manifest | None:
        """The choice of an earlier run, whole again where a file of it was not; None where it is lost."""
        try:
            manifest, wrong = Manifest.load_noting(path)
        except FileNotFoundError:
            return None
        except ValueError as error:
            print(f"{error}\nThe images are chosen again", flush=True)
            return None
        for line in wrong:
            print(f"{line}; it is written anew", flush=True)
        if wrong:
            manifest.save(path)
        return manifest

    def test_dataloader(self) -> DataLoader[AttackBatch]:
        """Return a loader of this process's share of the manifest's batches, in order.

        Raises:
            RuntimeError: there is no manifest yet.
            ValueError: ``partners``, and an image has no possible partner.
        """
        if self.manifest is None:
            raise RuntimeError("there is no manifest yet; run under a Trainer, or call manifest_for(classifier) first")
        dataset = self.source.dataset(self.split)
        dataset.prepare()
        if self.batch_size == "auto":
            raise RuntimeError("batch_size='auto' is found under a Trainer; without one give a number")
        batches = AttackBatches(dataset, self.manifest, self.batch_size, self.partners)
        accelerated = self.trainer is not None and self.trainer.strategy.root_device.type != "cpu"
        workers = self.num_workers if self.num_workers is not None else 2 if accelerated else 0
        world_size, rank = (self.trainer.world_size, self.trainer.global_rank) if self.trainer else (1, 0)
        return DataLoader(
            batches,
            batch_size=None,
            sampler=BatchShard(batches.num_batches, world_size, rank),
            num_workers=workers,
            pin_memory=accelerated and torch.cuda.is_available(),
            worker_init_fn=shield,
            generator=torch.Generator().manual_seed(0),  # or starting to iterate would draw from the global one
        )

    def val_dataloader(self) -> DataLoader[AttackBatch]:
        """Return the loader of :meth:`test_dataloader`, which raises the same errors."""
        return self.test_dataloader()

    def predict_dataloader(self) -> DataLoader[AttackBatch]:
        """Return the loader of :meth:`test_dataloader`, which raises the same errors."""
        return self.test_dataloader()
