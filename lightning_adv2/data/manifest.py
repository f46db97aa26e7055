"""The evaluation manifest: which images are attacked, and towards which class. Made once, then only read."""

from __future__ import annotations

import hashlib
import json
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.utils.data import default_collate

from lightning_adv2.data.images import ImageDataset
from lightning_adv2.files import written_whole
from lightning_adv2.functional.random import draw_target_class, image_generators


@dataclass(frozen=True)
class ManifestEntry:
    """One image to attack.

    Attributes:
        index: its place in the dataset.
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


@dataclass(frozen=True)
class Manifest:
    """The images that an evaluation runs on: correctly classified ones, in a seeded random order.

    Attributes:
        dataset: the dataset's name.
        split: train, val or test.
        seed: of the order and of the target classes.
        num_classes: K.
        entries: the images.
        considered: images classified until the last one was found.
        already_wrong: those among them that were misclassified before any attack.
    """

    dataset: str
    split: str
    seed: int
    num_classes: int
    entries: tuple[ManifestEntry, ...]
    considered: int
    already_wrong: int

    def to_json(self) -> str:
        """As JSON text."""
        return json.dumps(asdict(self), indent=1) + "\n"

    @classmethod
    def from_json(cls, text: str) -> Manifest:
        """From JSON text.

        Raises:
            ValueError: the text is no manifest.
        """
        try:
            fields = json.loads(text)
            return cls(**fields | {"entries": tuple(ManifestEntry(**entry) for entry in fields["entries"])})
        except (ValueError, TypeError, KeyError) as error:
            raise ValueError(f"this is no manifest ({error}); delete the file and let it be written anew") from error

    def save(self, path: str | Path) -> None:
        """Write to ``path`` atomically: whoever reads it finds the old content or the new, never a part."""
        with written_whole(path) as temporary:
            temporary.write_text(self.to_json(), encoding="utf-8")

    @classmethod
    def load(cls, path: str | Path) -> Manifest:
        """Read from ``path``.

        Raises:
            FileNotFoundError: no such file.
            ValueError: the file is no manifest.
        """
        try:
            return cls.from_json(Path(path).read_text(encoding="utf-8"))
        except ValueError as error:
            raise ValueError(f"{path}: {error}") from error


def build_manifest(
    dataset: ImageDataset,
    dataset_name: str,
    split: str,
    classifier: Callable[[Tensor], Tensor],
    num_images: int | None,
    seed: int,
    batch_size: int = 64,
    device: str | torch.device = "cpu",
) -> Manifest:
    """Classify the images in a seeded random order until enough correctly classified ones are found.

    Args:
        dataset: where to look.
        dataset_name: its name for tables.
        split: the split's name.
        classifier: images ``(B, C, H, W)`` in [0, 1] -> logits ``(B, K)``, on ``device``. A module is put in eval mode
            meanwhile, and found again as it was.
        num_images: how many to find, or None for all there are.
        seed: of the order and of the target classes.
        batch_size: images per forward pass; the result does not depend on it (but for rounding in the classifier).
        device: where the classifier is.

    Returns:
        The manifest. With fewer images than asked for, a warning names both numbers.

    Raises:
        ValueError: ``num_images`` or ``batch_size`` below 1, or a K that is not the dataset's.
        RuntimeError: no image is classified correctly.
    """
    for name, value in (("num_images", num_images), ("batch_size", batch_size)):
        if value is not None and value < 1:
            raise ValueError(f"{name}={value}: give at least 1")
    num_classes, wanted = len(dataset.classes), len(dataset) if num_images is None else num_images
    order = torch.randperm(len(dataset), generator=torch.Generator().manual_seed(seed)).tolist()
    entries: list[ManifestEntry] = []
    considered = 0
    with _eval_mode(classifier), torch.no_grad():
        for start in range(0, len(order), batch_size):
            indices = order[start : start + batch_size]
            batch = default_collate([dataset[index] for index in indices])
            label, image_id = batch["label"], batch["image_id"]
            logits = classifier(batch["images"].to(device))
            if logits.shape[1] != num_classes:
                raise ValueError(
                    f"classifier: its logits have {logits.shape[1]} classes, the dataset {dataset_name!r} has "
                    f"{num_classes}; give a classifier for this dataset"
                )
            correct = (logits.argmax(1).cpu() == label).tolist()
            target_class = draw_target_class(label, num_classes, image_generators(seed, image_id, "target_class"))
            for place, index in enumerate(indices):
                if len(entries) == wanted:
                    break
                considered += 1
                if correct[place]:
                    sha256 = hashlib.sha256(dataset.uint8(index).tobytes()).hexdigest()
                    target = int(target_class[place])
                    entries.append(ManifestEntry(index, image_id[place], sha256, int(label[place]), target))
            if len(entries) == wanted:
                break
    if not entries:
        raise RuntimeError(
            f"classifier: none of the {considered} images of {dataset_name!r} ({split}) is classified correctly, so "
            "there is nothing to attack; check its weights, its normalisation and the order of the classes"
        )
    if num_images is not None and len(entries) < num_images:
        warnings.warn(
            f"num_images={num_images}, but only {len(entries)} of the {considered} images of {dataset_name!r} "
            f"({split}) are classified correctly; the evaluation goes on with these",
            stacklevel=2,
        )
    return Manifest(
        dataset_name, split, seed, num_classes, tuple(entries), considered, already_wrong=considered - len(entries)
    )


@contextmanager
def _eval_mode(classifier: Callable[[Tensor], Tensor]) -> Iterator[None]:
    """Eval mode inside; outside, each module's own mode as it was, for they may differ (a frozen BatchNorm)."""
    modules = list(classifier.modules()) if isinstance(classifier, nn.Module) else []
    modes = [module.training for module in modules]
    try:
        for module in modules:
            module.training = False
        yield
    finally:
        for module, mode in zip(modules, modes, strict=True):
            module.training = mode
