"""The choice of an evaluation's images: those that can be read and are classified correctly."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor, nn
from torch.utils.data import default_collate

from lightning_adv2.data.images import ImageDataset, Item, UnreadableImageError
from lightning_adv2.data.manifest import Manifest, ManifestEntry, content_hash
from lightning_adv2.data.target_classes import RANDOM, TargetClass, TargetClasses, target_classes
from lightning_adv2.functional.random import draw_target_class, image_generators
from lightning_adv2.functional.validity import unfit_images
from lightning_adv2.models import weights_hash


def build_manifest(
    dataset: ImageDataset,
    dataset_name: str,
    split: str,
    classifier: Callable[[Tensor], Tensor],
    num_images: int | None,
    seed: int,
    batch_size: int = 64,
    device: str | torch.device = "cpu",
    max_skipped: float = 0.01,
    target_class: TargetClass = None,
) -> Manifest:
    """Return the first correctly classified images in a seeded random order, each with a target class.

    Images that cannot be read are skipped, as are the files that a dataset leaves out; images with NaN or infinity in
    pixels or logits count as invalid. The manifest names all of them.

    Args:
        dataset: where to look.
        dataset_name: the dataset's name for tables.
        split: the split's name.
        classifier: images ``(B, C, H, W)`` in [0, 1] -> logits ``(B, K)``, on ``device``. A module is in eval mode
            meanwhile, and afterwards in its former modes.
        num_images: how many to find, or None for all.
        seed: of the order and of the target classes.
        batch_size: images per forward pass; the result does not depend on it (but for rounding in the classifier).
        device: where the classifier is.
        max_skipped: the share of the images looked at that may be unreadable, in [0, 1]; 0 allows none.
        target_class: the class that the attacks aim at; see :class:`~lightning_adv2.data.attack.AttackDataModule`.
            Images without a target are not looked at.

    Returns:
        The manifest. Warnings name the images that were skipped, and how many are missing where fewer are found than
        asked for.

    Raises:
        ValueError: ``num_images`` or ``batch_size`` below 1, ``max_skipped`` not in [0, 1], a K that is not the
            dataset's, or targets that do not fit the dataset.
        RuntimeError: no image is classified correctly, or too many cannot be read.
    """
    for name, value in (("num_images", num_images), ("batch_size", batch_size)):
        if value is not None and value < 1:
            raise ValueError(f"{name}={value}: give at least 1")
    if not 0 <= max_skipped <= 1:
        raise ValueError(f"max_skipped={max_skipped}: give a share in [0, 1]; 0 allows no unreadable image")
    targets = target_classes(target_class, dataset)
    order = torch.randperm(len(dataset), generator=torch.Generator().manual_seed(seed)).tolist()
    if targets is not None:
        order = [index for index in order if index in targets.of_image]
    num_classes, wanted = len(dataset.classes), len(order) if num_images is None else num_images
    entries: list[ManifestEntry] = []
    wrong: list[str] = []
    skipped: list[tuple[str, str]] = []
    invalid: list[tuple[str, str]] = []
    with eval_mode(classifier), torch.no_grad():
        for start in range(0, len(order), batch_size):
            indices = order[start : start + batch_size]
            for looked_at in _look(dataset, dataset_name, indices, classifier, seed, device, targets):
                if len(entries) == wanted:
                    break
                if isinstance(looked_at, ManifestEntry):
                    entries.append(looked_at)
                    continue
                image_id, status, reason = looked_at
                if status == "wrong":
                    wrong.append(image_id)
                else:
                    (skipped if status == "skipped" else invalid).append((image_id, reason))
            _check_skipped(skipped, len(order), max_skipped)  # too many whatever follows: do not go on for hours
            if len(entries) == wanted:
                break
    considered = len(entries) + len(wrong) + len(skipped) + len(invalid)
    _check_skipped(skipped, considered, max_skipped)
    where = f"images of {dataset_name!r} ({split})"
    if skipped:
        warnings.warn(
            f"{len(skipped)} of the {considered} {where} cannot be read and are left out: {_listed(skipped)}",
            stacklevel=2,
        )
    # Never looked at, and so not counted above; but to be found in status.csv.
    skipped += dataset.left_out.items()
    considered += len(dataset.left_out)
    if not entries:
        raise RuntimeError(
            f"classifier: none of the {considered} {where} is classified correctly ({len(wrong)} wrong, {len(skipped)} "
            f"unreadable, {len(invalid)} with NaN or infinity), so there is nothing to attack; check its weights, its "
            "normalisation and the order of the classes"
        )
    if num_images is not None and len(entries) < num_images:
        warnings.warn(
            f"num_images={num_images}, but only {len(entries)} of the {considered} {where} are classified correctly; "
            "the evaluation goes on with these",
            stacklevel=2,
        )
    return Manifest(
        dataset_name, split, seed, num_classes, tuple(entries), considered, tuple(wrong), tuple(skipped),
        tuple(invalid), num_images, weights_hash(classifier) if isinstance(classifier, nn.Module) else "",
        RANDOM if targets is None else targets.description,
    )  # fmt: skip


def _look(
    dataset: ImageDataset,
    dataset_name: str,
    indices: Sequence[int],
    classifier: Callable[[Tensor], Tensor],
    seed: int,
    device: str | torch.device,
    targets: TargetClasses | None,
) -> list[ManifestEntry | tuple[str, str, str]]:
    """For each image its entry, or identifier, status (wrong, skipped, invalid) and reason."""
    found: dict[int, ManifestEntry | tuple[str, str, str]] = {}
    items: dict[int, Item] = {}
    for index in indices:
        try:
            items[index] = dataset[index]
        except UnreadableImageError as error:
            found[index] = error.image_id, "skipped", error.reason
    if items:
        batch = default_collate(list(items.values()))
        images, label, image_id = batch["images"], batch["label"], batch["image_id"]
        logits = classifier(images.to(device)).cpu()
        if logits.shape[1] != (num_classes := len(dataset.classes)):
            raise ValueError(
                f"classifier: its logits have {logits.shape[1]} classes, the dataset {dataset_name!r} has "
                f"{num_classes}; give a classifier for this dataset"
            )
        unfit = unfit_images(images, logits)
        correct = (logits.argmax(1) == label).tolist()
        if targets is None:
            target_class = draw_target_class(label, num_classes, image_generators(seed, image_id, "target_class"))
        else:
            target_class = torch.tensor([targets.of_image[index] for index in items])
        for place, index in enumerate(items):
            if unfit[place]:
                found[index] = image_id[place], "invalid", unfit[place]
            elif not correct[place]:
                found[index] = image_id[place], "wrong", ""
            else:
                sha256, target = content_hash(images[place]), int(target_class[place])
                found[index] = ManifestEntry(index, image_id[place], sha256, int(label[place]), target)
    return [found[index] for index in indices]


def _check_skipped(skipped: Sequence[tuple[str, str]], considered: int, limit: float) -> None:
    if len(skipped) > limit * considered:
        raise RuntimeError(
            f"{len(skipped)} of {considered} images cannot be read, more than max_skipped={limit:g} allows: "
            f"{_listed(skipped)}. Replace or remove these files, or raise max_skipped"
        )


def _listed(pairs: Sequence[tuple[str, str]], count: int = 10) -> str:
    names = "; ".join(f"{image_id} ({reason})" for image_id, reason in pairs[:count])
    return names + (f"; and {len(pairs) - count} more" if len(pairs) > count else "")


@contextmanager
def eval_mode(classifier: Callable[[Tensor], Tensor]) -> Iterator[None]:
    """Put a module in eval mode inside the block; afterwards each submodule is in its own former mode."""
    modules = list(classifier.modules()) if isinstance(classifier, nn.Module) else []
    modes = [module.training for module in modules]
    try:
        for module in modules:
            module.training = False
        yield
    finally:
        for module, mode in zip(modules, modes, strict=True):
            module.training = mode
