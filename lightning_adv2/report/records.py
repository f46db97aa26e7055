"""One finished batch, one file: everything that metrics, tables, figures and W&B are later computed from."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import safe_open
from torch import Tensor

from lightning_adv2.functional.projection import LEVELS
from lightning_adv2.models import save_weights

FORMAT = "lightning_adv2 record 1"


def record_key(attack: str, schedule: str) -> str:
    """Unique within a run, for log keys and records: ``adv2-fast``, or ``noise`` for a control."""
    return attack if schedule == "control" else f"{attack}-{schedule}"


@dataclass
class AttackRecord:
    """What one attack (or control) did to one batch of n images.

    Attributes:
        attack: ``pgd``, ``adv2``, ``noise``, ...
        schedule: ``fast``, ``paper``, or ``control``.
        steps: gradient steps per image.
        seconds: wall-clock time of the batch.
        adv_images: ``(n, C, H, W)`` uint8.
        adv_map: ``(n, 1, h, w)``, for the class that the classifier now predicts.
        adv_predicted: ``(n,)``, that class.
        confidence: ``(n,)``, probability of the target class.
        valid: ``(n,)`` bool, False where NaN or infinity came up: left out of all means.
        trace: curves over the steps, each ``(T, n)``: ``confidence``, ``success``, ``l1``, ``iou``.
    """

    attack: str
    schedule: str
    steps: int
    seconds: float
    adv_images: Tensor
    adv_map: Tensor
    adv_predicted: Tensor
    confidence: Tensor
    valid: Tensor
    trace: dict[str, Tensor] = field(default_factory=dict)

    @property
    def key(self) -> str:
        """See :func:`record_key`."""
        return record_key(self.attack, self.schedule)


@dataclass
class BatchRecord:
    """One batch: the benign side once, then one :class:`AttackRecord` per attack.

    Attributes:
        batch_index: the batch's place in the manifest.
        image_id: n identifiers, only of images that the classifier got right.
        label: ``(n,)``.
        target_class: ``(n,)``.
        images: ``(n, C, H, W)`` uint8, benign.
        benign_map: ``(n, 1, h, w)``, for the label.
        target_map: ``(n, 1, h, w)``, what the joint attack aimed at.
        already_wrong: identifiers of the images that were left out because the classifier already got them wrong.
        attacks: in the order of the table.
        invalid: identifiers of the images that were left out because logits or benign map were NaN or infinite.
    """

    batch_index: int
    image_id: list[str]
    label: Tensor
    target_class: Tensor
    images: Tensor
    benign_map: Tensor
    target_map: Tensor
    already_wrong: list[str]
    attacks: list[AttackRecord]
    invalid: list[str] = field(default_factory=list)


def to_uint8(images: Tensor) -> Tensor:
    """Float images on 8-bit levels -> uint8, exactly. ``(B, C, H, W)``."""
    return (images * LEVELS).round().to(torch.uint8).cpu()


def to_float(images: Tensor) -> Tensor:
    """uint8 -> float32 in [0, 1]; the inverse of :func:`to_uint8`."""
    return images.to(torch.float32) / LEVELS


_BENIGN = ("label", "target_class", "images", "benign_map", "target_map")
_ATTACK = ("adv_images", "adv_map", "adv_predicted", "confidence", "valid")


def write_record(record: BatchRecord, folder: Path) -> Path:
    """Write ``batch_00000.safetensors``, all or nothing."""
    tensors = {f"benign/{name}": getattr(record, name) for name in _BENIGN}
    rows: list[dict[str, Any]] = []
    for attack in record.attacks:
        tensors |= {f"{attack.key}/{name}": getattr(attack, name) for name in _ATTACK}
        tensors |= {f"{attack.key}/trace/{name}": curve for name, curve in attack.trace.items()}
        rows.append({name: getattr(attack, name) for name in ("attack", "schedule", "steps", "seconds")})
    header = {
        "batch_index": record.batch_index,
        "image_id": record.image_id,
        "already_wrong": record.already_wrong,
        "invalid": record.invalid,
        "attacks": rows,
    }
    path = folder / f"batch_{record.batch_index:05d}.safetensors"
    return save_weights(tensors, path, {"format": FORMAT, "header": json.dumps(header)})


def read_record(path: Path) -> BatchRecord:
    """Read one file written by :func:`write_record`.

    Raises:
        ValueError: the file is no such record.
    """
    with safe_open(path, framework="pt") as file:
        metadata = file.metadata() or {}
        if metadata.get("format") != FORMAT:
            raise ValueError(f"{path}: no record of this version (format {metadata.get('format')!r}, not {FORMAT!r})")
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - not a dict
    header = json.loads(metadata["header"])
    attacks = []
    for row in header["attacks"]:
        key = record_key(row["attack"], row["schedule"])
        prefix = f"{key}/trace/"
        trace = {n.removeprefix(prefix): t for n, t in tensors.items() if n.startswith(prefix)}
        attacks.append(AttackRecord(**row, **{name: tensors[f"{key}/{name}"] for name in _ATTACK}, trace=trace))
    benign = {name: tensors[f"benign/{name}"] for name in _BENIGN}
    return BatchRecord(
        header["batch_index"],
        header["image_id"],
        already_wrong=header["already_wrong"],
        invalid=header["invalid"],
        attacks=attacks,
        **benign,
    )


def read_records(folder: Path) -> Iterator[BatchRecord]:
    """All records of a run in the order of their batches, one in memory at a time."""
    for path in sorted(folder.glob("batch_*.safetensors")):
        yield read_record(path)


def to_numpy(images: Tensor) -> np.ndarray[Any, np.dtype[np.uint8]]:
    """uint8 ``(C, H, W)`` -> ``(H, W, C)`` for drawing; grey images are repeated to three channels."""
    array: np.ndarray[Any, np.dtype[np.uint8]] = images.permute(1, 2, 0).numpy()
    return array if array.shape[2] == 3 else np.repeat(array[:, :, :1], 3, axis=2)
