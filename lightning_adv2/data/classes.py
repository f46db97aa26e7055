"""The classes of folders; names count in Unicode's composed form (NFC), whatever a file system stores."""

from __future__ import annotations

import warnings
from collections import Counter
from collections.abc import Collection, Sequence

from lightning_adv2.data.text_files import nfc


def check_classes(images: dict[str, list[str]], classes: Sequence[str] | None, where: str) -> tuple[str, ...]:
    """Return the class names in the order of their indices: ``classes``, or the folders' sorted names; both in NFC.

    Args:
        images: the image paths of each class folder.
        classes: the names asked for, or None.
        where: the split, for errors.

    Raises:
        FileNotFoundError: there is no image at all.
        ValueError: an empty folder where ``classes`` does not fix the indices; a folder that is not among ``classes``;
            names that are the same, or differ in case or Unicode form only.
    """
    if not any(images.values()):
        found = f"only empty class folders ({', '.join(list(images)[:10])})" if images else "no class folders"
        raise FileNotFoundError(f"{where} has {found}; put images into {where}/<class>/<image>")
    _refuse_look_alikes(images if classes is None else classes, where)
    if classes is None:
        empty = [name for name, paths in images.items() if not paths]
        if empty:
            raise ValueError(f"{where}: no images for class {', '.join(empty)}; remove the folder, or give classes")
        names = tuple(map(nfc, images))
        if names != tuple(map(nfc, sorted(images))):
            warnings.warn(
                f"{where}: the class folders' names are stored in decomposed Unicode; the classes are numbered by "
                f"their composed names ({', '.join(names[:10])}), which other programs may number otherwise; give "
                "classes in the classifier's order",
                stacklevel=2,
            )
        return names
    classes = tuple(map(nfc, classes))
    unknown = [name for name in images if nfc(name) not in classes]
    if unknown:
        raise ValueError(
            f"{where}: folder {', '.join(unknown[:10])} is not among the {len(classes)} given classes; add it"
        )
    if len(set(classes)) < len(classes):
        raise ValueError(f"classes={list(classes)}: a name appears twice")
    return classes


def _refuse_look_alikes(names: Collection[str], where: str) -> None:
    """Cat and cat are one folder on some file systems, and then the classes after them move up."""
    folded = Counter(_folded(name) for name in set(names))
    alike = sorted(name for name in set(names) if folded[_folded(name)] > 1)
    if alike:
        how = "case" if len({*map(nfc, alike)}) == len(alike) else "Unicode form (composed, decomposed)"
        raise ValueError(f"{where}: the classes {', '.join(alike[:10])} differ in {how} only; rename or join them")


def _folded(name: str) -> str:
    return nfc(nfc(name).casefold())
