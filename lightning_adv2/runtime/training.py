"""The description of a training as plain data, so that a later run goes on only with the same training."""

from __future__ import annotations

from typing import Any

import pytorch_lightning as pl
from torch import nn

from lightning_adv2.models import weights_hash
from lightning_adv2.runtime.describe import architecture_hash, describe, name_of

_STEP_SETTINGS = (
    "precision", "gradient_clip_val", "gradient_clip_algorithm", "accumulate_grad_batches", "limit_train_batches",
    "limit_val_batches", "overfit_batches",
)  # fmt: skip
_DATA_SETTINGS = ("seed", "resize", "crop", "transform", "exif_rotation", "balanced", "bit_depth")


def describe_training(module: pl.LightningModule, data: Any, trainer: pl.Trainer | None = None) -> Any:
    """Return a description of a training: module, hyper-parameters, architecture, frozen weights, data, and step.

    The length of the training, the place of the data, the loading, and the frequency of validation are left out: they
    may change when a training goes on. The seed is the checkpoint's, whatever is set. The number of processes may
    change where all together still take as many images per step.

    Args:
        module: before its first step.
        data: the data module, or None.
        trainer: runs the training; None leaves out its settings.

    Returns:
        The description in JSON's terms; see :func:`~lightning_adv2.runtime.describe.describe`.

    Raises:
        TypeError: the settings of an object cannot be seen.
    """
    own: Any = getattr(module, "description", dict)  # settings that are objects, and so no hyper-parameters
    size, processes = getattr(data, "batch_size", None), trainer.world_size if trainer else 1
    step = {"images at once": size * processes if isinstance(size, int) else size}
    return {
        "module": name_of(type(module)),
        "hyper-parameters": describe({**module.hparams, **own()}),
        "architecture": architecture_hash(module),
        "frozen weights": _frozen(module, ""),
        "data": data and _data(data),
        "step": step | {name: describe(getattr(trainer, name, None)) for name in _STEP_SETTINGS},
    }


def _frozen(module: nn.Module, place: str) -> dict[str, Any]:
    """A hash for each part that is frozen as a whole, statistics and normalisation included, and of what is left."""
    if not any(parameter.requires_grad for parameter in module.parameters()):
        return {place: weights_hash(module)} if next(module.parameters(), None) is not None else {}
    own = module.named_parameters(recurse=False)
    found = {f"{place}{name}": describe(value) for name, value in own if not value.requires_grad}
    for name, child in module.named_children():
        found |= _frozen(child, f"{place}{name}.")
    return found


def _data(data: Any) -> dict[str, Any]:
    """The images, and those of the settings that are set."""
    settings = {name: getattr(data, name, None) for name in _DATA_SETTINGS}
    found = {"class": name_of(type(data))} | {name: describe(one) for name, one in settings.items() if one is not None}
    if not hasattr(data, "dataset"):
        return found
    train = data.dataset("train")
    found |= {"classes": describe(getattr(train, "classes", None)), "train images": _images(train)}
    try:
        return found | {"val images": _images(data.dataset("val"))}
    except FileNotFoundError:  # a run without validation
        return found


def _images(dataset: Any) -> dict[str, Any]:
    content = {"content": dataset.fingerprint()} if hasattr(dataset, "fingerprint") else {}
    return {"count": len(dataset)} | content
