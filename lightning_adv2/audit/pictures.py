"""The names of a run's exported images: class folders, as ``torchvision.datasets.ImageFolder`` reads them."""

from __future__ import annotations

import re
import unicodedata
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path, PurePosixPath
from typing import Any

from lightning_adv2.files import read_json
from lightning_adv2.files.run import read_header, record_key
from lightning_adv2.files.sealed import Array

_RESERVED = {"con", "prn", "aux", "nul", *(f"{port}{number}" for port in ("com", "lpt") for number in range(1, 10))}
_LONGEST = 80  # bytes of a class's or an image's name; file systems allow 255 for both and the ending


@dataclass(frozen=True)
class Picture:
    """An image of a record.

    Attributes:
        path: below the folder of all pictures.
        pixels: ``(H, W, C)`` uint8.
        image_id: the image's name in the dataset.
        interpreter: the record's; empty for a benign image, which all interpreters share.
        attack: the attack's key; empty for a benign image.
        label: the true class.
        target_class: the class that the attack aimed at.
    """

    path: PurePosixPath
    pixels: Array
    image_id: str
    interpreter: str
    attack: str
    label: int
    target_class: int


class Layout:
    """The names of a run's pictures.

    A benign image is ``benign/<class>/<image>.png``, an adversarial one
    ``<interpreter>/<attack>/<class>/<image>__to_<target>.png``; class is the true class. A class has its title, an
    image the last part of its name without its ending; where two images of the run would have the same name, the whole
    path, with ``__`` between the parts. Characters that a file system may refuse are written as in a URL, and a name of
    more than 80 bytes is cut, with a hash of the whole at its end: no name leads out of the folder.

    Args:
        folder: the run's.
        records: its record files; those that cannot be read do not count.
    """

    def __init__(self, folder: Path, records: Sequence[Path]) -> None:
        about, manifest = _content(folder / "records" / "experiment.json"), _content(folder / "manifest.json")
        self.classes: list[str] = [str(name) for name in about.get("about", {}).get("classes", ())]
        self.folders = class_folders(self.classes)
        ids = {str(entry["image_id"]) for entry in manifest.get("entries", ())}
        for path in records:
            try:
                ids.update(map(str, read_header(path)["image_id"]))
            except (OSError, ValueError, KeyError, TypeError):
                continue
        self._names = image_names(sorted(ids))

    def folder_of(self, label: int) -> str:
        """Return the folder of a class; its number where the run does not state its name."""
        return self.folders[label] if 0 <= label < len(self.folders) else str(label)

    def called(self, label: int) -> str:
        """Return the title of a class; its number where the run does not state its name."""
        return self.classes[label] if 0 <= label < len(self.classes) else str(label)

    def pictures(self, header: dict[str, Any], arrays: dict[str, Array]) -> Iterator[Picture]:
        """Yield each image of a record: the benign images, then those of each attack.

        Args:
            header: of the record.
            arrays: its tensors.

        Raises:
            KeyError, ValueError: header and tensors do not fit together.
        """
        keys = [record_key(row["attack"], row["schedule"]) for row in header["attacks"]]
        groups = [(PurePosixPath("benign"), "", "", arrays["benign/images"])]
        for key in keys:
            under = PurePosixPath(_safe(header["interpreter"]), _safe(key))
            groups.append((under, header["interpreter"], key, arrays[f"{key}/adv_images"]))
        labels, targets = arrays["benign/label"].tolist(), arrays["benign/target_class"].tolist()
        for under, interpreter, key, images in groups:
            for image_id, image, label, target in zip(header["image_id"], images, labels, targets, strict=True):
                name = self._names[image_id] + (f"__to_{self.folder_of(target)}" if key else "")
                path = under / self.folder_of(label) / f"{name}.png"
                yield Picture(path, image.transpose(1, 2, 0), image_id, interpreter, key, label, target)


def class_folders(classes: Sequence[str]) -> list[str]:
    """Return a folder name for each class; all differ also where upper and lower case are the same."""
    names = [_safe(name) or str(index) for index, name in enumerate(classes)]
    count = Counter(map(str.casefold, names))
    found: list[str] = []
    for index, name in enumerate(names):
        if count[name.casefold()] > 1:
            name = f"{name} ({index})"
            while count[name.casefold()]:
                name += f" ({index})"
        found.append(name)
    return found


def image_names(ids: Sequence[str]) -> dict[str, str]:
    """Return a file name without ending for each image id; all differ also where upper and lower case are the same."""
    shared = _shared_folders(ids)

    def short(image_id: str) -> str:
        return _safe(_stem(image_id.split("/")[-1]))

    def path(image_id: str) -> str:
        return _safe(_stem("__".join(image_id.split("/")[shared:])))

    rules: tuple[Callable[[str], str], ...] = (short, path, _safe)
    for rule in rules:
        names = {image_id: rule(image_id) for image_id in ids}
        if all(names.values()) and len({name.casefold() for name in names.values()}) == len(ids):
            return names
    return {image_id: f"{_safe(image_id)}~{place}" for place, image_id in enumerate(ids)}


def _shared_folders(ids: Sequence[str]) -> int:
    """The number of folders at the beginning that all names share."""
    folders = [image_id.split("/")[:-1] for image_id in ids]
    count = 0
    while folders and all(len(parts) > count for parts in folders) and len({parts[count] for parts in folders}) == 1:
        count += 1
    return count


def _stem(name: str) -> str:
    return re.sub(r"(?<=.)\.[A-Za-z][A-Za-z0-9]{1,4}$", "", name)


def _safe(name: str) -> str:
    """The name as any file system takes it, and readable; reversible unless it is cut for its length."""
    name = unicodedata.normalize("NFC", name)
    text = "".join(_escaped(c) if c in '%<>:"/\\|?*' or not c.isprintable() else c for c in name)
    if text[:1] in (".", " "):
        text = _escaped(text[0]) + text[1:]
    if text[-1:] in (".", " "):
        text = text[:-1] + _escaped(text[-1])
    if text.split(".")[0].casefold() in _RESERVED:
        text = _escaped(text[0]) + text[1:]
    if text.casefold() in ("__macosx", "__pycache__", "@eadir"):  # no class of anybody who reads them again
        text = _escaped(text[0]) + text[1:]
    if len(text.encode()) > _LONGEST:
        cut = text.encode()[: _LONGEST - 9].decode(errors="ignore").rstrip(". ")
        text = f"{cut}~{sha256(name.encode(errors='surrogatepass')).hexdigest()[:8]}"
    return text


def _escaped(character: str) -> str:
    return "".join(f"%{byte:02X}" for byte in character.encode(errors="replace"))


def _content(path: Path) -> dict[str, Any]:
    """The content of a JSON file of the run; empty where it is missing or damaged."""
    try:
        content = read_json(path)
    except (OSError, ValueError):
        return {}
    return content if isinstance(content, dict) else {}
