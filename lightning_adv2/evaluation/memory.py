"""Running out of memory: the batch is halved and tried again."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import fields, replace
from typing import Any, cast

import torch
from pytorch_lightning.utilities.memory import garbage_collection_cuda, is_oom_error
from torch import Tensor

from lightning_adv2.results.records import AttackRecord, BatchRecord
from lightning_adv2.types import Batch


def halving(attack: Callable[[Batch], BatchRecord], batch: Batch, most: int | None = None) -> BatchRecord:
    """The record of ``attack`` on a batch that may be too large for the memory; its ``pieces`` count the parts.

    An image's random numbers are its own, so halving changes its result no more than other neighbours do: not at all
    in double precision, by rounding in single precision.

    Args:
        attack: makes the record of a batch.
        batch: of B images.
        most: do not try more images at once, for it is known that they do not fit.

    Raises:
        RuntimeError: one image does not fit.
    """
    count = len(batch["images"])
    if most is None or count <= most:
        try:
            return attack(batch)
        except (RuntimeError, MemoryError) as error:
            if not _out_of_memory(error):
                raise
            if count == 1:
                raise RuntimeError(
                    f"out of memory on a single image of shape {tuple(batch['images'].shape[1:])} ({error}); take a "
                    "smaller classifier or image, fewer steps that keep their graph, or a larger machine"
                ) from error
        # Only here, outside: the error holds on to the failed attempt's tensors.
        garbage_collection_cuda()
    middle = (count + 1) // 2
    parts = [rows_of(batch, slice(0, middle)), rows_of(batch, slice(middle, count))]
    return join([halving(attack, part, most) for part in parts])


def _out_of_memory(error: BaseException) -> bool:
    # The last is how oneDNN puts it on a CPU.
    known = isinstance(error, (torch.OutOfMemoryError, MemoryError)) or is_oom_error(error)
    return known or "could not create a primitive" in str(error)


def rows_of(batch: Batch, rows: slice) -> Batch:
    """Some of a batch's images.

    Args:
        batch: of B images. Its tensors, lists and tuples of length B are cut; all else is of the whole batch, and kept.
        rows: which.
    """
    count, values = len(batch["images"]), dict[str, Any](batch)
    return cast(Batch, {key: value[rows] if _length(value) == count else value for key, value in values.items()})


def _length(value: Any) -> int | None:
    if isinstance(value, Tensor):
        return len(value) if value.dim() else None
    return len(value) if isinstance(value, (list, tuple)) else None


def join(records: Sequence[BatchRecord]) -> BatchRecord:
    """The record of a whole batch, from the records of its parts in order."""
    first = records[0]
    changed: dict[str, Any] = {}
    for name in ("image_id", "already_wrong"):
        changed[name] = [one for record in records for one in getattr(record, name)]
    for name in ("label", "target_class", "images", "benign_map", "benign_map_target_class", "target_map"):
        changed[name] = torch.cat([getattr(record, name) for record in records])
    attacked = [record.attacks for record in records if record.attacks]  # a part may have no image to attack
    return replace(
        first,
        **changed,
        invalid={name: reason for record in records for name, reason in record.invalid.items()},
        attacks=[_join_attacks(parts) for parts in zip(*attacked, strict=True)],
        pieces=sum(record.pieces for record in records),
    )


def _join_attacks(parts: Sequence[AttackRecord]) -> AttackRecord:
    first = parts[0]
    names = [field.name for field in fields(first) if isinstance(getattr(first, field.name), Tensor)]
    tensors: dict[str, Any] = {name: torch.cat([getattr(part, name) for part in parts]) for name in names}
    return replace(
        first,
        **tensors,
        seconds=sum(part.seconds for part in parts),
        trace={name: torch.cat([part.trace[name] for part in parts], dim=1) for name in first.trace},
        flags=sorted({flag for part in parts for flag in part.flags}),
    )
