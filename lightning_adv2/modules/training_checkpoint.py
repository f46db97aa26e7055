"""Checkpoints from which ``fit`` continues exactly as if it had never stopped."""

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
    """Keeps ``last.ckpt``, whole and sealed, after every validation and epoch; a run that continues from it is exact.

    Every training step starts from random generators that are seeded by (run's seed, number of the batch, process), so
    that other draws do not matter and no generator need be saved. To choose the best of several states put a
    ``ModelCheckpoint(monitor=...)`` beside it.

    Args:
        dirpath: the folder; None takes ``<default_root_dir>/checkpoints``.
        every_n_steps: also save after every so many optimiser steps, or None.

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
        """The path of a run's checkpoint.

        Args:
            default_root_dir: the run's folder.
        """
        return Path(self.dirpath or Path(default_root_dir) / "checkpoints") / "last.ckpt"

    def found(self, default_root_dir: str | Path) -> Path | None:
        """The checkpoint to continue from, or None where no former run left one.

        Args:
            default_root_dir: the run's folder.
        """
        file = self.file(default_root_dir)
        return file if file.exists() or previous(file).exists() else None

    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        """Own the run's folder, seal checkpoints, refuse another training's, remove files of killed processes.

        For the arguments see ``pytorch_lightning.Callback``.

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
            forget(folder)  # no checkpoint to continue from
        claim(folder, describe_training(pl_module, data, trainer))
        for rest in folder.glob(".*.ckpt*.tmp"):
            rest.unlink(missing_ok=True)
        return True

    def teardown(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        """Release the folder.

        For the arguments see ``pytorch_lightning.Callback``.
        """
        self._until_end.close()

    def on_exception(self, trainer: pl.Trainer, pl_module: pl.LightningModule, exception: BaseException) -> None:
        """Release the folder; ``teardown`` is not called after an exception.

        For the arguments see ``pytorch_lightning.Callback``.
        """
        self._until_end.close()

    def save(self, trainer: pl.Trainer) -> None:
        """Save now; all processes must call this at once.

        Args:
            trainer: runs ``fit``.

        Raises:
            OSError: the disk is full or the folder cannot be written; the former checkpoint is untouched.
        """
        if not getattr(trainer, "fast_dev_run", False):
            # With None, Lightning would print its default at every save.
            trainer.save_checkpoint(self.file(trainer.default_root_dir), weights_only=False)
            self._saved_step = trainer.global_step

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Fix the run's seed, unless a checkpoint has one; before the first batch is asked for.

        For the arguments see ``pytorch_lightning.Callback``.
        """
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
        """Seed all global generators by run, batch and process.

        For the arguments see ``pytorch_lightning.Callback``.
        """
        assert self._seed is not None
        seed_global_generators(derived(self._seed, "step", trainer.fit_loop.total_batch_idx, trainer.global_rank))

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Save every n optimiser steps, and a save that was postponed.

        For the arguments see ``pytorch_lightning.Callback``.
        """
        if self._put_off or (self.every_n_steps and trainer.global_step % self.every_n_steps == 0):
            self._save_new(trainer)

    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Save, even where this step is saved: continuing from before the validation would repeat it.

        For the arguments see ``pytorch_lightning.Callback``.
        """
        if trainer.state.fn == TrainerFn.FITTING and not trainer.sanity_checking:
            self._saved_step = -1
            self._save_new(trainer)

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Save, unless a validation has just done so.

        For the arguments see ``pytorch_lightning.Callback``.
        """
        self._save_new(trainer)

    def _save_new(self, trainer: pl.Trainer) -> None:
        # Between two batches whose gradients are accumulated, the first one's would be lost.
        self._put_off = accumulates(trainer)
        if trainer.global_step != self._saved_step and not self._put_off:
            self.save(trainer)

    def on_save_checkpoint(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        """Add the state that Lightning does not keep, whichever callback saves.

        For the arguments see ``pytorch_lightning.Callback``.
        """
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
        """Continue with the checkpoint's seed, right behind its last step.

        For the arguments see ``pytorch_lightning.Callback``.
        """
        if trainer.state.fn != TrainerFn.FITTING:
            return
        kept = checkpoint.get(_KEY)
        if kept is None:
            rank_zero_warn(
                f"{trainer.ckpt_path} was saved without TrainingCheckpoint: this run continues, but not exactly"
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
            f"Continuing from step {checkpoint['global_step']} in epoch {checkpoint['epoch']}: {trainer.ckpt_path}"
        )
