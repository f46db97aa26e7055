"""A manifest, cut into fixed batches."""

from __future__ import annotations

from collections import Counter
from typing import Any, cast

import torch
from torch.utils.data import Dataset, default_collate

from lightning_adv2.data.images import ImageDataset, Item, UnreadableImageError
from lightning_adv2.data.manifest import Manifest, ManifestEntry
from lightning_adv2.functional.random import image_generators
from lightning_adv2.types import Batch


class AttackBatch(Batch):
    """A batch of the manifest, with ``target_class`` ``(B,)`` int64.

    Attributes:
        batch_index: the batch's number, from 0; the record of its attack is named after it. -1 for the empty batch,
            which leaves no record.
    """

    batch_index: int


class AttackBatches(Dataset[AttackBatch]):
    """The manifest's batches, each an item, and behind them an empty batch.

    Args:
        dataset: the images.
        manifest: which of them, in which order, with which target classes.
        batch_size: images per batch; the last batch may be smaller.
        partners: whether each image brings another image along, in ``other_images`` ``(B, C, H, W)`` and
            ``other_label`` ``(B,)``.

    Raises:
        ValueError: an image has no possible partner; or, when an image is loaded, it differs from the manifest.
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
                "same classes, resize, crop and transform, or start anew in another folder"
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
