"""Images in files: decoded, brought to one size, kept in memory if asked for."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress

import numpy as np
from PIL import Image

from lightning_adv2.data.decode import decode_image, reason_of, resize_and_crop
from lightning_adv2.data.images import ImageDataset, Mask, Pixels, UnreadableImageError
from lightning_adv2.data.storage import Storage


class ImageFiles(ImageDataset):
    """Labelled image files of one storage. A subclass that knows where the object is overrides :meth:`fit`.

    Args:
        storage: where the files lie.
        split: the split's name, for errors.
        paths: of the images, in their order.
        labels: their classes.
        classes: the K class names.
        resize: length of the shorter side after bicubic, antialiased resizing, or None.
        crop: side of the central square that is kept, or None.
        cache: keep all decoded images in memory.
        exif_rotation: turn images as their EXIF tag asks for; see :func:`~lightning_adv2.data.decode.decode_image`.

    Raises:
        ValueError: ``resize`` or ``crop`` below 1; when an image is asked for: unequal image sizes, or ``crop`` larger
            than the image.
        UnreadableImageError: when the image is asked for.
    """

    def __init__(
        self,
        storage: Storage,
        split: str,
        paths: Sequence[str],
        labels: Sequence[int],
        classes: Sequence[str],
        resize: int | None = None,
        crop: int | None = None,
        cache: bool = False,
        exif_rotation: bool = False,
    ) -> None:
        for name, value in (("resize", resize), ("crop", crop)):
            if value is not None and value < 1:
                raise ValueError(f"{name}={value}: give at least 1 pixel, or None to leave it out")
        self.storage, self.split, self.classes = storage, split, tuple(classes)
        self.paths, self.labels = list(paths), list(labels)
        self.resize, self.crop, self.cache, self.exif_rotation = resize, crop, cache, exif_rotation
        self._size: tuple[int, int] | None = None if crop is None else (crop, crop)
        self._decoded: list[tuple[Pixels, Mask | None] | str] | None = None

    @property
    def image_size(self) -> tuple[int, int]:
        """Height and width: of the crop, or else of the first image that can be read."""
        if self._size is None:
            self._size = self._first_size()
        return self._size

    def _first_size(self) -> tuple[int, int]:
        for index in range(len(self)):
            with suppress(UnreadableImageError):
                height, width = self._decode(index)[0].shape[:2]
                return height, width
        raise RuntimeError(f"split={self.split!r}: none of its {len(self)} images in {self.storage.root} can be read")

    def __len__(self) -> int:
        return len(self.paths)

    def label(self, index: int) -> int:
        """The true class."""
        return self.labels[index]

    def image_id(self, index: int) -> str:
        """The path."""
        return self.paths[index]

    def fit(self, index: int, image: Image.Image) -> tuple[Image.Image, Mask | None]:
        """Bring a decoded image to its size, and make its object's mask."""
        return resize_and_crop(image, None, self.resize, self.crop, self.image_id(index))[0], None

    def load(self, index: int) -> tuple[Pixels, Mask | None]:
        """The image ``(H, W, 3)`` uint8 and its mask ``(H, W)`` bool, if it has one."""
        if self.cache:
            self.prepare()
        if self._decoded is None:
            return self._load(index)
        loaded = self._decoded[index]
        if isinstance(loaded, str):
            raise UnreadableImageError(self.image_id(index), loaded)
        return loaded

    def prepare(self) -> None:
        """With ``cache``, decode all images, once; one that cannot be read is an error only when it is asked for."""
        if self.cache and self._decoded is None:
            self._decoded = [self._load_or_reason(index) for index in range(len(self))]

    def _load_or_reason(self, index: int) -> tuple[Pixels, Mask | None] | str:
        try:
            return self._load(index)
        except UnreadableImageError as error:
            return error.reason

    def _load(self, index: int) -> tuple[Pixels, Mask | None]:
        pixels, mask = self._decode(index)
        size = pixels.shape[0], pixels.shape[1]
        if size != self.image_size:
            raise ValueError(
                f"{self.paths[index]} is {size[0]} x {size[1]} pixels (height x width), the first image is "
                f"{self.image_size[0]} x {self.image_size[1]}: set resize and crop to bring all to one size"
            )
        return pixels, mask

    def _decode(self, index: int) -> tuple[Pixels, Mask | None]:
        image = read_image(self.storage, self.paths[index], self.image_id(index), self.exif_rotation)
        image, mask = self.fit(index, image)
        return np.asarray(image), mask


def read_image(storage: Storage, path: str, image_id: str, exif_rotation: bool = False) -> Image.Image:
    """One file as an RGB image.

    Raises:
        UnreadableImageError: the file cannot be read, or is no image.
    """
    try:
        data = storage.read(path)
    except Exception as error:  # a file that went, a bad CRC, an encrypted member, ...
        raise UnreadableImageError(image_id, reason_of(error)) from error
    return decode_image(data, image_id, exif_rotation)
