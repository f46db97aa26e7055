"""Datasets of labelled images."""

from __future__ import annotations

import hashlib
import json
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import NotRequired, TypeAlias, TypedDict

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import Dataset

Pixels: TypeAlias = NDArray[np.uint8]
"""One image, ``(H, W, C)`` uint8."""

Mask: TypeAlias = NDArray[np.bool_]
"""The object's pixels in one image, ``(H, W)`` bool."""

FINGERPRINTED = 2**31
"""Bytes of images that a fingerprint reads at most; a disk takes some ten seconds for them."""


class UnreadableImageError(RuntimeError):
    """An image cannot be read; a reader of many images may leave it out, by name.

    Args:
        image_id: the image's name in the dataset.
        reason: in words that are the same on every machine.
    """

    def __init__(self, image_id: str, reason: str) -> None:
        super().__init__(image_id, reason)  # as given, so that it survives pickling
        self.image_id, self.reason = image_id, reason

    def __str__(self) -> str:
        return f"cannot read the image {self.image_id} ({self.reason}); replace or remove it"


class Item(TypedDict):
    """An image with the keys of :class:`~lightning_adv2.types.Batch`; default collation makes a batch of several.

    Attributes:
        images: ``(C, H, W)`` float32 in [0, 1], exactly ``k / 255``.
        label: the true class.
        image_id: unique within the dataset.
        mask: the object's pixels, ``(1, H, W)`` bool.
        boxes: the object's boxes, ``(M, 4)`` float32 xmin, ymin, xmax, ymax in pixels; those without area fill up.
    """

    images: Tensor
    label: int
    image_id: str
    mask: NotRequired[Tensor]
    boxes: NotRequired[Tensor]


class ImageDataset(Dataset[Item], ABC):
    """Labelled 8-bit images of one size.

    Attributes:
        classes: the K class names; a label is an index into them.
        left_out: path -> reason, for the files beside the images that are not read as images.
    """

    classes: tuple[str, ...]
    left_out: Mapping[str, str] = MappingProxyType({})

    @property
    @abstractmethod
    def image_size(self) -> tuple[int, int]:
        """Return height and width in pixels."""

    @abstractmethod
    def __len__(self) -> int: ...

    @abstractmethod
    def label(self, index: int) -> int:
        """Return the true class, an index into ``classes``, without decoding the image."""

    @abstractmethod
    def image_id(self, index: int) -> str:
        """Return a name that is unique within the dataset and does not depend on the dataset's length."""

    @abstractmethod
    def load(self, index: int) -> tuple[Pixels, Mask | None]:
        """Return the image ``(H, W, C)`` uint8 and its object's mask ``(H, W)`` bool, or None where nobody knows it.

        Raises:
            UnreadableImageError: the image cannot be read.
        """

    def prepare(self) -> None:
        """Bring into memory what is kept there; called before worker processes start, so that they share it."""

    def uint8(self, index: int) -> Pixels:
        """Return the image as stored, ``(H, W, C)`` uint8, of which content hashes are taken.

        Raises:
            UnreadableImageError: the image cannot be read.
        """
        return self.load(index)[0]

    def content(self, index: int) -> bytes:
        """Return bytes that change when the image does: its pixels, or its file.

        Raises:
            UnreadableImageError: the image cannot be read.
        """
        return self.uint8(index).tobytes()

    def fingerprint(self) -> str:
        """Return the SHA-256 of all names and labels, and of up to ``FINGERPRINTED`` bytes of the images' content.

        Where there is more content, as many images count as fit, in a random order that is always the same. An image
        that cannot be read counts with its reason.
        """
        digest = hashlib.sha256(json.dumps([(self.image_id(i), self.label(i)) for i in range(len(self))]).encode())
        read = 0
        for index in torch.randperm(len(self), generator=torch.Generator().manual_seed(0)).tolist():
            try:
                content = self.content(index)
            except UnreadableImageError as error:
                content = error.reason.encode()
            digest.update(hashlib.sha256(content).digest())
            read += len(content)
            if read > FINGERPRINTED:
                break
        return digest.hexdigest()

    def __getitem__(self, index: int) -> Item:
        return self.item(index, *self.load(index))

    def item(self, index: int, pixels: Pixels, mask: Mask | None) -> Item:
        """Return the item of a loaded image.

        Args:
            index: the image's number in the dataset.
            pixels: ``(H, W, C)`` uint8.
            mask: ``(H, W)`` bool, or None.
        """
        images = torch.from_numpy(pixels.transpose(2, 0, 1).astype(np.float32)) / 255
        item = Item(images=images, label=self.label(index), image_id=self.image_id(index))
        if mask is not None:
            item["mask"] = torch.from_numpy(mask[None].copy())
        return item


class ImageSubset(ImageDataset):
    """Some images of another dataset.

    Args:
        source: the whole dataset.
        indices: the images' numbers in ``source``, in the new order.
    """

    def __init__(self, source: ImageDataset, indices: Sequence[int]) -> None:
        self.source, self.indices, self.classes = source, list(indices), source.classes
        self.left_out = source.left_out

    @property
    def image_size(self) -> tuple[int, int]:
        """Return height and width in pixels."""
        return self.source.image_size

    def __len__(self) -> int:
        return len(self.indices)

    def label(self, index: int) -> int:
        """Return the true class, an index into ``classes``."""
        return self.source.label(self.indices[index])

    def image_id(self, index: int) -> str:
        """Return the image's name in the whole dataset."""
        return self.source.image_id(self.indices[index])

    def load(self, index: int) -> tuple[Pixels, Mask | None]:
        """Return the image ``(H, W, C)`` uint8 and its mask ``(H, W)`` bool or None; see :meth:`ImageDataset.load`."""
        return self.source.load(self.indices[index])

    def content(self, index: int) -> bytes:
        """Return the bytes of the whole dataset's image, and raise its errors."""
        return self.source.content(self.indices[index])

    def __getitem__(self, index: int) -> Item:
        return self.source[self.indices[index]]

    def prepare(self) -> None:
        """Bring the whole dataset into memory."""
        self.source.prepare()
