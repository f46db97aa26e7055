"""Skin lesions: HAM10000 (Tschandl et al. 2018) as in ISIC 2018, task 3, the paper's skin-cancer case (Figure 18)."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path, PurePosixPath
from types import MappingProxyType

from PIL import Image

from lightning_adv2.data.data_module import ImageDataModule, Split
from lightning_adv2.data.fitting import Where
from lightning_adv2.data.image_files import ImageFiles
from lightning_adv2.data.lesion_labels import (
    CLASSES,
    TITLES,
    Lesion,
    check_images,
    held_out,
    read_labels,
    with_lesions,
)
from lightning_adv2.data.storage import FolderStorage, Storage, ZipStorage
from lightning_adv2.data.text_files import nfc

_SPLITS: tuple[Split, ...] = ("train", "val", "test")


class LesionDataset(ImageFiles):
    """Dermatoscopic images with their class and, where there are any, their lesion masks.

    Args:
        storage: where images and masks lie.
        split: the split's name, for errors.
        rows: the images, in their order.
        paths: image id -> the image's path.
        masks: image id -> the path of its mask, white on the lesion; for no image, or for all.
        resize: length of the shorter side after resizing, in pixels, or None.
        crop: side of the central square that is kept, in pixels, or None.
        cache: keep all decoded images in memory.
        bit_depth: how many bits the values in 16-bit files have, such as 12; None for all 16.
        left_out: path -> reason, for the files that are not read.

    Raises:
        ValueError: some images have a mask and others none; when an image is loaded, its mask has another size.
    """

    def __init__(
        self,
        storage: Storage,
        split: str,
        rows: Sequence[Lesion],
        paths: Mapping[str, str],
        masks: Mapping[str, str],
        resize: int | None = None,
        crop: int | None = None,
        cache: bool = False,
        bit_depth: int | None = None,
        left_out: Mapping[str, str] = MappingProxyType({}),
    ) -> None:
        self.ids = [row.image_id for row in rows]
        self.masks = {name: masks[name] for name in self.ids if name in masks}
        if self.masks and (bare := [name for name in self.ids if name not in masks]):
            raise ValueError(
                f"{storage.root}: {len(bare)} of the {len(rows)} images of the {split} split have no mask, such as "
                f"{bare[0]}; give a mask to each of them or to none"
            )
        labels = [row.label for row in rows]
        own = [paths[name] for name in self.ids]
        super().__init__(
            storage, split, own, labels, CLASSES, resize, crop, cache, bit_depth=bit_depth, left_out=left_out
        )

    def image_id(self, index: int) -> str:
        """Return the image's name in the ISIC archive, such as ``ISIC_0024306``."""
        return self.ids[index]

    def where(self, index: int, image: Image.Image) -> Where:
        """Return the image's mask, white on the lesion; None where the images have no masks.

        Raises:
            ValueError: the mask is not of the image's size.
            UnreadableImageError: the mask cannot be read.
        """
        name = self.ids[index]
        if not self.masks:
            return None
        mask = self.read(self.masks[name], name)
        if mask.size != image.size:
            raise ValueError(
                f"{self.masks[name]} is {mask.height} x {mask.width} pixels, its image {image.height} x {image.width}; "
                "masks must be of their images' sizes"
            )
        return mask


