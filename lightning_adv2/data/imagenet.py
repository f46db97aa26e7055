"""ImageNet-1k (ILSVRC 2012) in one folder per WordNet id."""

from __future__ import annotations

import re
from pathlib import Path

from torchvision.models import ResNet50_Weights

from lightning_adv2.data.folder import ImageFolderDataModule
from lightning_adv2.data.text_files import read_rows, read_text

_WNID = re.compile(r"n\d+")


class ImageNetDataModule(ImageFolderDataModule):
    """ImageNet (ILSVRC 2012); the test images are the validation images. Classes are the sorted WordNet ids.

    Args:
        root: a folder or zip with ``val/<wnid>/<image>`` and, for training, ``train/<wnid>/<image>``.
        resize: length of the shorter side after resizing, in pixels, or None.
        crop: side of the central square that is kept, in pixels, or None.
        class_list: the WordNet ids in the classifier's order, for a root that has only some of the classes: a text file
            with one id per line, or a CSV with the column ``wnid``; None where all 1000 are there. In a text file a
            title may follow the id, after a tab or blanks; empty lines and lines that begin with ``#`` do not count.
        boxes: CSV of object boxes, or None; see :class:`~lightning_adv2.data.folder.ImageFolderDataset`.
        batch_size: images per batch.
        num_workers: worker processes per loader.
        max_skipped: the share of a split's images that may be unreadable, in [0, 1]; they are left out and named.

    Raises:
        FileNotFoundError: ``root``, its ``val`` or ``class_list`` is not there.
        ValueError: not 1000 classes and no ``class_list``, or one that is empty or has a line without a WordNet id.
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
        """Return the K WordNet ids, in the classifier's order.

        Raises:
            FileNotFoundError: ``root`` or its split is not there.
            ValueError: not 1000 classes and no ``class_list``.
        """
        classes = super().classes
        if not self._listed and len(classes) != 1000:
            raise ValueError(
                f"root={str(self.root)!r} has {len(classes)} classes, ImageNet has 1000, and their indices depend on "
                "all of them; set class_list to a file with the classifier's WordNet ids, one per line"
            )
        return classes

    @property
    def class_titles(self) -> tuple[str, ...]:
        """Return torchvision's English titles of the classes; with a ``class_list`` the WordNet ids."""
        return self.classes if self._listed else tuple(ResNet50_Weights.IMAGENET1K_V1.meta["categories"])


def _read_class_list(path: Path) -> list[str]:
    expected = "a text file with one WordNet id per line, or a CSV with the column wnid"
    if path.suffix.lower() == ".csv":
        columns, rows = read_rows(path, "class_list", expected)
        if columns and "wnid" not in columns:
            raise ValueError(f"class_list={str(path)!r} has no column wnid; it has {', '.join(columns)}")
        found = [(line, row["wnid"]) for line, row in rows]
    else:
        text = re.split(r"\r\n|\r|\n", read_text(path, "class_list", expected))
        lines = [(number, line.strip()) for number, line in enumerate(text, 1)]
        found = [(number, line) for number, line in lines if line and not line.startswith("#")]
    if not found:
        raise ValueError(f"class_list={str(path)!r} is empty; give one WordNet id per line")
    for number, line in found:
        first, *title = line.split() or [line]
        if not _WNID.fullmatch(first) or any(map(_WNID.fullmatch, title)):
            raise ValueError(
                f"class_list={str(path)!r}, line {number}: {line!r} does not give one WordNet id such as n01440764, "
                "alone or before a title; give one id per line, in the classifier's order"
            )
    return [line.split()[0] for _, line in found]
