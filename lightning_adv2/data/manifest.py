"""The evaluation manifest: which images are attacked, and towards which class. Made once, then only read."""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from lightning_adv2.data.images import Item
from lightning_adv2.data.target_classes import RANDOM
from lightning_adv2.files.twice import read_twice, write_twice


def content_hash(images: Tensor) -> str:
    """Return the SHA-256 of an image's pixels, 64 hexadecimal digits.

    Args:
        images: ``(C, H, W)`` float on 8-bit levels in [0, 1]; hashed as ``(H, W, C)`` uint8 in C order.
    """
    pixels = (images * 255).round().to(torch.uint8).permute(1, 2, 0).contiguous()
    return hashlib.sha256(pixels.numpy().tobytes()).hexdigest()


@dataclass(frozen=True)
class ManifestEntry:
    """An image to attack.

    Attributes:
        index: its number in the dataset, from 0.
        image_id: its name in the dataset.
        sha256: of its pixels, ``(H, W, C)`` uint8 in C order.
        label: the true class.
        target_class: the class that the attack aims at.
    """

    index: int
    image_id: str
    sha256: str
    label: int
    target_class: int

    def difference(self, item: Item) -> str:
        """Return in words in what an image differs from the chosen one; empty where it does not."""
        if item["image_id"] != self.image_id:
            return f"{item['image_id']} is in its place"
        if item["label"] != self.label:
            return f"its label is {item['label']}, not {self.label}"
        return "" if content_hash(item["images"]) == self.sha256 else "its pixels have changed"


@dataclass(frozen=True)
class Manifest:
    """The images that an evaluation runs on: correctly classified ones, in a seeded random order.

    Attributes:
        dataset: the dataset's name, for tables.
        split: train, val or test.
        seed: of the order and of the target classes.
        num_classes: K.
        entries: the images.
        considered: images looked at until the last one was found: ``entries``, ``wrong``, ``skipped`` and ``invalid``
            together.
        wrong: identifiers of those that were misclassified before any attack.
        skipped: identifier and reason of those that cannot be read, and of files that are not read as images at all.
        invalid: identifier and reason of those that cannot be judged, because of NaN or infinity.
        num_images: how many were asked for; None for all.
        classifier_sha256: of the weights of the classifier that chose them, from
            :func:`~lightning_adv2.models.weights_hash`; empty for a callable without any.
        targets: where the target classes come from: ``drawn at random``, or what the user gave.
    """

    dataset: str
    split: str
    seed: int
    num_classes: int
    entries: tuple[ManifestEntry, ...]
    considered: int
    wrong: tuple[str, ...] = ()
    skipped: tuple[tuple[str, str], ...] = ()
    invalid: tuple[tuple[str, str], ...] = ()
    num_images: int | None = None
    classifier_sha256: str = ""
    targets: str = RANDOM

    @property
    def already_wrong(self) -> int:
        """Return how many images were misclassified before any attack."""
        return len(self.wrong)

    def passed_over(self) -> dict[str, tuple[str, str]]:
        """Return status and reason of each image that was looked at and is not attacked, by identifier."""
        return {
            **dict.fromkeys(self.wrong, ("already_wrong", "")),
            **{image_id: ("skipped", reason) for image_id, reason in self.skipped},
            **{image_id: ("invalid", reason) for image_id, reason in self.invalid},
        }

    def differences(
        self, split: str, seed: int, num_images: int | None, classifier_sha256: str, targets: str = RANDOM
    ) -> list[str]:
        """Return in words each reason why this manifest cannot serve for the arguments; empty where it can.

        A classifier without a hash (a plain callable) cannot be told from another one. The dataset's name does not
        count, for it may come from a folder that was moved: the entries' hashes say which images are meant.

        Args:
            split: train, val or test.
            seed: of the order and of the target classes.
            num_images: how many were asked for; None for all.
            classifier_sha256: of the classifier's weights; empty for a plain callable.
            targets: where the target classes come from.
        """
        now = {
            "split": split,
            "seed": seed,
            "num_images": num_images,
            "classifier_sha256": classifier_sha256,
            "targets": targets,
        }
        found = {name: getattr(self, name) for name in now}
        return [f"{name}: {found[name]} before, {now[name]} now" for name in now if found[name] != now[name]]

    @property
    def sha256(self) -> str:
        """Return the SHA-256 of :meth:`to_json`, 64 hexadecimal digits, by which an experiment knows the manifest."""
        return hashlib.sha256(self.to_json().encode()).hexdigest()

    def to_json(self) -> str:
        """Return the manifest as JSON; ``targets`` only where not drawn, so that earlier texts stay the same."""
        fields = asdict(self)
        if self.targets == RANDOM:
            del fields["targets"]
        return json.dumps(fields, indent=1) + "\n"

    @classmethod
    def from_json(cls, text: str) -> Manifest:
        """Return the manifest in a JSON text.

        Raises:
            ValueError: the text is no manifest.
        """
        try:
            return cls._from(json.loads(text))
        except ValueError as error:
            raise ValueError(f"this is no manifest ({error}); delete the file and let it be written anew") from error

    @classmethod
    def _from(cls, fields: dict[str, Any]) -> Manifest:
        try:
            pairs = {name: tuple((str(i), str(why)) for i, why in fields[name]) for name in ("skipped", "invalid")}
            entries = tuple(ManifestEntry(**entry) for entry in fields["entries"])
            return cls(**fields | pairs | {"entries": entries, "wrong": tuple(fields["wrong"])})
        except (ValueError, TypeError, KeyError) as error:
            raise ValueError(f"{type(error).__name__}: {error}") from error

    def save(self, path: str | Path) -> None:
        """Write the manifest, sealed, and a copy beside it, each all or nothing.

        Raises:
            OSError: see :func:`~lightning_adv2.files.whole.written_whole`.
        """
        write_twice(Path(path), json.loads(self.to_json()))

    @classmethod
    def load(cls, path: str | Path) -> Manifest:
        """Return the manifest in a file or, where that is damaged or missing, in its copy.

        Raises:
            FileNotFoundError: both files are missing.
            ValueError: neither file is a manifest.
        """
        return cls.load_noting(path)[0]

    @classmethod
    def load_noting(cls, path: str | Path) -> tuple[Manifest, list[str]]:
        """Return the manifest in a file or its copy, and a sentence for each of the two that is damaged or missing.

        Raises:
            FileNotFoundError: both files are missing.
            ValueError: neither file is a manifest.
        """
        try:
            return read_twice(Path(path), cls._from)
        except ValueError as error:
            raise ValueError(f"{error}: this is no manifest; delete the file and let it be written anew") from error
