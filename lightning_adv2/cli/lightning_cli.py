"""LightningCLI's fit, validate, test and predict, with the defaults that attacks need."""

from __future__ import annotations

import logging
import re
import warnings
from collections.abc import Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import yaml
from pytorch_lightning.callbacks import ProgressBar as AnyProgressBar
from pytorch_lightning.cli import LightningArgumentParser, LightningCLI, SaveConfigCallback
from pytorch_lightning.loggers import WandbLogger
from pytorch_lightning.plugins.io import CheckpointIO
from pytorch_lightning.utilities import rank_zero_info
from pytorch_lightning.utilities.exceptions import MisconfigurationException  # type: ignore[attr-defined]

from lightning_adv2.cli.instantiation import with_errors_of_classes
from lightning_adv2.cli.merging import starting_anew
from lightning_adv2.cli.messages import Parser, plain_unions
from lightning_adv2.cli.names import short_names
from lightning_adv2.evaluation import AttackEvaluation
from lightning_adv2.evaluation.progress import ProgressBar
from lightning_adv2.files import write_text
from lightning_adv2.files.data_root import below_data_root
from lightning_adv2.modules.training_checkpoint import TrainingCheckpoint
from lightning_adv2.report import default_logger
from lightning_adv2.report.wandb.about import job_type_of
from lightning_adv2.report.wandb.logger import attempt
from lightning_adv2.runtime.checkpoint_io import SealedCheckpointIO
from lightning_adv2.runtime.early import WATCH
from lightning_adv2.runtime.ownership import owned
from lightning_adv2.runtime.signals import Interruption
from lightning_adv2.runtime.slurm import requeues
from lightning_adv2.runtime.tasks import check_tasks


