"""Save ``fit`` so that it goes on exactly as if it had never stopped."""

from __future__ import annotations

from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
from pytorch_lightning.callbacks import Checkpoint
from pytorch_lightning.plugins.io import TorchCheckpointIO
from pytorch_lightning.trainer.states import TrainerFn
from pytorch_lightning.utilities import rank_zero_info, rank_zero_warn

from lightning_adv2.runtime.checkpoint_io import SealedCheckpointIO, previous
from lightning_adv2.runtime.experiment import claim, forget
from lightning_adv2.runtime.lightning import accumulates, begin_epoch, validation_due
from lightning_adv2.runtime.ownership import is_owned, owned
from lightning_adv2.runtime.processes import on_rank_zero
from lightning_adv2.runtime.progress import mend
from lightning_adv2.runtime.seeds import derived, run_seed, seed_global_generators
from lightning_adv2.runtime.signals import interruption_of
from lightning_adv2.runtime.threads import arithmetic
from lightning_adv2.runtime.training import describe_training

_KEY = "training_checkpoint"


class TrainingCheckpoint(Checkpoint):
    """Keeps ``last.ckpt``, whole and sealed, after every validation and epoch; a run that goes on from it is exact.

    Every training step starts from random generators that are seeded by (run's seed, number of the batch, process), so
    that nothing drawn elsewhere matters and nothing about them need be saved. For choosing the best of several states
    put a ``ModelCheckpoint(monitor=...)`` beside it.

    Args:
        dirpath: the folder; None takes ``<default_root_dir>/checkpoints``.
        every_n_steps: save after every so many optimiser steps as well, or None.

    Raises:
        ValueError: ``every_n_steps`` below 1.
    """

    def __init__(self, dirpath: str | None = None, every_n_steps: int | None = None) -> None:
        if every_n_steps is not None and every_n_steps < 1:
            raise ValueError(f"every_n_steps={every_n_steps}: give at least 1, or leave it out")
        self.dirpath, self.every_n_steps = dirpath, every_n_steps
        self._seed: int | None = None
        self._saved_step = 0
        self._new_epoch, self._put_off = False, False
        self._order: dict[str, Any] | None = None
        self._until_end = ExitStack()

    def file(self, default_root_dir: str | Path) -> Path:
        """Where the checkpoint of a run in this folder lies."""
        return Path(self.dirpath or Path(default_root_dir) / "checkpoints") / "last.ckpt"

    def found(self, default_root_dir: str | Path) -> Path | None:
        """The checkpoint to go on from, if a former run in this folder left one."""
        file = self.file(default_root_dir)
        return file if file.exists() or previous(file).exists() else None

    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        """Own the run's folder, seal checkpoints, refuse another training's, and sweep up what a killed process left.

        Raises:
            FolderInUseError: another run is at work in the folder.
            DifferentExperimentError: the folder's checkpoint is of another training; names what differs.
        """
        if type(trainer.strategy.checkpoint_io) is TorchCheckpointIO:
            trainer.strategy.checkpoint_io = SealedCheckpointIO()
        self.dirpath = str(self.file(trainer.default_root_dir).parent)
        # Behind every ModelCheckpoint, whose state it keeps; a new list, for Lightning is walking through the old one.
        callbacks: list[Any] = trainer.callbacks  # type: ignore[attr-defined]
        trainer.callbacks = [one for one in callbacks if one is not self] + [self]  # type: ignore[attr-defined]
        if stage == "fit" and not getattr(trainer, "fast_dev_run", False):
            on_rank_zero(trainer, lambda: self._open(trainer, pl_module))

    def _open(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> bool:
        if not is_owned(trainer.default_root_dir):  # the command line owns it from the start
            self._until_end.enter_context(owned(trainer.default_root_dir))
        folder = self.file(trainer.default_root_dir).parent
        data: Any = getattr(trainer, "datamodule", None)
        if not self.found(trainer.default_root_dir):
            forget(folder)  # nothing there to go on with
        claim(folder, describe_training(pl_module, data, trainer))
        for rest in folder.glob(".*.ckpt*.tmp"):
            rest.unlink(missing_ok=True)
        return True

    def teardown(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        """Leave the folder to others."""
        self._until_end.close()

    def on_exception(self, trainer: pl.Trainer, pl_module: pl.LightningModule, exception: BaseException) -> None:
        """The same; ``teardown`` is not called then."""
        self._until_end.close()

    def save(self, trainer: pl.Trainer) -> None:
        """Save now; all processes must ask at once.

        Raises:
            OSError: the disk is full or the folder cannot be written; the former checkpoint is untouched.
        """
        if not getattr(trainer, "fast_dev_run", False):
            # Left at None, Lightning would say each time what it takes it for.
            trainer.save_checkpoint(self.file(trainer.default_root_dir), weights_only=False)
            self._saved_step = trainer.global_step

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Fix the run's seed, unless it goes on with one; before the first batch is asked for."""
        if self._seed is None:
            self._seed = run_seed(trainer)
        if self._order is not None:
            loader: Any = trainer.train_dataloader
            loader.load_state_dict(self._order)
            self._order = None
        if self._new_epoch:
            begin_epoch(trainer)
            self._new_epoch = False

    def on_train_batch_start(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        """Seed all global generators."""
        assert self._seed is not None
        seed_global_generators(derived(self._seed, "step", trainer.fit_loop.total_batch_idx, trainer.global_rank))

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Save every n optimiser steps, and what could not be saved when it was due."""
        if self._put_off or (self.every_n_steps and trainer.global_step % self.every_n_steps == 0):
            self._save_new(trainer)

    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Save, even if this step is saved: going on from before the validation would repeat it."""
        if trainer.state.fn == TrainerFn.FITTING and not trainer.sanity_checking:
            self._saved_step = -1
            self._save_new(trainer)

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Save, where no validation has just done so."""
        self._save_new(trainer)

    def _save_new(self, trainer: pl.Trainer) -> None:
        # Between two batches whose gradients are accumulated, the first one's would be lost.
        self._put_off = accumulates(trainer)
        if trainer.global_step != self._saved_step and not self._put_off:
            self.save(trainer)

    def on_save_checkpoint(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        """Add what Lightning does not keep, whoever saves."""
        left = interruption_of(trainer).left_validation
        checkpoint[_KEY] = {
            "seed": self._seed,
            "validation_due": validation_due(trainer),
            "left_validation": left,
            "arithmetic": arithmetic(trainer.strategy.root_device),
        }

    def on_load_checkpoint(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        """Go on with its seed, right behind where it was saved."""
        if trainer.state.fn != TrainerFn.FITTING:
            return
        kept = checkpoint.get(_KEY)
        if kept is None:
            rank_zero_warn(
                f"{trainer.ckpt_path} was saved without TrainingCheckpoint: this run goes on, but not exactly"
            )
        else:
            self._seed = kept["seed"]
            now = arithmetic(trainer.strategy.root_device)
            if (before := kept.get("arithmetic", now)) != now:
                rank_zero_warn(
                    f"{trainer.ckpt_path} is of a run that computed with {before}, this one computes with {now}: "
                    "it is the same training, but not bit for bit"
                )
            self._new_epoch = mend(
                checkpoint["loops"]["fit_loop"],
                kept["validation_due"],
                by_steps=trainer.max_steps != -1,
                left_validation=kept["left_validation"],
            )
        # Lightning forgets this where the length of an epoch was asked for before (``estimated_stepping_batches``).
        loaders = checkpoint["loops"]["fit_loop"]["state_dict"].get("combined_loader", [])
        self._order = dict(loaders[0]) if len(loaders) == 1 else None
        self._saved_step = checkpoint["global_step"]
        rank_zero_info(
            f"Going on from step {checkpoint['global_step']} in epoch {checkpoint['epoch']}: {trainer.ckpt_path}"
        )
