"""The record of a finished batch: one file, from which metrics, tables, figures and W&B are computed."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from lightning_adv2 import __version__
from lightning_adv2.files.names import check_name as check_name
from lightning_adv2.files.run import FORMAT as FORMAT
from lightning_adv2.files.run import damaged as damaged
from lightning_adv2.files.run import read_arrays, read_header, record_paths
from lightning_adv2.files.run import record_key as record_key
from lightning_adv2.files.run import record_path as record_path
from lightning_adv2.functional.projection import LEVELS
from lightning_adv2.models import save_weights

Role = Literal["control", "class", "joint"]
"""What an attack is in an evaluation: a control that takes no step, an attack on the class alone, or one on the class
and the map."""

BENIGN = "benign"
"""The target's name where it is the benign map."""


def titled(heading: str, target: str) -> str:
    """The heading, followed by the name of the target map unless that is the benign map."""
    return heading if target == BENIGN else f"{heading}; target map: {target}"


_TENSOR = {"tensor": True}
"""Metadata of a field that a record's file keeps as a tensor, images first; all others are its header."""


def _tensors(kind: type) -> list[str]:
    return [one.name for one in fields(kind) if one.metadata.get("tensor")]


def _header(kind: type, *left_out: str) -> list[str]:
    return [one.name for one in fields(kind) if not one.metadata.get("tensor") and one.name not in left_out]


@dataclass
class AttackRecord:
    """What one attack (or control) did to one batch of n images.

    Attributes:
        attack: ``pgd``, ``adv2``, ``noise``, ...
        schedule: ``fast``, ``paper``, or ``control``.
        role: ``joint`` for an attack on the class and the map, ``class`` for one that ignores the map, ``control`` for
            images that no attack made.
        threat_model: what the attacker may change: ``linf`` for pixels, ``spatial`` for their places, ``none`` for the
            control that leaves the image as it is.
        steps: gradient steps per image at most.
        seconds: wall-clock time of the attack on the batch, without the judging; of an attack that ignores the map, and
            so runs once for all interpreters, the time of that run.
        adv_images: ``(n, C, H, W)`` uint8.
        adv_map: ``(n, 1, h, w)``, for the class that the classifier now predicts.
        adv_map_true_class: ``(n, 1, h, w)``, for the label, as ``benign_map`` is.
        adv_map_target_class: ``(n, 1, h, w)``, for the target class, as ``benign_map_target_class`` is.
        adv_predicted: ``(n,)``, that class.
        confidence: ``(n,)``, probability of the target class.
        valid: ``(n,)`` bool, False where NaN or infinity came up, be it in one of the maps that are only compared for
            one class: left out of all means, which so are over the same images.
        trace: curves over the steps, each ``(T, n)``: ``confidence``, ``success``, ``l1``, ``iou``.
        size: ``(n,)``, of the perturbation, in ``unit``.
        steps_taken: ``(n,)`` int64, fewer than ``steps`` where the attack left an image alone earlier.
        unit: ``Linf`` for changed pixels, ``px`` for moved ones.
        flags: what about the attack makes its numbers doubtful.
        epsilon: how far any pixel may be from the benign one, in units of the pixel range; None where there is no such
            bound, as for moved pixels.
    """

    attack: str
    schedule: str
    steps: int
    seconds: float
    role: Role = field(kw_only=True)
    threat_model: str = field(kw_only=True)
    adv_images: Tensor = field(kw_only=True, metadata=_TENSOR)
    adv_map: Tensor = field(kw_only=True, metadata=_TENSOR)
    adv_map_true_class: Tensor = field(kw_only=True, metadata=_TENSOR)
    adv_map_target_class: Tensor = field(kw_only=True, metadata=_TENSOR)
    adv_predicted: Tensor = field(kw_only=True, metadata=_TENSOR)
    confidence: Tensor = field(kw_only=True, metadata=_TENSOR)
    valid: Tensor = field(kw_only=True, metadata=_TENSOR)
    size: Tensor = field(kw_only=True, metadata=_TENSOR)
    steps_taken: Tensor = field(kw_only=True, metadata=_TENSOR)
    trace: dict[str, Tensor] = field(default_factory=dict)
    unit: str = "Linf"
    flags: list[str] = field(default_factory=list)
    epsilon: float | None = None

    @property
    def key(self) -> str:
        """Name and schedule in one word; see :func:`~lightning_adv2.files.run.record_key`."""
        return record_key(self.attack, self.schedule)

    @property
    def needs_map(self) -> bool:
        """Whether the attack saw the map."""
        return self.role == "joint"


