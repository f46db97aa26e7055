"""In which loops a callback has work to do."""

from __future__ import annotations

import pytorch_lightning as pl
from pytorch_lightning.trainer.states import TrainerFn


def idle(trainer: pl.Trainer) -> bool:
    """Whether what comes after ``validate`` and ``test`` alone has to wait: ``fit`` runs, or the sanity check."""
    return bool(trainer.sanity_checking or trainer.state.fn == TrainerFn.FITTING)
