"""All that this package takes of Lightning's private parts, a function each: look here when Lightning changes.

Seen in 2.6.6, which ``pyproject.toml`` holds to; ``tests/runtime/test_lightning.py`` runs each of them in a trainer.
"""

from __future__ import annotations

import pytorch_lightning as pl
from pytorch_lightning.plugins.environments import ClusterEnvironment  # type: ignore[attr-defined]


def cluster_environment(trainer: pl.Trainer) -> ClusterEnvironment:
    """Return what started the processes of the run; the strategy names it only where there are several."""
    return trainer._accelerator_connector.cluster_environment


def without_signal_handlers(trainer: pl.Trainer) -> None:
    """Keep Lightning from installing its signal handlers, which it does just before the loops start."""
    trainer._signal_connector.register_signal_handlers = lambda: None  # type: ignore[method-assign]


def accumulates(trainer: pl.Trainer) -> bool:
    """Return whether gradients of the last batch still wait for those of the next; inside ``fit``."""
    return trainer.fit_loop._should_accumulate()


def validation_due(trainer: pl.Trainer) -> bool:
    """Return whether a validation follows; inside ``on_train_batch_end``."""
    fit = trainer.fit_loop
    return fit._data_fetcher is not None and fit.epoch_loop._should_check_val_fx(fit._data_fetcher)


def at_last_batch(trainer: pl.Trainer) -> bool:
    """Return whether this process is at its last batch; inside ``validate`` and ``test``."""
    return trainer._evaluation_loop.batch_progress.is_last_batch


def begin_epoch(trainer: pl.Trainer) -> None:
    """Count the first epoch as new, and call the hooks at its start; Lightning takes it for one that is under way."""
    trainer.fit_loop.reset_restart_stage()