@dataclass
class BatchRecord:
    """One batch under one interpreter: the benign side once, then one :class:`AttackRecord` per attack.

    Attributes:
        batch_index: the batch's place in the manifest.
        image_id: n identifiers, only of images that the classifier got right.
        label: ``(n,)``.
        target_class: ``(n,)``.
        images: ``(n, C, H, W)`` uint8, benign.
        benign_map: ``(n, 1, h, w)``, for the label.
        benign_map_target_class: ``(n, 1, h, w)``, of the benign images too, for the target class.
        target_map: ``(n, 1, h, w)``, what the joint attack aimed at, and what all maps are compared with.
        already_wrong: identifiers of the images that were left out because the classifier already got them wrong.
        attacks: in the order of the table.
        invalid: identifier and reason of the images that were left out because nothing could be said about them: NaN or
            infinity in image, logits, benign or target map, or a constant benign map.
        skipped: identifier and reason of the images that could not be read. A batch of which no image can be read
            leaves no record, and so none of it here; the loader's warnings name those.
        interpreter: the interpreter's name.
        place: the interpreter's place among those of the module.
        target: the target map's name; ``benign`` when it is the benign map.
        pieces: in how many parts it was attacked, more than one where the memory was too small for the whole.
        experiment: hash of the experiment that it is of; see ``files.experiment``.
    """

    batch_index: int
    image_id: list[str]
    label: Tensor = field(kw_only=True, metadata=_TENSOR)
    target_class: Tensor = field(kw_only=True, metadata=_TENSOR)
    images: Tensor = field(kw_only=True, metadata=_TENSOR)
    benign_map: Tensor = field(kw_only=True, metadata=_TENSOR)
    benign_map_target_class: Tensor = field(kw_only=True, metadata=_TENSOR)
    target_map: Tensor = field(kw_only=True, metadata=_TENSOR)
    already_wrong: list[str] = field(kw_only=True)
    attacks: list[AttackRecord] = field(kw_only=True)
    invalid: dict[str, str] = field(default_factory=dict)
    skipped: dict[str, str] = field(default_factory=dict)
    interpreter: str = field(kw_only=True)
    place: int = 0
    target: str = BENIGN
    pieces: int = 1
    experiment: str = ""

    def only(self, places: Sequence[int]) -> BatchRecord:
        """A copy with the images at some indices alone; the copy does not keep the other images in memory."""
        index = list(places)
        attacks = [
            replace(
                attack,
                **{name: getattr(attack, name)[index] for name in _ATTACK},
                trace={name: curve[:, index] for name, curve in attack.trace.items()},
            )
            for attack in self.attacks
        ]
        benign = {name: getattr(self, name)[index] for name in _BENIGN}
        return replace(self, image_id=[self.image_id[i] for i in index], attacks=attacks, **benign)


def to_uint8(images: Tensor) -> Tensor:
    """Images in 8 bits on the CPU: ``(B, C, H, W)`` float in [0, 1] on 8-bit levels -> uint8, exactly."""
    return (images * LEVELS).round().to(torch.uint8).cpu()