class SaveConfig(SaveConfigCallback):
    """Writes the resolved configuration to ``config.yaml`` in the run's folder, and to W&B."""

    kept = False

    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        """Do nothing yet: the folder may be another experiment's, and then this run is refused."""

    def _keep(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Write it into the run's folder, not into the logger's."""
        if not trainer.is_global_zero or trainer.sanity_checking or self.kept:
            return
        self.kept = True
        resolved = self.parser.dump(self.config, skip_none=False)
        write_text(Path(trainer.default_root_dir) / "config.yaml", resolved)
        logger = trainer.logger
        if isinstance(logger, WandbLogger):
            attempt(logger, lambda: logger.log_hyperparams(yaml.safe_load(resolved)))

    on_train_start = on_validation_start = on_test_start = on_predict_start = _keep


class CLI(LightningCLI):
    """LightningCLI with the defaults that attacks need."""

    def __init__(self, args: Sequence[str]) -> None:
        super().__init__(
            pl.LightningModule,
            pl.LightningDataModule,
            subclass_mode_model=True,
            subclass_mode_data=True,
            save_config_callback=SaveConfig,
            trainer_defaults={
                "inference_mode": False,  # attacks take gradients in validate and test
            },
            seed_everything_default=0,
            parser_class=Parser,
            parser_kwargs={"prog": "lightning-adv2"},
            args=list(args),
        )

    def _prepare_subcommand_parser(self, klass: type, subcommand: str, **kwargs: Any) -> LightningArgumentParser:
        parser = super()._prepare_subcommand_parser(klass, subcommand, **kwargs)
        if subcommand in ("validate", "test"):
            parser.set_defaults({"verbose": False})  # our own tables say it better
        return parser

    def parse_arguments(self, parser: LightningArgumentParser, args: Any) -> None:
        """Parse; a list, or another class, starts from its own defaults.

        Lightning's own method warns of words that are given beside those of ``sys.argv``.
        """
        with starting_anew(), short_names(), plain_unions():
            self.config = parser.parse_args(args)

    def before_instantiate_classes(self) -> None:
        """Put paths below ``data/`` into the folder that ``LIGHTNING_ADV2_DATA`` names."""
        config = self.config.get(self.subcommand, self.config)
        for part in ("model", "data", "trainer.callbacks"):
            if config.get(part) is not None:
                config[part] = below_data_root(config[part])

    def instantiate_classes(self) -> None:
        """Instantiate the classes; an error in one is reported as it was raised, with its key."""
        with_errors_of_classes(super().instantiate_classes)

    def _parse_ckpt_path(self) -> None:
        """Do nothing: Lightning would merge a checkpoint's hyper-parameters over the configuration asked for."""

    def instantiate_trainer(self, **kwargs: Any) -> pl.Trainer:
        """The trainer; by default it seals checkpoints, keeps one while training, and logs to W&B."""
        config = self._get(self.config_init, "trainer", default={})
        given, plugins = _listed(config.get("callbacks")), _listed(config.get("plugins"))
        WATCH.decide(requeues(plugins))
        interruption = Interruption()
        added: list[pl.Callback] = [interruption]
        if config.get("enable_progress_bar") is not False and not any(isinstance(bar, AnyProgressBar) for bar in given):
            added.append(ProgressBar())  # Lightning takes one bar or none, and refuses two
        wanted = config.get("enable_checkpointing") is not False and not config.get("fast_dev_run")
        if self.subcommand == "fit" and wanted and not any(isinstance(one, TrainingCheckpoint) for one in given):
            added.append(TrainingCheckpoint())
        self.trainer_defaults["callbacks"] = added
        if not any(isinstance(plugin, CheckpointIO) for plugin in plugins):
            kwargs["plugins"] = [*plugins, SealedCheckpointIO()]
        if config.get("logger") is None and "logger" not in kwargs:
            job = job_type_of(self.subcommand, self._get(self.config_init, "model"))
            kwargs["logger"] = default_logger(config.get("default_root_dir") or ".", job_type=job)
        try:
            trainer = super().instantiate_trainer(**kwargs)
        except MisconfigurationException as error:
            raise ValueError(_about_devices(str(error), config)) from error
        interruption.listen(trainer)
        return trainer

    def _run_subcommand(self, subcommand: str) -> None:
        """Run while owning the run's folder, which no other run reads or writes meanwhile."""
        check_tasks(self.trainer)
        with owned(self.trainer.default_root_dir) if self.trainer.is_global_zero else nullcontext():
            super()._run_subcommand(subcommand)

    def _prepare_subcommand_kwargs(self, subcommand: str) -> dict[str, Any]:
        """Arguments of the trainer's method; ``fit`` continues from the folder's checkpoint unless given another."""
        kwargs = super()._prepare_subcommand_kwargs(subcommand)
        trainer: Any = self.trainer
        if subcommand == "fit" and kwargs.get("ckpt_path") in (None, "last") and not trainer.fast_dev_run:
            keeper = next((one for one in trainer.callbacks if isinstance(one, TrainingCheckpoint)), None)
            found = keeper and keeper.found(trainer.default_root_dir)
            if found:
                rank_zero_info(f"continuing from {found}; a new run needs another --trainer.default_root_dir")
                kwargs["ckpt_path"] = str(found)
        if subcommand in ("validate", "test") and not any(isinstance(c, AttackEvaluation) for c in trainer.callbacks):
            kwargs["verbose"] = True  # without an attack there is no table of ours
        return kwargs


def _listed(value: Any) -> list[Any]:
    return value if isinstance(value, list) else [] if value is None else [value]


def _about_devices(message: str, config: Any) -> str:
    """Lightning's message with the flags that concern it, and a remedy where it concerns devices."""
    flags = {key: config.get(key) for key in ("accelerator", "devices", "strategy", "num_nodes", "precision")}
    given = " ".join(f"--trainer.{key} {value}" for key, value in flags.items() if value not in (None, "auto", 1))
    if not re.search(r"accelerator|backend|device|gpu|strateg|precision", message, re.IGNORECASE):
        return message
    remedy = "--trainer.accelerator cpu runs on any machine; accelerator, devices and strategy may be auto"
    return f"{given}: {message}\n{remedy}"


def _quieten() -> None:
    """Silence warnings that do not apply to this package, so that the others are read."""
    for message in (
        r".*isinstance\(treespec, LeafSpec\).*",  # between Lightning and torch
        r".*module\(s\) in eval mode at the start of training.*",  # the frozen networks; on purpose
        r".*does not have many workers.*",  # the data lie in memory
        r".*`srun` command is available.*",  # a run of one process needs none; of others check_tasks knows more
        r".*Couldn't infer the batch indices.*",  # batches know their images by name
        r".*sync_dist=True.*",  # results are computed once, and equal on all processes
    ):
        warnings.filterwarnings("ignore", message=message)
    advertised = ("litlogger", "litmodels")
    logging.getLogger("pytorch_lightning.utilities.rank_zero").addFilter(
        lambda record: not any(name in record.getMessage() for name in advertised)
    )


def main(words: Sequence[str]) -> None:
    """Run one of the subcommands.

    Args:
        words: of the command line, subcommand first.

    Raises:
        ValueError: a configuration that Lightning refuses.
    """
    _quieten()
    try:
        CLI(words)
    except MisconfigurationException as error:  # such as a flag that does not go with the model; no fault in code
        raise ValueError(str(error)) from error
