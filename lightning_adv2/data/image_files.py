"""Images in files: decoded, brought to one size, kept in memory if asked for."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from contextlib import suppress
from types import MappingProxyType

import numpy as np
from PIL import Image

from lightning_adv2.data.decode import decode_image, reason_of, resize_and_crop
from lightning_adv2.data.images import ImageDataset, Mask, Pixels, UnreadableImageError
from lightning_adv2.data.storage import Storage
from lightning_adv2.data.text_files import nfc


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
        bit_depth: of the values in 16-bit files, 9 to 16, or None; see the same. With None the first file whose values
            look like fewer bits is named in a warning.
        left_out: path -> why not, of the files that are not read; a warning counts them and names the first ones.

    Raises:
        ValueError: ``resize`` or ``crop`` below 1, ``bit_depth`` out of its range, two paths that are the same but for
            Unicode's forms; when an image is asked for: unequal image sizes, or ``crop`` larger
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
        bit_depth: int | None = None,
        left_out: Mapping[str, str] = MappingProxyType({}),
    ) -> None:
        for name, value in (("resize", resize), ("crop", crop)):
            if value is not None and value < 1:
                raise ValueError(f"{name}={value}: give at least 1 pixel, or None to leave it out")
        if bit_depth is not None and not 9 <= bit_depth <= 16:
            raise ValueError(f"bit_depth={bit_depth}: give the bits of the values in 16-bit files, 9 to 16, or None")
        self.storage, self.split, self.classes = storage, split, tuple(classes)
        self.paths, self.labels = list(paths), list(labels)
        self.resize, self.crop, self.cache, self.exif_rotation = resize, crop, cache, exif_rotation
        self.bit_depth, self.left_out = bit_depth, left_out
        self._dim_named = False
        _check_unique(self.paths)
        if left_out:
            warnings.warn(
                f"{storage.root}, {split}: {len(left_out)} file{'s' * (len(left_out) > 1)} beside the {len(paths)} "
                f"images not read: {named(left_out)}",
                stacklevel=3,
            )
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
        """The path, in Unicode's composed form."""
        return nfc(self.paths[index])

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
        image = self.read(self.paths[index], self.image_id(index))
        image, mask = self.fit(index, image)
        return np.asarray(image), mask

    def read(self, path: str, image_id: str) -> Image.Image:
        """One file as an RGB image.

        Raises:
            UnreadableImageError: the file cannot be read, or is no image.
        """
        return decode_image(self._bytes(path, image_id), image_id, self.exif_rotation, self.bit_depth, self._name_dim)

    def content(self, index: int) -> bytes:
        """The file's bytes."""
        return self._bytes(self.paths[index], self.image_id(index))

    def _bytes(self, path: str, image_id: str) -> bytes:
        try:
            return self.storage.read(path)
        except Exception as error:  # a file that went, a bad CRC, an encrypted member, ...
            raise UnreadableImageError(image_id, reason_of(error)) from error

    def _name_dim(self, words: str) -> None:
        """The first of many."""
        if not self._dim_named:
            self._dim_named = True
            warnings.warn(words, stacklevel=2)


def named(reasons: Mapping[str, str], count: int = 5) -> str:
    """The first few of many names, each with its reason."""
    words = [f"{name} ({reason})" for name, reason in list(reasons.items())[:count]]
    return "; ".join(words) + (f"; and {len(reasons) - count} more" if len(reasons) > count else "")


def _check_unique(paths: Sequence[str]) -> None:
    seen: dict[str, str] = {}
    for path in paths:
        if seen.setdefault(nfc(path), path) != path:
            raise ValueError(
                f"{seen[nfc(path)]!a} and {path!a} are the same name in two forms of Unicode (composed, decomposed); "
                "rename or remove one of them"
            )
