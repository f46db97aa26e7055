"""The class that the attack on each image aims at: drawn at random, or given by the user."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from hashlib import sha256
from typing import TypeAlias

from lightning_adv2.data.images import ImageDataset
from lightning_adv2.data.text_files import nfc, read_rows

TargetClass: TypeAlias = int | list[int | str | None] | str | None
"""None: drawn for each image. An index or a name: of all images. A list: for each true class. A ``.csv``: per image."""

RANDOM = "drawn at random"


@dataclass(frozen=True)
class TargetClasses:
    """The targets of a dataset's images, where they are not drawn.

    Attributes:
        description: equal for equal targets, in words for the manifest.
        of_image: index in the dataset -> target class, for each image that has one; the others are not attacked.
    """

    description: str
    of_image: Mapping[int, int]


def target_classes(given: TargetClass, dataset: ImageDataset) -> TargetClasses | None:
    """Return the targets for a dataset; None where they are drawn.

    Args:
        given: see :class:`~lightning_adv2.data.attack.AttackDataModule`.
        dataset: whose labels and names the targets must fit.

    Raises:
        FileNotFoundError: no such CSV.
        ValueError: an unknown class or image, a target that is the true class, a list without an entry for each class,
            or no image that is left to attack.
    """
    if given is None:
        return None
    if isinstance(given, str) and given.lower().endswith(".csv"):
        found = _from_file(given, dataset)
    else:
        found = _from_classes(given, dataset)
    if not found.of_image:
        raise ValueError(f"target_class={given!r} leaves no image to attack; give another class")
    return found


def _from_classes(given: int | str | list[int | str | None], dataset: ImageDataset) -> TargetClasses:
    where, num_classes = f"target_class={given!r}", len(dataset.classes)
    if isinstance(given, (int, str)):
        target = _class_index(given, dataset.classes, where)
        of_label: list[int | None] = [None if label == target else target for label in range(num_classes)]
        description = f"class {target}"
    else:
        if len(given) != num_classes:
            raise ValueError(
                f"{where}: {len(given)} targets for {num_classes} classes; give one for each true class, in their "
                "order (null leaves the images of a class out), or one class for all images"
            )
        of_label = [None if one is None else _class_index(one, dataset.classes, where) for one in given]
        for label, one in enumerate(of_label):
            if one == label:
                raise ValueError(
                    f"{where}: entry {label} is the class {dataset.classes[label]!r} itself; give another one, or null "
                    "to leave its images out"
                )
        description = f"by true class {of_label}"
    targets = ((index, of_label[dataset.label(index)]) for index in range(len(dataset)))
    return TargetClasses(description, {index: target for index, target in targets if target is not None})


def _from_file(path: str, dataset: ImageDataset) -> TargetClasses:
    columns, rows = read_rows(path, "target_class", "a CSV with the columns file and target_class")
    name_column = next((name for name in ("file", "image_id", "image") if name in columns), None)
    if name_column is None or "target_class" not in columns:
        raise ValueError(
            f"target_class={path!r} has the columns {', '.join(columns) or '(none)'}; it needs file (or image_id), and "
            "target_class"
        )
    place = {nfc(dataset.image_id(index)): index for index in range(len(dataset))}
    of_image: dict[int, int] = {}
    for line, row in rows:
        where, name = f"target_class={path!r}, line {line}", row[name_column]
        if name not in place:
            example = next(iter(place), "")
            raise ValueError(f"{where}: no image {name!r} in the dataset; its images have names such as {example!r}")
        index, target = place[name], _class_index(row["target_class"], dataset.classes, where)
        if index in of_image:
            raise ValueError(f"{where}: the image {name!r} comes twice; keep one row")
        if target == dataset.label(index):
            raise ValueError(f"{where}: {row['target_class']} is the true class of {name!r}; give another one")
        of_image[index] = target
    lines = "".join(f"{dataset.image_id(index)}\0{target}\n" for index, target in sorted(of_image.items()))
    return TargetClasses(f"by image, {sha256(lines.encode()).hexdigest()}", of_image)


def _class_index(given: int | str, classes: Sequence[str], where: str) -> int:
    """The index of a class given by its name or its index; digits that are both are the name."""
    names = [nfc(name) for name in classes]
    if isinstance(given, str) and nfc(given) in names:
        return names.index(nfc(given))
    index = int(given) if isinstance(given, int) or given.isdecimal() else -1
    if not 0 <= index < len(classes):
        raise ValueError(
            f"{where}: {given!r} is no class; give an index in [0, {len(classes)}), or one of "
            f"{', '.join(classes[:10])}{', ...' if len(classes) > 10 else ''}"
        )
    return index
