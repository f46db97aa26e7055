"""Data modules of labelled images: loaders that share the images out over the processes."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any, Literal, get_args

import pytorch_lightning as pl
from torch.utils.data import Dataset, Sampler

from lightning_adv2.data.images import ImageDataset
from lightning_adv2.data.loaders import BatchLoader, ChosenBatches, FixedBatches
from lightning_adv2.data.sampling import BatchShard, EpochOrder
from lightning_adv2.data.skipping import Skipped
from lightning_adv2.runtime.processes import highest
from lightning_adv2.runtime.seeds import run_seed

Split = Literal["train", "val", "test"]


class ImageDataModule(pl.LightningDataModule, ABC):
    """Train, validation and test images.

    On several processes each batch of validation and test belongs to one process, and each image is in exactly one
    batch; a process that has fewer batches gets an empty one. Training is in an order that seed and epoch determine.

    Args:
        batch_size: images per batch, and per process.
        num_workers: worker processes per loader.
        max_skipped: the share of a split's images that may be unreadable, in [0, 1]; they are left out and named, and
            more of them end the run. 0 allows none.

    Attributes:
        name: short name for tables.

    Raises:
        ValueError: ``batch_size`` below 1, ``num_workers`` below 0, or ``max_skipped`` not in [0, 1].
    """

    name: str

    def __init__(self, batch_size: int = 64, num_workers: int = 0, max_skipped: float = 0.01) -> None:
        super().__init__()
        if batch_size < 1:
            raise ValueError(f"batch_size={batch_size}: give at least 1")
        if num_workers < 0:
            raise ValueError(f"num_workers={num_workers}: give 0 (load in the main process) or more")
        if not 0 <= max_skipped <= 1:
            raise ValueError(f"max_skipped={max_skipped}: give a share in [0, 1]")
        self.batch_size, self.num_workers, self.max_skipped = batch_size, num_workers, max_skipped
        self._datasets: dict[str, ImageDataset] = {}
        self._skipped: dict[str, Skipped] = {}
        self._order_seed: int | None = None

    @abstractmethod
    def build(self, split: Split) -> ImageDataset:
        """Return a new dataset of a split; called once per split."""

    def dataset(self, split: Split) -> ImageDataset:
        """Return the dataset of a split, the same object at each call.

        Raises:
            ValueError: ``split`` is none of train, val, test; or see :meth:`build`.
            FileNotFoundError: see :meth:`build`.
        """
        if split not in get_args(Split):
            raise ValueError(f"split={split!r}: take one of {', '.join(get_args(Split))}")
        if split not in self._datasets:
            self._datasets[split] = self.build(split)
        return self._datasets[split]

    @property
    def classes(self) -> tuple[str, ...]:
        """Return the K class names; a label is an index into them."""
        return self.dataset("val").classes

    @property
    def class_titles(self) -> tuple[str, ...]:
        """Return the K classes as a reader knows them, for figures; by default their names."""
        return self.classes

    @property
    def num_classes(self) -> int:
        """Return K, the number of classes."""
        return len(self.classes)

    def skipped(self, split: Split) -> Skipped:
        """Return the images of a split that this process could not read so far: image id -> reason."""
        if split not in self._skipped:
            self._skipped[split] = Skipped(split, len(self.dataset(split)), self.max_skipped, self._total)
        return self._skipped[split]

    def train_dataloader(self) -> BatchLoader:
        """Return a loader of the training images, shuffled, or drawn class-balanced.

        The incomplete last batch is left out where there is another batch.

        Raises:
            FileNotFoundError, ValueError: see :meth:`build`.
            RuntimeError: while batches are read, more images are unreadable than ``max_skipped`` allows.
        """
        if self._order_seed is None:
            self._order_seed = run_seed(self.trainer)
        images = self.dataset("train")
        labels = [images.label(i) for i in range(len(images))] if getattr(self, "balanced", False) else None
        order = EpochOrder(len(images), self.batch_size, self._order_seed, *self._place, labels)
        return self._loader("train", ChosenBatches(images), order)

    def val_dataloader(self) -> BatchLoader:
        """Return a loader of the validation images, in order; it raises the errors of :meth:`train_dataloader`."""
        return self._in_order("val")

    def test_dataloader(self) -> BatchLoader:
        """Return a loader of the test images, in order; it raises the errors of :meth:`train_dataloader`."""
        return self._in_order("test")

    def predict_dataloader(self) -> BatchLoader:
        """Return a loader of the test images, in order; it raises the errors of :meth:`train_dataloader`."""
        return self.test_dataloader()

    def state_dict(self) -> dict[str, Any]:
        """Return the seed of the training images' order, for the checkpoint; empty before training."""
        return {} if self._order_seed is None else {"order_seed": self._order_seed}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Keep the seed of the order in the checkpoint of the run that is resumed."""
        self._order_seed = state_dict["order_seed"]

    @property
    def _place(self) -> tuple[int, int]:
        """Number of processes, and which this one is."""
        return (self.trainer.world_size, self.trainer.global_rank) if self.trainer else (1, 0)

    def _total(self, count: int) -> int:
        """The sum over all processes; all must ask at once."""
        world_size, own = self._place
        if self.trainer is None or world_size == 1:
            return count
        return sum(highest(self.trainer, count if rank == own else 0) for rank in range(world_size))

    def _in_order(self, split: Split) -> BatchLoader:
        batches = FixedBatches(self.dataset(split), self.batch_size)
        return self._loader(split, batches, BatchShard(batches.num_batches, *self._place))

    def _loader(self, split: Split, batches: Dataset[Any], sampler: Sampler[Any]) -> BatchLoader:
        self.dataset(split).prepare()
        return BatchLoader(batches, sampler, self.num_workers, self.skipped(split))
