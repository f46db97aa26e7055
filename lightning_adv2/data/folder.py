"""Your own images: a folder or a zip of ``<split>/<class>/<image>``."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from PIL import Image

from lightning_adv2.data.boxes import read_boxes
from lightning_adv2.data.classes import check_classes
from lightning_adv2.data.data_module import ImageDataModule, Split
from lightning_adv2.data.fitting import Transform, Where, boxes_in
from lightning_adv2.data.image_files import ImageFiles
from lightning_adv2.data.images import ImageDataset, ImageSubset
from lightning_adv2.data.sampling import hold_out
from lightning_adv2.data.storage import describe, find_storage
from lightning_adv2.data.text_files import nfc


class ImageFolderDataset(ImageFiles):
    """The images of one split, labelled by folder, in the order of their sorted paths.

    A class's images lie at any depth below its folder; links are followed. Hidden files and folders, and a system's
    (``__MACOSX``, ``Thumbs.db``, ...), are passed over, but for a class folder that ``classes`` names. Every other file
    is an image by its name (see :data:`~lightning_adv2.files.images.EXTENSIONS`), or ``left_out`` has it, and a warning
    counts it.

    Args:
        root: a folder or zip with ``<split>/<class>/<image>``, or a folder with ``<split>.zip`` that holds the same.
        split: the split's folder.
        classes: the class names in the order of their indices, or None for the sorted folder names.
        resize: length of the shorter side after bicubic, antialiased resizing, or None.
        crop: side of the central square that is kept, or None.
        boxes: CSV with the columns ``file, xmin, ymin, xmax, ymax`` (pixels, 0-based, half-open; ``file`` is
            ``<split>/<class>/<image>``), or None. An image's mask is the union of its boxes: a pixel counts when its
            centre lies inside. An image without a box gets an empty mask. An item has them as ``boxes`` ``(M, 4)``,
            too: resized, cut off at the crop's edges, and filled up with zeros to M, the most that a file has.
        cache: keep all decoded images in memory.
        exif_rotation: turn images as their EXIF tag asks for; see :func:`~lightning_adv2.data.decode.decode_image`.
        bit_depth: how many bits the values in 16-bit files have, such as 12; None for all 16. See the same.
        transform: is applied after ``resize`` and ``crop``: any of ``torchvision.transforms.v2`` that does the same at
            each call and returns an 8-bit image, or None. Boxes go along.

    Raises:
        FileNotFoundError: ``root``, ``split`` or ``boxes`` is not there, or the split is empty.
        ValueError: folders that do not fit ``classes``, unequal image sizes, ``crop`` larger than an image, bad boxes,
            boxes with ``exif_rotation``.
        UnreadableImageError: when the image is asked for.
    """

    def __init__(
        self,
        root: str | Path,
        split: str,
        classes: Sequence[str] | None = None,
        resize: int | None = None,
        crop: int | None = None,
        boxes: str | Path | None = None,
        cache: bool = False,
        exif_rotation: bool = False,
        bit_depth: int | None = None,
        transform: Transform | None = None,
    ) -> None:
        if exif_rotation and boxes is not None:
            raise ValueError(
                "exif_rotation=True: boxes refer to the pixels as they are stored; leave out exif_rotation or boxes"
            )
        root = Path(root)
        storage = find_storage(root, split)
        if storage is None:
            raise FileNotFoundError(
                f"split={split!r}: no {split}/<class>/<image> in root={str(root)!r} or in its {split}.zip; "
                f"root has: {describe(root)}; {_what_to_give(root, split)}"
            )
        images, left_out = storage.images(split, classes or ())
        names = check_classes(images, classes, f"{storage.root}: {split}")
        index = {name: label for label, name in enumerate(names)}
        paths = [path for paths in images.values() for path in paths]
        labels = [index[nfc(name)] for name, paths in images.items() for _ in paths]
        super().__init__(
            storage, split, paths, labels, names, resize, crop, cache, exif_rotation, bit_depth, left_out, transform
        )
        self.boxes = None if boxes is None else read_boxes(boxes)
        if self.boxes is not None and self.boxes.keys().isdisjoint(map(nfc, self.paths)):
            raise ValueError(
                f"boxes={str(boxes)!r} has no box of any image in split={split!r}: its files look like "
                f"{next(iter(self.boxes), None)!r}, the images like {self.paths[0]!r}"
            )
        self._most = max(map(len, self.boxes.values())) if self.boxes else 0

    def where(self, index: int, image: Image.Image) -> Where:
        """Return the image's boxes ``(M, 4)``, M the most of any file, filled up with zeros; else None."""
        if self.boxes is None:
            return None
        boxes = self.boxes.get(self.image_id(index), [])
        return boxes_in([*boxes, *[(0.0, 0.0, 0.0, 0.0)] * (self._most - len(boxes))], image)


def _what_to_give(root: Path, split: str) -> str:
    """The remedy where ``root`` has no such split: a folder above, where that one has it."""
    above = next((folder for folder in root.resolve().parents[:2] if (folder / split).is_dir()), None)
    if above is None:
        return f"give the folder that holds {split}/, with a folder of images for each class in it"
    return f"give the folder that holds {split}/, root={str(above)!r}"


