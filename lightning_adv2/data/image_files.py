"""Images in files: decoded, brought to one size, kept in memory if asked for."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from contextlib import suppress
from types import MappingProxyType

from PIL import Image

from lightning_adv2.data.decode import decode_image, reason_of
from lightning_adv2.data.fitting import Fitted, ResizeAndCrop, Transform, Where
from lightning_adv2.data.images import ImageDataset, Item, Mask, Pixels, UnreadableImageError
from lightning_adv2.data.storage import Storage
from lightning_adv2.data.text_files import nfc


class ImageFiles(ImageDataset):
    """Labelled image files of one storage. A subclass that knows where the object is overrides :meth:`where`.

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
        transform: is applied after ``resize`` and ``crop``: any of ``torchvision.transforms.v2`` that does the same at
            each call and returns an 8-bit image, or None.

    Raises:
        TypeError: when an image is asked for: ``transform`` returns no 8-bit image.
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
        transform: Transform | None = None,
    ) -> None:
        self._fit = ResizeAndCrop(resize, crop, transform)
        if bit_depth is not None and not 9 <= bit_depth <= 16:
            raise ValueError(f"bit_depth={bit_depth}: give the bits of the values in 16-bit files, 9 to 16, or None")
        self.storage, self.split, self.classes = storage, split, tuple(classes)
        self.paths, self.labels = list(paths), list(labels)
        self.cache, self.exif_rotation = cache, exif_rotation
        self.bit_depth, self.left_out = bit_depth, left_out
        self._dim_named = False
        _check_unique(self.paths)
        if left_out:
            warnings.warn(
                f"{storage.root}, {split}: {len(left_out)} file{'s' * (len(left_out) > 1)} beside the {len(paths)} "
                f"images not read: {named(left_out)}",
                stacklevel=3,
            )
        self._size: tuple[int, int] | None = None if crop is None or transform is not None else (crop, crop)
        self._decoded: list[Fitted | str] | None = None

    @property
    def image_size(self) -> tuple[int, int]:
        """Return height and width in pixels: of the crop, or of the first image that can be read.

        Raises:
            RuntimeError: no image can be read.
        """
        if self._size is None:
            self._size = self._first_size()
        return self._size

    def _first_size(self) -> tuple[int, int]:
        for index in range(len(self)):
            with suppress(UnreadableImageError):
                height, width = self._decode(index).pixels.shape[:2]
                return height, width
        raise RuntimeError(f"split={self.split!r}: none of its {len(self)} images in {self.storage.root} can be read")

    def __len__(self) -> int:
        return len(self.paths)

    def label(self, index: int) -> int:
        """Return the true class, an index into ``classes``."""
        return self.labels[index]

    def image_id(self, index: int) -> str:
        """Return the image's path in Unicode's composed form."""
        return nfc(self.paths[index])

    def where(self, index: int, image: Image.Image) -> Where:
        """Return where the object is in a decoded image of its own size; None, the default, for unknown."""
        return None

    def load(self, index: int) -> tuple[Pixels, Mask | None]:
        """Return the image ``(H, W, 3)`` uint8 and its object's mask ``(H, W)`` bool, or None where nobody knows it.

        Raises:
            UnreadableImageError: the file cannot be read, or holds no image.
            ValueError: the image is of another size than the first image, or smaller than ``crop``.
            TypeError: ``transform`` returns no 8-bit image.
        """
        return self._fitted(index)[:2]

    def __getitem__(self, index: int) -> Item:
        fitted = self._fitted(index)
        item = self.item(index, fitted.pixels, fitted.mask)
        if fitted.boxes is not None:
            item["boxes"] = fitted.boxes
        return item

    def _fitted(self, index: int) -> Fitted:
        if self.cache:
            self.prepare()
        if self._decoded is None:
            return self._load(index)
        loaded = self._decoded[index]
        if isinstance(loaded, str):
            raise UnreadableImageError(self.image_id(index), loaded)
        return loaded

    def prepare(self) -> None:
        """With ``cache``, decode all images once; an unreadable image is an error only when it is asked for."""
        if self.cache and self._decoded is None:
            self._decoded = [self._load_or_reason(index) for index in range(len(self))]

    def _load_or_reason(self, index: int) -> Fitted | str:
        try:
            return self._load(index)
        except UnreadableImageError as error:
            return error.reason

    def _load(self, index: int) -> Fitted:
        fitted = self._decode(index)
        size = fitted.pixels.shape[:2]
        if size != self.image_size:
            raise ValueError(
                f"{self.paths[index]} is {size[0]} x {size[1]} pixels (height x width), the first image is "
                f"{self.image_size[0]} x {self.image_size[1]}: set resize and crop to bring all to one size"
            )
        return fitted

    def _decode(self, index: int) -> Fitted:
        image = self.read(self.paths[index], self.image_id(index))
        return self._fit(image, self.where(index, image), self.image_id(index))

    def read(self, path: str, image_id: str) -> Image.Image:
        """Return one file as an RGB image, of its own size.

        Args:
            path: of the file in the storage.
            image_id: the image's name, for errors.

        Raises:
            UnreadableImageError: the file cannot be read, or holds no image.
        """
        return decode_image(self._bytes(path, image_id), image_id, self.exif_rotation, self.bit_depth, self._name_dim)

    def content(self, index: int) -> bytes:
        """Return the bytes of the image's file.

        Raises:
            UnreadableImageError: the file cannot be read.
        """
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
    """Return the first ``count`` of many names in one line, each with its reason, and the number of the others."""
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
