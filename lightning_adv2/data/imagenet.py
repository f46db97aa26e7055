"""ImageNet-1k (ILSVRC 2012) in one folder per WordNet id."""

from __future__ import annotations

import csv
from pathlib import Path

from torchvision.models import ResNet50_Weights

from lightning_adv2.data.folder import ImageFolderDataModule


class ImageNetDataModule(ImageFolderDataModule):
    """ImageNet; the test images are the validation images. Classes are the sorted WordNet ids, as in torchvision.

    Args:
        root: a folder or zip with ``val/<wnid>/<image>`` and, for training, ``train/<wnid>/<image>``.
        resize: length of the shorter side after resizing.
        crop: side of the central square that is kept.
        class_list: the WordNet ids in the classifier's order, for a root that has only some of the classes: a text
            file with one per line, or a CSV with the column ``wnid``; None where all 1000 are there.
        boxes: CSV of object boxes, or None; see :class:`~lightning_adv2.data.folder.ImageFolderDataset`.
        batch_size: images per batch.
        num_workers: worker processes per loader.
        max_skipped: the share of a split's images that may be unreadable; they are left out and named.

    Raises:
        FileNotFoundError: ``root``, its ``val`` or ``class_list`` is not there.
        ValueError: not 1000 classes and no ``class_list``, or an empty one.
    """

    def __init__(
        self,
        root: str | Path,
        resize: int | None = 256,
        crop: int | None = 224,
        class_list: str | Path | None = None,
        boxes: str | Path | None = None,
        batch_size: int = 64,
        num_workers: int = 0,
        max_skipped: float = 0.01,
    ) -> None:
        super().__init__(
            root,
            classes=None if class_list is None else _read_class_list(Path(class_list)),
            resize=resize,
            crop=crop,
            boxes=boxes,
            name="imagenet",
            batch_size=batch_size,
            num_workers=num_workers,
            max_skipped=max_skipped,
        )
        self._listed = class_list is not None

    @property
    def classes(self) -> tuple[str, ...]:
        """The K WordNet ids."""
        classes = super().classes
        if not self._listed and len(classes) != 1000:
            raise ValueError(
                f"root={str(self.root)!r} has {len(classes)} classes, ImageNet has 1000, and their indices depend on "
                "all of them; set class_list to a file with the classifier's WordNet ids, one per line"
            )
        return classes

    @property
    def class_titles(self) -> tuple[str, ...]:
        """In English, as torchvision has them; the WordNet ids where a ``class_list`` gives another order."""
        return self.classes if self._listed else tuple(ResNet50_Weights.IMAGENET1K_V1.meta["categories"])


def _read_class_list(path: Path) -> list[str]:
    if not path.is_file():
        raise FileNotFoundError(
            f"class_list={str(path)!r} does not exist; give a text file with one WordNet id per line"
        )
    text = path.read_text(encoding="utf-8")
    if path.suffix == ".csv":
        rows = list(csv.DictReader(text.splitlines()))
        if rows and "wnid" not in rows[0]:
            raise ValueError(f"class_list={str(path)!r} has no column wnid; it has {', '.join(map(str, rows[0]))}")
        names = [row["wnid"] for row in rows]
    else:
        names = text.split()
    if not names:
        raise ValueError(f"class_list={str(path)!r} is empty; give one WordNet id per line")
    return names
