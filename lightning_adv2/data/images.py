"""What all image datasets and their data modules share."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections import defaultdict
from collections.abc import Sequence
from typing import Any, Literal, NotRequired, TypeAlias, TypedDict, get_args

import numpy as np
import pytorch_lightning as pl
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from lightning_adv2.types import Batch

Pixels: TypeAlias = NDArray[np.uint8]
"""One image, ``(H, W, C)`` uint8."""

Mask: TypeAlias = NDArray[np.bool_]
"""The object's pixels in one image, ``(H, W)`` bool."""

Split = Literal["train", "val", "test"]


class Item(TypedDict):
    """One image with the keys of :class:`~lightning_adv2.types.Batch`; default collation makes a batch of them.

    Attributes:
        images: ``(C, H, W)`` float32 in [0, 1], exactly ``k / 255``.
        label: the true class.
        image_id: unique within the dataset.
        mask: ``(1, H, W)`` bool.
    """

    images: Tensor
    label: int
    image_id: str
    mask: NotRequired[Tensor]


class ImageDataset(Dataset[Item], ABC):
    """Labelled 8-bit images of one size.

    Attributes:
        classes: the K class names; a label is an index into them.
    """

    classes: tuple[str, ...]

    @property
    @abstractmethod
    def image_size(self) -> tuple[int, int]:
        """Height and width."""

    @abstractmethod
    def __len__(self) -> int: ...

    @abstractmethod
    def label(self, index: int) -> int:
        """The true class, without decoding the image."""

    @abstractmethod
    def image_id(self, index: int) -> str:
        """A name that is unique within the dataset and does not depend on its length."""

    @abstractmethod
    def load(self, index: int) -> tuple[Pixels, Mask | None]:
        """The image ``(H, W, C)`` uint8 and, where the dataset knows it, the object's mask ``(H, W)`` bool."""

    def prepare(self) -> None:
        """Bring into memory what is kept there. Called before worker processes start, so that they share it."""

    def uint8(self, index: int) -> Pixels:
        """The image as stored, ``(H, W, C)`` uint8: what content hashes are taken of."""
        return self.load(index)[0]

    def __getitem__(self, index: int) -> Item:
        pixels, mask = self.load(index)
        images = torch.from_numpy(pixels.transpose(2, 0, 1).astype(np.float32)) / 255
        item = Item(images=images, label=self.label(index), image_id=self.image_id(index))
        if mask is not None:
            item["mask"] = torch.from_numpy(mask[None].copy())
        return item


class ImageSubset(ImageDataset):
    """Some images of another dataset.

    Args:
        source: the whole.
        indices: which images, in the new order.
    """

    def __init__(self, source: ImageDataset, indices: Sequence[int]) -> None:
        self.source, self.indices, self.classes = source, list(indices), source.classes

    @property
    def image_size(self) -> tuple[int, int]:
        """Height and width."""
        return self.source.image_size

    def __len__(self) -> int:
        return len(self.indices)

    def label(self, index: int) -> int:
        """The true class."""
        return self.source.label(self.indices[index])

    def image_id(self, index: int) -> str:
        """The image's name in the whole."""
        return self.source.image_id(self.indices[index])

    def load(self, index: int) -> tuple[Pixels, Mask | None]:
        """The image and its mask."""
        return self.source.load(self.indices[index])

    def prepare(self) -> None:
        """Bring the whole into memory."""
        self.source.prepare()


def hold_out(labels: Sequence[int], fraction: float, seed: int) -> tuple[list[int], list[int]]:
    """Split indices at random, each class by itself, into (kept, held out), both in ascending order.

    Every class keeps an image and, if it has two or more, holds one out.
    """
    generator = torch.Generator().manual_seed(seed)
    by_class: defaultdict[int, list[int]] = defaultdict(list)
    for index, label in enumerate(labels):
        by_class[label].append(index)
    held: set[int] = set()
    for _, members in sorted(by_class.items()):
        count = min(max(round(fraction * len(members)), 1), len(members) - 1)
        held.update(members[place] for place in torch.randperm(len(members), generator=generator)[:count].tolist())
    return [index for index in range(len(labels)) if index not in held], sorted(held)


class ImageDataModule(pl.LightningDataModule, ABC):
    """Train, validation and test images.

    Args:
        batch_size: images per batch.
        num_workers: worker processes per loader.

    Attributes:
        name: short name for tables.

    Raises:
        ValueError: ``batch_size`` below 1 or ``num_workers`` below 0.
    """

    name: str

    def __init__(self, batch_size: int = 64, num_workers: int = 0) -> None:
        super().__init__()
        if batch_size < 1:
            raise ValueError(f"batch_size={batch_size}: give at least 1")
        if num_workers < 0:
            raise ValueError(f"num_workers={num_workers}: give 0 (load in the main process) or more")
        self.batch_size, self.num_workers = batch_size, num_workers
        self._datasets: dict[str, ImageDataset] = {}

    @abstractmethod
    def build(self, split: Split) -> ImageDataset:
        """Make the dataset of a split; called once per split."""

    def dataset(self, split: Split) -> ImageDataset:
        """The dataset of a split, the same object at each call.

        Raises:
            ValueError: ``split`` is none of train, val, test.
        """
        if split not in get_args(Split):
            raise ValueError(f"split={split!r}: take one of {', '.join(get_args(Split))}")
        if split not in self._datasets:
            self._datasets[split] = self.build(split)
        return self._datasets[split]

    @property
    def classes(self) -> tuple[str, ...]:
        """The K class names."""
        return self.dataset("val").classes

    @property
    def class_titles(self) -> tuple[str, ...]:
        """The K classes as a reader knows them, for figures; by default their names."""
        return self.classes

    @property
    def num_classes(self) -> int:
        """K."""
        return len(self.classes)

    def train_dataloader(self) -> DataLoader[Batch]:
        """Shuffled; the incomplete last batch is left out where there is another one."""
        dataset = self.dataset("train")
        return self._loader(dataset, shuffle=True, drop_last=len(dataset) > self.batch_size)

    def val_dataloader(self) -> DataLoader[Batch]:
        """The validation images, in order."""
        return self._loader(self.dataset("val"))

    def test_dataloader(self) -> DataLoader[Batch]:
        """The test images, in order."""
        return self._loader(self.dataset("test"))

    def predict_dataloader(self) -> DataLoader[Batch]:
        """The test images, in order."""
        return self.test_dataloader()

    def _loader(self, dataset: ImageDataset, **options: Any) -> DataLoader[Batch]:
        dataset.prepare()
        loader: DataLoader[Any] = DataLoader(
            dataset,
            batch_size=self.batch_size,
            num_workers=self.num_workers,
            persistent_workers=self.num_workers > 0,
            pin_memory=torch.cuda.is_available(),
            **options,
        )
        return loader
