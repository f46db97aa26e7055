"""The folders of a run's results."""

from __future__ import annotations

from pathlib import Path

import pytorch_lightning as pl
from pytorch_lightning.trainer.states import TrainerFn


def results_folder(trainer: pl.Trainer) -> Path:
    """Return the folder of a run's results.

    That is the trainer's ``default_root_dir``; during ``fit`` a folder in it for each validation,
    ``validation/step_000100``, and in a rehearsal (``fast_dev_run``) a folder of its own, which replaces no results.
    """
    root = Path(trainer.default_root_dir)
    if getattr(trainer, "fast_dev_run", False):
        return root / "fast_dev_run"
    if trainer.state.fn == TrainerFn.FITTING:
        return root / "validation" / f"step_{trainer.global_step:06d}"
    return root


def continues(trainer: pl.Trainer) -> bool:
    """Return whether a run goes on with the results in its folder; otherwise the folder starts empty."""
    return results_folder(trainer) == Path(trainer.default_root_dir)