class HAM10000DataModule(ImageDataModule):
    """Seven classes of skin lesions (HAM10000, Tschandl et al. 2018) in ISIC 2018's order. Nothing is downloaded.

    The classes are MEL, NV, BCC, AKIEC, BKL, DF, VASC. Images are found by the names in ``labels``, at any depth of a
    folder or zip, also behind links; every image needs a row and every row an image, and no image may have two files,
    or two masks. PNG files below a folder ``masks`` beside the images, ``<image>.png`` or ``<image>_segmentation.png``,
    are lesion masks.

    Args:
        images: a folder or zip, or one for each split (train, val, test).
        labels: a CSV file (see :func:`~lightning_adv2.data.lesion_labels.read_labels`), or one for each split. A single
            file with a column ``split`` says which image goes where; from a file without it shares are held out, so
            that all images of a lesion are in one split.
        lesions: CSV with ``image`` or ``image_id`` and ``lesion_id``, where ``labels`` lacks the latter: ISIC's
            ``LesionGroupings`` or HAM10000's metadata. Without it images of one lesion may be in two splits.
        val_fraction: share of each class's images held out for validation, in [0, 1).
        test_fraction: share held out for the test, in [0, 1).
        seed: chooses the held-out images.
        resize: length of the shorter side after resizing, in pixels, or None.
        crop: side of the central square that is kept, in pixels, or None.
        cache: keep all decoded images in memory.
        balanced: draw the training images so that every class comes equally often.
        batch_size: images per batch.
        num_workers: worker processes per loader.
        max_skipped: the share of a split's images that may be unreadable, in [0, 1]; they are left out and named.
        bit_depth: how many bits the values in 16-bit files have, such as 12; None for all 16.

    Raises:
        FileNotFoundError: a file is not there, or there is no such split.
        ValueError: settings or files that do not fit together; see the functions named.
    """

    name = "ham10000"
    classes = CLASSES
    class_titles = tuple(TITLES.values())

    def __init__(
        self,
        images: str | Path | dict[str, str],
        labels: str | Path | dict[str, str],
        lesions: str | Path | None = None,
        val_fraction: float = 0.15,
        test_fraction: float = 0.15,
        seed: int = 0,
        resize: int | None = 256,
        crop: int | None = 224,
        cache: bool = False,
        balanced: bool = False,
        batch_size: int = 32,
        num_workers: int = 0,
        max_skipped: float = 0.01,
        bit_depth: int | None = None,
    ) -> None:
        super().__init__(batch_size, num_workers, max_skipped)
        for option, given in (("images", images), ("labels", labels)):
            if isinstance(given, dict) and not set(given) <= set(_SPLITS):
                raise ValueError(f"{option}={given}: name the splits {', '.join(_SPLITS)}")
        if isinstance(images, dict) and (not isinstance(labels, dict) or images.keys() != labels.keys()):
            raise ValueError(f"images={images} is given for each split, labels={labels!r} must be for the same ones")
        if not (val_fraction >= 0 and test_fraction >= 0 and val_fraction + test_fraction < 1):
            raise ValueError(
                f"val_fraction={val_fraction}, test_fraction={test_fraction}: give shares that sum below 1"
            )
        self.images, self.labels, self.lesions = images, labels, lesions
        self.val_fraction, self.test_fraction, self.seed = val_fraction, test_fraction, seed
        self.resize, self.crop, self.cache, self.balanced = resize, crop, cache, balanced
        self.bit_depth = bit_depth

    def build(self, split: Split) -> LesionDataset:
        """Return the images of a split, after a check of all labels and files; decodes no image.

        Raises:
            FileNotFoundError: a file is not there, or no image is of the split.
            ValueError: labels, images or masks do not fit together.
        """
        rows = self._rows()
        own = [row for row in rows if row.split == split]
        if not own:
            counted = ", ".join(sorted({str(row.split) for row in rows}))
            raise FileNotFoundError(f"labels={self.labels!r}: no images of the split {split!r}; there are: {counted}")
        where = self.images[split] if isinstance(self.images, dict) else self.images
        storage = _open(Path(where))
        files, left_out = storage.files()
        masks = _by_id([path for path in files if _is_mask(path)], where, "masks", "_segmentation")
        paths = _by_id([path for path in files if not _is_mask(path)], where, "files")
        check_images(own if isinstance(self.images, dict) else rows, paths, self.labels, where)
        return LesionDataset(
            storage, split, own, paths, masks, self.resize, self.crop, self.cache, self.bit_depth, left_out
        )

    def _rows(self) -> list[Lesion]:
        if isinstance(self.labels, dict):
            return [
                Lesion(row.image_id, row.label, split, row.lesion_id)
                for split, path in self.labels.items()
                for row in read_labels(path, f"labels.{split}")
            ]
        rows = read_labels(self.labels)
        if all(row.split for row in rows):
            return rows
        if self.lesions is not None:
            rows = with_lesions(rows, self.lesions)
        return held_out(rows, {"val": self.val_fraction, "test": self.test_fraction}, self.seed)


def _open(root: Path) -> Storage:
    if not root.exists():
        raise FileNotFoundError(f"images={str(root)!r} does not exist; give a folder or a zip of images")
    return FolderStorage(root) if root.is_dir() else ZipStorage(root)


def _is_mask(path: str) -> bool:
    return "masks" in PurePosixPath(path).parts[:-1]


def _by_id(paths: Sequence[str], where: object, what: str, suffix: str = "") -> dict[str, str]:
    """Image id -> its one path."""
    found: dict[str, list[str]] = defaultdict(list)
    for path in paths:
        found[nfc(PurePosixPath(path).stem).removesuffix(suffix)].append(path)
    double = {name: own for name, own in found.items() if len(own) > 1}
    if double:
        name, own = next(iter(double.items()))
        raise ValueError(
            f"images={str(where)!r}: {len(double)} images have several {what}, such as {name}: {', '.join(own)}; keep "
            "one of each below this folder"
        )
    return {name: path for name, (path,) in found.items()}
