"""Benign images on which detectors are fitted and their thresholds are set."""

from __future__ import annotations

from collections.abc import Collection

import torch
from pytorch_lightning.utilities import rank_zero_warn
from torch import Tensor
from torch.utils.data import default_collate

from lightning_adv2.data.images import ImageDataset
from lightning_adv2.data.skipping import read_items
from lightning_adv2.models import Classifier


@torch.no_grad()
def draw_calibration(
    dataset: ImageDataset,
    classifier: Classifier,
    count: int,
    exclude: Collection[str],
    seed: int,
    device: str | torch.device = "cpu",
) -> tuple[Tensor, Tensor, list[str]]:
    """Benign images that the classifier gets right, in a seeded random order.

    Args:
        dataset: where to look.
        classifier: in eval mode, on ``device``.
        count: how many; with fewer to be had, a warning names both numbers.
        exclude: identifiers of images that may not be among them.
        seed: of the order.
        device: where the images go.

    Returns:
        Images ``(N, C, H, W)``, labels ``(N,)`` and N identifiers.

    Raises:
        RuntimeError: there is none.
    """
    order = torch.randperm(len(dataset), generator=torch.Generator().manual_seed(seed)).tolist()
    size = 64
    free = [index for index in order if dataset.image_id(index) not in exclude]
    images: list[Tensor] = []
    label: list[Tensor] = []
    chosen: list[str] = []
    for start in range(0, len(free), size):
        items, _ = read_items(dataset, free[start : start + size], replace=False)
        if not items:
            continue
        batch = default_collate(items)
        pixels, truth = batch["images"].to(device), batch["label"].to(device)
        logits = classifier(pixels)
        right = (logits.argmax(1) == truth) & logits.isfinite().all(1)
        keep = right.nonzero()[:, 0][: count - len(chosen)]
        images.append(pixels[keep])
        label.append(truth[keep])
        chosen += [batch["image_id"][i] for i in keep.tolist()]
        if len(chosen) == count:
            break
    if not chosen:
        raise RuntimeError(
            f"calibration_images={count}: all {len(dataset)} images are attacked, misclassified or unreadable, so none "
            "is left to set a threshold on; attack fewer (AttackDataModule(num_images=...))"
        )
    if len(chosen) < count:
        rank_zero_warn(
            f"calibration_images={count}, but only {len(chosen)} images are classified correctly and not attacked; the "
            "thresholds are set on these"
        )
    return torch.cat(images), torch.cat(label), chosen
