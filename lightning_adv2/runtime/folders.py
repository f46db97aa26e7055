"""Where a run's results go."""

from __future__ import annotations

from pathlib import Path

import pytorch_lightning as pl
from pytorch_lightning.trainer.states import TrainerFn


def results_folder(trainer: pl.Trainer) -> Path:
    """The run's folder; during ``fit`` one per validation, and for a rehearsal one that replaces nothing."""
    root = Path(trainer.default_root_dir)
    if getattr(trainer, "fast_dev_run", False):
        return root / "fast_dev_run"
    if trainer.state.fn == TrainerFn.FITTING:
        return root / "validation" / f"step_{trainer.global_step:06d}"
    return root


def continues(trainer: pl.Trainer) -> bool:
    """Whether results of an earlier run in the same folder count; else the folder starts empty."""
    return results_folder(trainer) == Path(trainer.default_root_dir)