def to_float(images: Tensor) -> Tensor:
    """Images in [0, 1]: ``(B, C, H, W)`` uint8 -> float32; the inverse of :func:`to_uint8`."""
    return images.to(torch.float32) / LEVELS


_BENIGN, _HEADER = _tensors(BatchRecord), _header(BatchRecord, "attacks")
_ATTACK, _ATTACK_HEADER = _tensors(AttackRecord), _header(AttackRecord, "trace")


def write_record(record: BatchRecord, folder: Path) -> Path:
    """Write ``<interpreter>/batch_00000.safetensors`` below ``folder``, sealed and all or nothing; returns its path.

    Raises:
        OSError: the disk is full, the folder cannot be written, or the like; an old file is as it was.
    """
    tensors = {f"benign/{name}": getattr(record, name) for name in _BENIGN}
    rows: list[dict[str, Any]] = []
    for attack in record.attacks:
        tensors |= {f"{attack.key}/{name}": getattr(attack, name) for name in _ATTACK}
        tensors |= {f"{attack.key}/trace/{name}": curve for name, curve in attack.trace.items()}
        rows.append({name: getattr(attack, name) for name in _ATTACK_HEADER})
    header = {name: getattr(record, name) for name in _HEADER} | {"attacks": rows}
    path = record_path(folder, record.interpreter, record.batch_index)
    return save_weights(tensors, path, {"format": FORMAT, "version": __version__, "header": json.dumps(header)})


def read_record(path: Path) -> BatchRecord:
    """The record in a file that :func:`write_record` wrote, after a check of its seal.

    Raises:
        ValueError: the file is missing, damaged, or no such record; says what to do.
    """
    header, arrays = read_arrays(path)
    tensors: dict[str, Any] = {name: torch.from_numpy(array) for name, array in arrays.items()}
    attacks = []
    for row in header["attacks"]:
        key = record_key(row["attack"], row["schedule"])
        prefix = f"{key}/trace/"
        trace = {n.removeprefix(prefix): t for n, t in tensors.items() if n.startswith(prefix)}
        attacks.append(AttackRecord(**row, **{name: tensors[f"{key}/{name}"] for name in _ATTACK}, trace=trace))
    benign = {name: tensors[f"benign/{name}"] for name in _BENIGN}
    return BatchRecord(**{name: header[name] for name in _HEADER}, **benign, attacks=attacks)


def read_records(folder: Path, wanted: Callable[[list[str]], bool] | None = None) -> Iterator[BatchRecord]:
    """The records below ``folder``, one in memory at a time: by interpreter in the module's order, then by batch.

    Args:
        folder: a run's ``records``, or one interpreter's folder in it.
        wanted: whether a record with these images is to be read at all; None reads every one.

    Raises:
        ValueError: see :func:`read_record`.
    """
    for path in record_paths(folder):
        if wanted is None or wanted(read_header(path).get("image_id", [])):
            yield read_record(path)


def wait_for_records(paths: Iterable[Path], seconds: float = 120.0) -> None:
    """Wait until all files are there: a network file system may show another machine's files later.

    Raises:
        RuntimeError: some are still missing after so many seconds.
    """
    end = time.monotonic() + seconds
    missing = list(paths)
    while missing := [path for path in missing if not path.exists()]:
        if time.monotonic() > end:
            raise RuntimeError(
                f"{len(missing)} records are missing after {seconds:.0f} s, the first is {missing[0]}; do all machines "
                "write to the same folder? Run the same command again to make what is missing"
            )
        time.sleep(0.5)


def to_numpy(images: Tensor) -> np.ndarray[Any, np.dtype[np.uint8]]:
    """An image for drawing: ``(C, H, W)`` uint8 -> ``(H, W, 3)`` uint8; a grey image is repeated to three channels."""
    array: np.ndarray[Any, np.dtype[np.uint8]] = images.permute(1, 2, 0).numpy()
    return array if array.shape[2] == 3 else np.repeat(array[:, :, :1], 3, axis=2)
