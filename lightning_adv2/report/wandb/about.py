"""Group, job type and tags of a W&B run, and what summarises its curves."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

STEP = "trainer/global_step"
"""Lightning's x-axis."""

_BEST = {"train/loss": "min", "val/loss": "min", "val/accuracy": "max"}
_LONGEST_TAG = 64  # characters, W&B's limit


def run_settings(
    folder: Path, state: Mapping[str, Any], group: str | None, job_type: str | None, tags: Iterable[str]
) -> dict[str, Any]:
    """``group``, ``job_type`` and ``tags`` of a W&B run.

    Group and job type come from ``WANDB_RUN_GROUP`` and ``WANDB_JOB_TYPE``, else from the first start of the run, else
    from the arguments. The default group is the parent folder, if it lies below a folder of the working directory:
    ``runs/cifar10/cam`` has the group ``cifar10``, ``runs/cifar10_cam`` has none. Tags in ``WANDB_TAGS`` are added.

    Args:
        folder: of the run.
        state: its ``wandb.json``.
        group: name that related runs share.
        job_type: kind of the run.
        tags: words to filter by.
    """
    return {
        "group": os.environ.get("WANDB_RUN_GROUP") or state.get("group") or group or _group_of(folder),
        "job_type": os.environ.get("WANDB_JOB_TYPE") or state.get("job_type") or job_type,
        "tags": as_tags([*os.environ.get("WANDB_TAGS", "").split(","), *tags]),
    }


def _group_of(folder: Path) -> str | None:
    try:
        parts = folder.resolve().relative_to(Path.cwd()).parts
    except ValueError:
        return None
    return parts[-2] if len(parts) > 2 else None


def job_type_of(subcommand: str | None, module: object) -> str | None:
    """``train-rts``, ``train-aid``, ``train-classifier``, ... for ``fit``; ``evaluate``; ``predict``."""
    if subcommand == "fit":
        return f"train-{type(module).__name__.removesuffix('Module').lower()}"
    return "evaluate" if subcommand in ("validate", "test") else subcommand


def as_tags(words: Iterable[str]) -> tuple[str, ...]:
    """The words as tags of W&B: each once, not empty, at most 64 characters."""
    return tuple(dict.fromkeys(word.strip()[:_LONGEST_TAG] for word in words if word.strip()))


def define_curves(experiment: Any) -> None:
    """Define which values of a training curve enter W&B's summary, and that Lightning's x-axis is no panel."""
    for name, best in _BEST.items():
        experiment.define_metric(name, step_metric=STEP, step_sync=True, summary=f"{best},last")
    experiment.define_metric(STEP, hidden=True)
