"""Loaders that share batches out exactly, leave out unreadable images by name, and go on within an epoch."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Any, cast

import torch
from pytorch_lightning.utilities import rank_zero_warn
from torch import Generator
from torch.utils.data import DataLoader, Dataset, Sampler, default_collate

from lightning_adv2.data.images import ImageDataset
from lightning_adv2.data.sampling import Rest
from lightning_adv2.data.skipping import Skipped, read_items
from lightning_adv2.data.workers import shield
from lightning_adv2.types import Batch


class FixedBatches(Dataset[Any]):
    """A split's batches in order, each an item with its ``batch_index``, and behind them an empty batch.

    Images that cannot be read are left out; ``skipped`` names them.

    Args:
        images: the split.
        batch_size: images per batch; the last batch may be smaller.
    """

    def __init__(self, images: ImageDataset, batch_size: int) -> None:
        self.images, self.batch_size = images, batch_size
        self.num_batches = -(-len(images) // batch_size)

    def __len__(self) -> int:
        return self.num_batches + 1

    def __getitem__(self, index: int) -> dict[str, Any]:
        start, end = index * self.batch_size, min((index + 1) * self.batch_size, len(self.images))
        items, skipped = read_items(self.images, range(start, end), replace=False)
        batch: dict[str, Any] = default_collate(items) if items else self._empty()
        return batch | {"batch_index": index if index < self.num_batches else -1, "skipped": dict(skipped)}

    def _empty(self) -> dict[str, Any]:
        """No images, but everything in its shape."""
        items, _ = read_items(self.images, [0], replace=True)
        return {key: value[:0] for key, value in default_collate(items).items()}


class ChosenBatches(Dataset[Any]):
    """Batches of the images that a sampler asks for.

    The next readable image replaces an unreadable one, because processes that train together must take batches of one
    size; ``skipped`` names the unreadable images.

    Args:
        images: the split.
    """

    def __init__(self, images: ImageDataset) -> None:
        self.images = images

    def __getitem__(self, indices: Sequence[int]) -> dict[str, Any]:
        items, skipped = read_items(self.images, indices, replace=True)
        batch: dict[str, Any] = default_collate(items)
        return batch | {"skipped": dict(skipped)}


class BatchLoader(Iterable[Batch]):
    """A loader of batches that a dataset makes whole, in the order of a sampler; resumable, by Lightning's protocol.

    The class has a DataLoader and is none, because Lightning takes DataLoaders apart and puts them together anew. The
    iterator starts at the first batch asked for, because Lightning asks for an iterator before it sets the epoch, and
    with a generator of its own, so that a start draws nothing from the global generator.

    Args:
        batches: its items are batches with ``skipped``.
        sampler: gives the items' indices.
        num_workers: worker processes.
        skipped: notes the images left out.

    Raises:
        RuntimeError: while batches are read, more images are unreadable than ``skipped`` allows.
    """

    batch_sampler = None  # whoever asks for a sampler, as Lightning does, asks for this first

    def __init__(self, batches: Dataset[Any], sampler: Sampler[Any], num_workers: int, skipped: Skipped) -> None:
        self.batches, self.sampler, self.skipped = batches, sampler, skipped
        self._rest = Rest(sampler)
        self._loader: DataLoader[Any] = DataLoader(
            batches,
            batch_size=None,
            sampler=self._rest,
            num_workers=num_workers,
            persistent_workers=num_workers > 0,
            pin_memory=torch.cuda.is_available(),
            worker_init_fn=shield,
            generator=Generator().manual_seed(0),
        )
        self._position: dict[str, int] = {}
        self._resume: dict[str, int] = {}

    def __len__(self) -> int:
        return len(cast("Any", self.sampler))

    def __iter__(self) -> Iterator[Batch]:
        epoch, start = int(getattr(self.sampler, "epoch", 0)), 0
        resume, self._resume = self._resume, {}
        if resume.get("epoch") == epoch:
            start = resume["batches"]
        self._rest.start = start
        missed = 0
        for number, batch in enumerate(self._loader, start + 1):
            missed += len(batch["skipped"])
            self.skipped.note(batch["skipped"].items())
            if number == len(self):
                self.skipped.check(self.skipped.total(missed))
            # What was handed out, not what workers have fetched ahead.
            self._position = {"epoch": epoch, "batches": number, "images_per_step": self._images_per_step}
            yield batch

    @property
    def _images_per_step(self) -> int:
        return int(getattr(self.sampler, "images_per_step", 0))

    def state_dict(self) -> dict[str, int]:
        """Return epoch, batches handed out, and images per step; empty before the first batch."""
        return dict(self._position)

    def load_state_dict(self, state: dict[str, int]) -> None:
        """Go on behind the batches handed out before, once Lightning has set their epoch.

        Where a step now takes another number of images, a warning says that the rest of the epoch is not exact.

        Args:
            state: of :meth:`state_dict`.
        """
        if state.get("images_per_step", self._images_per_step) != self._images_per_step:
            rank_zero_warn(
                f"the checkpoint was saved with {state['images_per_step']} images per step (batch_size times "
                f"processes), this run takes {self._images_per_step}: the rest of the epoch repeats some images and "
                "leaves out others"
            )
        self._resume = dict(state)
        self._position = dict(state)  # a validation may come, and save, before the next batch is asked for

    @property
    def _iterator(self) -> Any:
        """Through this Lightning stops the worker processes."""
        return self._loader._iterator

    @_iterator.setter
    def _iterator(self, value: Any) -> None:
        self._loader._iterator = value
