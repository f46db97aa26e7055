"""CIFAR-10 (Krizhevsky 2009) from image files or from the official archive."""

from __future__ import annotations

from pathlib import Path

import torch
from torchvision import datasets

from lightning_adv2.data.data_module import ImageDataModule, Split
from lightning_adv2.data.folder import ImageFolderDataset
from lightning_adv2.data.images import ImageDataset, ImageSubset, Pixels

CLASSES = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")


class OfficialCIFAR10(ImageDataset):
    """The unpacked official archive ``cifar-10-batches-py``; torchvision checks its MD5 sums.

    Args:
        root: the folder that holds ``cifar-10-batches-py``.
        train: the 50,000 training images or the 10,000 test images.

    Raises:
        RuntimeError: a file is missing or damaged.
    """

    classes = CLASSES
    image_size = (32, 32)

    def __init__(self, root: str | Path, train: bool) -> None:
        try:
            source = datasets.CIFAR10(root, train=train)
        except RuntimeError as error:
            raise RuntimeError(
                f"root={str(root)!r}: cifar-10-batches-py is incomplete or damaged; unpack cifar-10-python.tar.gz again"
            ) from error
        self._pixels, self._labels, self._split = source.data, source.targets, "train" if train else "test"

    def __len__(self) -> int:
        return len(self._labels)

    def label(self, index: int) -> int:
        """Return the true class, in 0 to 9."""
        return int(self._labels[index])

    def image_id(self, index: int) -> str:
        """Return split and number, such as ``test/00042``."""
        return f"{self._split}/{index:05d}"

    def load(self, index: int) -> tuple[Pixels, None]:
        """Return the image ``(32, 32, 3)`` uint8, and None for the mask that nobody knows."""
        return self._pixels[index], None


class CIFAR10DataModule(ImageDataModule):
    """CIFAR-10 (Krizhevsky 2009); validation images are held out from the training images.

    ``lightning-adv2 fetch cifar10`` downloads the archive.

    Args:
        root: a folder with ``cifar-10-batches-py`` (the official archive, unpacked), or with ``train`` and ``test``,
            each a folder or a zip of ``<split>/<class>/<image>``.
        num_val: training images to hold out.
        seed: chooses the held-out images, and the training images.
        num_train: number of the other images to train on; None takes all.
        batch_size: images per batch.
        num_workers: worker processes per loader.
        max_skipped: the share of a split's images that may be unreadable, in [0, 1]; they are left out and named.

    Raises:
        FileNotFoundError: ``root`` or a split is not there.
        ValueError: ``num_val`` leaves no training image, or is below 1; ``num_train`` is more than is left.
    """

    name = "cifar10"
    classes = CLASSES

    def __init__(
        self,
        root: str | Path,
        num_val: int = 1000,
        seed: int = 0,
        batch_size: int = 64,
        num_workers: int = 0,
        max_skipped: float = 0.01,
        num_train: int | None = None,
    ) -> None:
        super().__init__(batch_size, num_workers, max_skipped)
        self.root, self.num_val, self.seed, self.num_train = Path(root), num_val, seed, num_train

    def build(self, split: Split) -> ImageDataset:
        """Return the test images, or a part of the training images.

        Raises:
            FileNotFoundError: ``root`` or the split is not there.
            RuntimeError: a file of the official archive is missing or damaged.
            ValueError: ``num_val`` or ``num_train`` is out of range.
        """
        if split == "test":
            return self._read(train=False)
        whole = self._read(train=True)
        if not 1 <= self.num_val < len(whole):
            raise ValueError(
                f"num_val={self.num_val}: hold out at least 1 and less than all {len(whole)} training images"
            )
        left = len(whole) - self.num_val
        if self.num_train is not None and not 1 <= self.num_train <= left:
            raise ValueError(f"num_train={self.num_train}: give 1 to {left}, which num_val leaves, or None for all")
        order = torch.randperm(len(whole), generator=torch.Generator().manual_seed(self.seed)).tolist()
        self._datasets["val"] = ImageSubset(whole, sorted(order[: self.num_val]))
        self._datasets["train"] = ImageSubset(whole, sorted(order[self.num_val :][: self.num_train]))
        return self._datasets[split]

    def _read(self, train: bool) -> ImageDataset:
        if (self.root / "cifar-10-batches-py").is_dir():
            return OfficialCIFAR10(self.root, train)
        try:
            return ImageFolderDataset(self.root, "train" if train else "test", classes=CLASSES, cache=True)
        except FileNotFoundError as error:
            raise FileNotFoundError(
                f"{error}. Lay CIFAR-10 out as {self.root}/cifar-10-batches-py ('lightning-adv2 fetch cifar10' does so "
                f"below data/; or unpack cifar-10-python.tar.gz there), or as {self.root}/train/<class>/<image> and "
                f"{self.root}/test/<class>/<image>, or the same in "
                "train.zip and test.zip"
            ) from error
