"""The data of an evaluation: a manifest, cut into fixed batches that the processes share out."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

import pytorch_lightning as pl
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset, default_collate

from lightning_adv2.data.images import ImageDataModule, ImageDataset, Item, Split, UnreadableImageError
from lightning_adv2.data.manifest import Manifest, ManifestEntry
from lightning_adv2.data.sampling import BatchShard
from lightning_adv2.data.scan import build_manifest
from lightning_adv2.data.workers import shield
from lightning_adv2.functional.random import image_generators
from lightning_adv2.models import weights_hash
from lightning_adv2.runtime.experiment import check_same
from lightning_adv2.runtime.folders import continues, results_folder
from lightning_adv2.runtime.processes import on_rank_zero
from lightning_adv2.runtime.signals import interruption_of
from lightning_adv2.types import Batch


class AttackBatch(Batch):
    """A batch of the manifest, with ``target_class``.

    Attributes:
        batch_index: its number; the record of its attack is named after it. -1 for the empty batch, which leaves none.
    """

    batch_index: int


class AttackBatches(Dataset[AttackBatch]):
    """The manifest's batches, each one item, and behind them one empty batch.

    Args:
        dataset: the images.
        manifest: which of them, in which order, with which target classes.
        batch_size: images per batch; the last one may be smaller.
        partners: whether each image brings another one along, ``other_images`` and ``other_label``.

    Raises:
        ValueError: an image has no possible partner; or, when it is loaded, is not what the manifest says.
    """

    def __init__(self, dataset: ImageDataset, manifest: Manifest, batch_size: int, partners: bool = False) -> None:
        self.dataset, self.manifest, self.batch_size, self.partners = dataset, manifest, batch_size, partners
        if partners:
            _check_partners(manifest)
        self.num_batches = -(-len(manifest.entries) // batch_size)

    def __len__(self) -> int:
        return self.num_batches + 1

    def __getitem__(self, index: int) -> AttackBatch:
        if index == self.num_batches:
            first: dict[str, Any] = dict(self[0])
            return cast(
                AttackBatch,
                {key: value[:0] for key, value in first.items() if key != "batch_index"} | {"batch_index": -1},
            )
        entries = self.manifest.entries[index * self.batch_size : (index + 1) * self.batch_size]
        batch: AttackBatch = default_collate([self._load(entry) for entry in entries])
        batch["target_class"] = torch.tensor([entry.target_class for entry in entries])
        if self.partners:
            others = [self._load(_partner(self.manifest, entry)) for entry in entries]
            batch["other_images"] = torch.stack([other["images"] for other in others])
            batch["other_label"] = torch.tensor([other["label"] for other in others])
        batch["batch_index"] = index
        return batch

    def _load(self, entry: ManifestEntry) -> Item:
        """The image, which must still be the one that the manifest was made with."""
        item: Item | None = None
        if entry.index >= len(self.dataset):
            found = f"the dataset has only {len(self.dataset)} images"
        else:
            try:
                item = self.dataset[entry.index]
                found = entry.difference(item)
            except UnreadableImageError as error:
                found = f"it cannot be read ({error.reason})"
        if item is None or found:
            raise ValueError(
                f"{entry.image_id} is not as the manifest has it: {found}. Put the images back as they were, with the "
                "same classes, resize and crop, or start anew in another folder"
            )
        return item


def _check_partners(manifest: Manifest) -> None:
    """Before hours of work, not after."""
    labels = Counter(entry.label for entry in manifest.entries)
    for entry in manifest.entries:
        # All images but those of the target class and, unless it is one of them, the image itself.
        if len(manifest.entries) - labels[entry.target_class] - (entry.label != entry.target_class) < 1:
            raise ValueError(
                f"partners=True: {entry.image_id!r} has no partner: of the {len(manifest.entries)} images to attack "
                f"no other is of a class other than its target class {entry.target_class}; take more images "
                "(num_images) or another seed"
            )


def _partner(manifest: Manifest, entry: ManifestEntry) -> ManifestEntry:
    """Another image, not of the entry's target class; it depends on the manifest and the entry alone."""
    possible = [other for other in manifest.entries if other.label != entry.target_class and other != entry]
    (generator,) = image_generators(manifest.seed, [entry.image_id], "partner")
    return possible[int(torch.randint(len(possible), (), generator=generator))]


