"""The data of an evaluation: a manifest, cut into fixed batches that the processes share out."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, cast

import pytorch_lightning as pl
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset, DistributedSampler, default_collate

from lightning_adv2.data.images import ImageDataModule, ImageDataset, Split
from lightning_adv2.data.manifest import Manifest, ManifestEntry, build_manifest
from lightning_adv2.functional.random import image_generators
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
        ValueError: an image has no possible partner.
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
        batch: AttackBatch = default_collate([self.dataset[entry.index] for entry in entries])
        batch["target_class"] = torch.tensor([entry.target_class for entry in entries])
        if self.partners:
            others = [self.dataset[_partner(self.manifest, entry).index] for entry in entries]
            batch["other_images"] = torch.stack([other["images"] for other in others])
            batch["other_label"] = torch.tensor([other["label"] for other in others])
        batch["batch_index"] = index
        return batch


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


class BatchShard(DistributedSampler[int]):
    """The batches of rank r of W: r, r + W, r + 2W, ..., with no padding and no duplicates.

    A rank without a batch gets the empty one (number ``num_batches``): it must pass through Lightning's loop hooks like
    the others, or they would wait for it forever. Being a DistributedSampler keeps Lightning from putting its own,
    which pads with duplicates, in its place.

    Args:
        num_batches: N.
        num_replicas: W.
        rank: r.

    Raises:
        ValueError: ``rank`` is not in [0, ``num_replicas``).
    """

    def __init__(self, num_batches: int, num_replicas: int = 1, rank: int = 0) -> None:
        batches = cast("Dataset[int]", range(num_batches))
        super().__init__(batches, num_replicas, rank, shuffle=False)
        self._own = list(range(rank, num_batches, num_replicas)) or [num_batches]

    def __iter__(self) -> Iterator[int]:
        return iter(self._own)

    def __len__(self) -> int:
        return len(self._own)


class AttackDataModule(pl.LightningDataModule):
    """Images to attack, from another data module: correctly classified ones, each with a target class.

    Under a trainer, ``setup`` lets the process of global rank 0 choose them with the module's ``classifier`` and write
    ``<default_root_dir>/manifest.json``, which all processes then read.

    Args:
        source: the images.
        num_images: how many correctly classified ones, or None for all there are.
        batch_size: images per batch, and so per record.
        split: the split to take them from.
        seed: of the choice and of the target classes.
        num_workers: worker processes.
        partners: whether each image brings another one along, as the target ``RandomClass`` needs it: from among the
            chosen images one that is not of its target class, the same one at any batch size.

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
    ) -> None:
        super().__init__()
        for name, value in (("num_images", num_images), ("batch_size", batch_size)):
            if value is not None and value < 1:
                raise ValueError(f"{name}={value}: give at least 1")
        self.source, self.num_images, self.batch_size = source, num_images, batch_size
        self.split, self.seed, self.num_workers, self.partners = split, seed, num_workers, partners
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
            )
        finally:
            if isinstance(classifier, nn.Module):
                classifier.to(home)
        return self.manifest

    def setup(self, stage: str) -> None:
        """Make the manifest on global rank 0; read it on every rank.

        Raises:
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
        path = Path(self.trainer.default_root_dir) / "manifest.json"
        if self.trainer.is_global_zero:
            self.manifest_for(classifier, self.trainer.strategy.root_device).save(path)
        self.trainer.strategy.barrier("manifest")
        self.manifest = Manifest.load(path)

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
        )

    def val_dataloader(self) -> DataLoader[AttackBatch]:
        """The same."""
        return self.test_dataloader()

    def predict_dataloader(self) -> DataLoader[AttackBatch]:
        """The same."""
        return self.test_dataloader()
