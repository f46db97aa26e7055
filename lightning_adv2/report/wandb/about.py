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

    W&B's own variables ``WANDB_RUN_GROUP`` and ``WANDB_JOB_TYPE`` win, then what the run has from its first start, then
    what is given. Without any, the folder around the run's is the group, below the working directory's own folders:
    ``runs/cifar10/cam`` belongs to ``cifar10``, ``runs/cifar10_cam`` to none. Tags in ``WANDB_TAGS`` are added.

    Args:
        folder: of the run.
        state: its ``wandb.json``.
        group: what belongs together.
        job_type: what the run does.
        tags: what to filter by.
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
    """Each once, as W&B takes them: not empty, at most 64 characters."""
    return tuple(dict.fromkeys(word.strip()[:_LONGEST_TAG] for word in words if word.strip()))


def define_curves(experiment: Any) -> None:
    """Define which values of a training curve enter W&B's summary, and that Lightning's x-axis is no panel."""
    for name, best in _BEST.items():
        experiment.define_metric(name, step_metric=STEP, step_sync=True, summary=f"{best},last")
    experiment.define_metric(STEP, hidden=True)