class AttackDataModule(pl.LightningDataModule):
    """Images to attack, from another data module: correctly classified ones, each with a target class.

    Under a trainer, ``setup`` lets the process of global rank 0 choose them with the module's ``classifier`` and write
    ``<default_root_dir>/manifest.json``; a later run in the same folder takes the choice from there.

    Args:
        source: the images.
        num_images: how many correctly classified ones, or None for all there are.
        batch_size: images per batch, and so per record.
        split: the split to take them from.
        seed: of the choice and of the target classes.
        num_workers: worker processes.
        partners: whether each image brings another one along, as the target ``RandomClass`` needs it: from among the
            chosen images one that is not of its target class, the same one at any batch size.
        max_skipped: share of the images looked at that may be unreadable, before the run fails; 0 is strict.

    Attributes:
        manifest: the chosen images; None before ``setup`` or ``manifest_for``.

    Raises:
        ValueError: ``num_images`` or ``batch_size`` below 1.
    """

    def __init__(
        self,
        source: ImageDataModule,
        num_images: int | None = 128,
        batch_size: int = 32,
        split: Split = "test",
        seed: int = 0,
        num_workers: int = 0,
        partners: bool = False,
        max_skipped: float = 0.01,
    ) -> None:
        super().__init__()
        for name, value in (("num_images", num_images), ("batch_size", batch_size)):
            if value is not None and value < 1:
                raise ValueError(f"{name}={value}: give at least 1")
        self.source, self.num_images, self.batch_size = source, num_images, batch_size
        self.split, self.seed, self.num_workers, self.partners = split, seed, num_workers, partners
        self.max_skipped = max_skipped
        self.manifest: Manifest | None = None

    def manifest_for(self, classifier: Callable[[Tensor], Tensor], device: str | torch.device = "cpu") -> Manifest:
        """Choose the images with ``classifier``, which is moved to ``device`` for the scan, and keep the choice.

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
                self.batch_size,
                device,
                self.max_skipped,
            )
        finally:
            if isinstance(classifier, nn.Module):
                classifier.to(home)
        return self.manifest

    def setup(self, stage: str) -> None:
        """Make or read the manifest on global rank 0, and tell the others.

        Raises:
            DifferentExperimentError: the folder's manifest is of another split, seed, number or classifier.
            TypeError: the module has no ``classifier``.
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
        folder = results_folder(trainer)
        with interruption_of(trainer).leaving(trainer, "no image was attacked yet"):
            self.manifest = on_rank_zero(
                trainer, lambda: self._choose(folder, classifier, trainer.strategy.root_device, continues(trainer))
            )

    def _choose(
        self, folder: Path, classifier: Callable[[Tensor], Tensor], device: torch.device, reuse: bool
    ) -> Manifest:
        """The choice of an earlier run of the same experiment, or a new one, kept in the folder."""
        path = folder / "manifest.json"
        if path.exists() and reuse:
            manifest = Manifest.load(path)
            sha256 = weights_hash(classifier) if isinstance(classifier, nn.Module) else ""
            arguments = self.split, self.seed, self.num_images, sha256
            check_same(folder, manifest.differences(*arguments))
            return manifest
        manifest = self.manifest_for(classifier, device)
        manifest.save(path)
        return manifest

    def test_dataloader(self) -> DataLoader[AttackBatch]:
        """This process's share of the batches.

        Raises:
            RuntimeError: there is no manifest yet.
            ValueError: ``partners``, and an image has no possible partner.
        """
        if self.manifest is None:
            raise RuntimeError("there is no manifest yet; run under a Trainer, or call manifest_for(classifier) first")
        dataset = self.source.dataset(self.split)
        dataset.prepare()
        batches = AttackBatches(dataset, self.manifest, self.batch_size, self.partners)
        world_size, rank = (self.trainer.world_size, self.trainer.global_rank) if self.trainer else (1, 0)
        return DataLoader(
            batches,
            batch_size=None,
            sampler=BatchShard(batches.num_batches, world_size, rank),
            num_workers=self.num_workers,
            worker_init_fn=shield,
            generator=torch.Generator().manual_seed(0),  # or starting to iterate would draw from the global one
        )

    def val_dataloader(self) -> DataLoader[AttackBatch]:
        """The same."""
        return self.test_dataloader()

    def predict_dataloader(self) -> DataLoader[AttackBatch]:
        """The same."""
        return self.test_dataloader()