class ImageFolderDataModule(ImageDataModule):
    """Images from a folder or a zip; see :class:`ImageFolderDataset`. All splits share one list of classes.

    Args:
        root: a folder or zip with ``<split>/<class>/<image>``, or a folder with one zip per split.
        classes: the class names in the order of their indices, or None for the sorted folder names of the training
            split, or of the validation split where there is no training split.
        resize: length of the shorter side after resizing, or None.
        crop: side of the central square that is kept, or None.
        boxes: CSV of object boxes, or None.
        train_split: the training images' folder.
        val_split: the validation images' folder.
        test_split: the test images' folder, or None to test on the validation images.
        val_fraction: where there is no ``val_split`` folder, the share of each class's training images to hold out.
        seed: chooses the held-out images.
        name: short name for tables, or None for the root's.
        cache: keep all decoded images in memory.
        batch_size: images per batch.
        num_workers: worker processes per loader.
        exif_rotation: turn images as their EXIF tag asks for; not with ``boxes``.
        bit_depth: how many bits the values in 16-bit files have, such as 12; None for all 16.
        max_skipped: the share of a split's images that may be unreadable; they are left out and named.
        transform: of ``torchvision.transforms.v2``, applied after ``resize`` and ``crop``, or None.

    Raises:
        FileNotFoundError: as the dataset; also when there is no validation split and ``val_fraction`` is 0.
        ValueError: as the dataset; also when ``val_fraction`` is not in [0, 1), or not 0 beside a validation split.
    """

    def __init__(
        self,
        root: str | Path,
        classes: Sequence[str] | None = None,
        resize: int | None = None,
        crop: int | None = None,
        boxes: str | Path | None = None,
        train_split: str = "train",
        val_split: str = "val",
        test_split: str | None = None,
        val_fraction: float = 0.0,
        seed: int = 0,
        name: str | None = None,
        cache: bool = False,
        batch_size: int = 64,
        num_workers: int = 0,
        exif_rotation: bool = False,
        max_skipped: float = 0.01,
        bit_depth: int | None = None,
        transform: Transform | None = None,
    ) -> None:
        super().__init__(batch_size, num_workers, max_skipped)
        if not 0 <= val_fraction < 1:
            raise ValueError(f"val_fraction={val_fraction}: give a share in [0, 1)")
        self.root, self.name = Path(root), name or Path(root).stem
        self.resize, self.crop, self.boxes, self.cache = resize, crop, boxes, cache
        self.exif_rotation, self.bit_depth, self.transform = exif_rotation, bit_depth, transform
        self.train_split, self.val_split, self.test_split = train_split, val_split, test_split
        self.val_fraction, self.seed = val_fraction, seed
        self._classes = None if classes is None else tuple(map(nfc, classes))

    @property
    def classes(self) -> tuple[str, ...]:
        """Return the K class names: ``classes``, or the sorted folder names of the training (or validation) split.

        Raises:
            FileNotFoundError: ``root`` or its split is not there.
            ValueError: two names are the same, or differ in case or Unicode form only.
        """
        if self._classes is None:
            has_train = find_storage(self.root, self.train_split) is not None
            self._classes = self._read(self.train_split if has_train else self.val_split, classes=None).classes
        return self._classes

    def build(self, split: Split) -> ImageDataset:
        """Return the images of the split's folder, or of another split where it has none.

        Raises:
            FileNotFoundError: ``root``, the split or ``boxes`` is not there.
            ValueError: folders that do not fit ``classes``, bad boxes, or ``val_fraction`` beside a validation split.
        """
        if split == "test":
            return self.dataset("val") if self.test_split is None else self._read(self.test_split, self.classes)
        has_val = find_storage(self.root, self.val_split) is not None
        if has_val and self.val_fraction:
            raise ValueError(
                f"val_fraction={self.val_fraction}, but root={str(self.root)!r} has {self.val_split!r}; set it to 0"
            )
        if self.val_fraction:
            whole = self._read(self.train_split, self.classes)
            train, val = hold_out(whole.labels, self.val_fraction, self.seed)
            self._datasets |= {"train": ImageSubset(whole, train), "val": ImageSubset(whole, val)}
            return self._datasets[split]
        if split == "val" and not has_val and find_storage(self.root, self.train_split) is not None:
            raise FileNotFoundError(
                f"val_split={self.val_split!r} is not in root={str(self.root)!r}, which has: {describe(self.root)}; "
                f"name the folder, or set val_fraction to hold out a share of {self.train_split!r}"
            )
        return self._read(self.train_split if split == "train" else self.val_split, self.classes)

    def _read(self, split: str, classes: Sequence[str] | None) -> ImageFolderDataset:
        return ImageFolderDataset(
            self.root, split, classes, self.resize, self.crop, self.boxes, self.cache, self.exif_rotation,
            self.bit_depth, self.transform,
        )  # fmt: skip
