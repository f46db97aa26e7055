"""Ground truth of skin lesions: the CSV files of ISIC 2018, task 3, and of HAM10000."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch

from lightning_adv2.data.text_files import read_rows

# In the order of ISIC 2018's columns, which is the order of the class indices.
TITLES = {
    "MEL": "melanoma",
    "NV": "melanocytic nevus",
    "BCC": "basal cell carcinoma",
    "AKIEC": "actinic keratosis",
    "BKL": "benign keratosis",
    "DF": "dermatofibroma",
    "VASC": "vascular lesion",
}
CLASSES = tuple(TITLES)


@dataclass(frozen=True)
class Lesion:
    """A row of a ground-truth file.

    Attributes:
        image_id: such as ``ISIC_0024306``.
        label: index into ``CLASSES``.
        split: train, val or test; None where the file does not say.
        lesion_id: the same for all images of one lesion; None where the file does not say.
    """

    image_id: str
    label: int
    split: str | None = None
    lesion_id: str | None = None


def read_labels(path: str | Path, option: str = "labels") -> list[Lesion]:
    """Return the rows of a ground-truth file, in the file's order.

    Args:
        path: a CSV with a column ``image`` or ``image_id`` and either ISIC's columns ``MEL, NV, BCC, AKIEC, BKL, DF,
            VASC``, of which each row has one 1 and otherwise 0, or HAM10000's column ``dx``; ``split`` and
            ``lesion_id`` are read where they exist, other columns are ignored.
        option: the argument that named the file, for errors.

    Raises:
        FileNotFoundError: no such file.
        ValueError: a column is missing, a row is not one-hot or has an unknown class, an image comes twice.
    """
    found: dict[str, Lesion] = {}
    for line, row in _rows(path, option):
        name = row.get("image") or row.get("image_id") or ""
        where = f"{option}={str(path)!r}, line {line}"
        if not name or name in found:
            raise ValueError(f"{where}: {'the image ' + name + ' comes twice' if name else 'no image'}; mend the row")
        label = _one_hot(row, where) if set(CLASSES) <= row.keys() else _diagnosis(row, where)
        found[name] = Lesion(name, label, row.get("split") or None, row.get("lesion_id") or None)
    if not found:
        raise ValueError(f"{option}={str(path)!r} has no rows; give one per image")
    return list(found.values())


def with_lesions(rows: Iterable[Lesion], path: str | Path) -> list[Lesion]:
    """Return the rows with the lesion of each image, from a CSV with ``image`` or ``image_id`` and ``lesion_id``.

    Raises:
        FileNotFoundError: no such file.
        ValueError: a column or an image is missing.
    """
    lesion = {
        row.get("image") or row.get("image_id"): row.get("lesion_id") for _, row in _rows(path, "lesions", "lesion_id")
    }
    rows = list(rows)
    unknown = [row.image_id for row in rows if not lesion.get(row.image_id)]
    if unknown:
        raise ValueError(f"lesions={str(path)!r} has no lesion_id for {_few(unknown)}; take the file for these images")
    return [replace(row, lesion_id=lesion[row.image_id]) for row in rows]


def held_out(rows: Sequence[Lesion], shares: Mapping[str, float], seed: int) -> list[Lesion]:
    """Return the rows with a split for each: the shares named, the rest ``train``; a lesion's images go into one split.

    Each class is shared out by itself, by lesions in a random order that ``seed`` fixes; an image whose lesion is not
    known counts as a lesion of its own.

    Args:
        rows: all images.
        shares: split -> share of each class's images, in [0, 1), together below 1.
        seed: of the order.
    """
    lesions: defaultdict[tuple[int, str], list[Lesion]] = defaultdict(list)
    for row in sorted(rows, key=lambda row: row.image_id):
        lesions[row.label, row.lesion_id or row.image_id].append(row)
    generator = torch.Generator().manual_seed(seed)
    split: dict[str, str] = {}
    for label in sorted({label for label, _ in lesions}):
        members = [images for (one, _), images in sorted(lesions.items()) if one == label]
        order = torch.randperm(len(members), generator=generator).tolist()
        total, place = sum(map(len, members)), 0
        for name, share in shares.items():
            taken = 0
            while taken < round(share * total) and place < len(order):
                taken += len(members[order[place]])
                split |= {row.image_id: name for row in members[order[place]]}
                place += 1
    return [replace(row, split=split.get(row.image_id, "train")) for row in rows]


def check_images(rows: Sequence[Lesion], images: Iterable[str], labels: object, where: object) -> None:
    """Check that every image has a row, and every row an image.

    Args:
        rows: of the labels.
        images: the ids of the images found.
        labels: the argument that named the labels, for the error.
        where: the argument that named the images, for the error.

    Raises:
        ValueError: an image has no row, or a row no image; the error names the first ones.
    """
    names, found = {row.image_id for row in rows}, set(images)
    for lacking, what in ((names - found, "rows without an image"), (found - names, "images without a row")):
        if lacking:
            raise ValueError(
                f"labels={str(labels)!r}, images={str(where)!r}: {len(lacking)} {what}: {_few(sorted(lacking))}; take "
                "the two that belong together, complete"
            )


def _rows(path: str | Path, option: str, *needed: str) -> list[tuple[int, dict[str, str]]]:
    expected = (
        "a CSV file, such as ISIC's ISIC2018_Task3_Training_GroundTruth.csv (for lesions: "
        "ISIC2018_Task3_Training_LesionGroupings.csv)"
    )
    names, rows = read_rows(path, option, expected)
    columns = set(names)
    known = not {"image", "image_id"}.isdisjoint(columns) and columns.issuperset(needed)
    if not known or not (needed or "dx" in columns or columns.issuperset(CLASSES)):
        raise ValueError(
            f"{option}={str(path)!r} has the columns {', '.join(names) or '(none)'}; it needs "
            f"image or image_id, and {', '.join(needed) or ', '.join(CLASSES) + ' or dx'}"
        )
    return rows


def _one_hot(row: Mapping[str, str], where: str) -> int:
    try:
        values = [float(row[name]) for name in CLASSES]
    except ValueError:
        values = []
    if sorted(values) != [0.0] * (len(CLASSES) - 1) + [1.0]:
        given = ", ".join(f"{name}={row[name]}" for name in CLASSES)
        raise ValueError(f"{where}: {given} is not one-hot; exactly one class must be 1 and the others 0")
    return values.index(1.0)


def _diagnosis(row: Mapping[str, str], where: str) -> int:
    name = row["dx"].upper()
    if name not in TITLES:
        raise ValueError(f"{where}: dx={row['dx']!r} is none of {', '.join(CLASSES).lower()}")
    return CLASSES.index(name)


def _few(names: Sequence[str]) -> str:
    return ", ".join(names[:3]) + (", ..." if len(names) > 3 else "")
