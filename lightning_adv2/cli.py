"""The command line: LightningCLI's fit, validate, test and predict, and our own demo."""

from __future__ import annotations

import argparse
import logging
import sys
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import yaml
from pytorch_lightning.callbacks import ProgressBar, RichProgressBar
from pytorch_lightning.cli import LightningArgumentParser, LightningCLI, SaveConfigCallback
from pytorch_lightning.loggers import WandbLogger

from lightning_adv2.report import default_logger

DESCRIPTION = (
    "Train interpreters, attack classifier and map together, measure, log. "
    "'lightning-adv2 demo' shows all of it in minutes, without any data; "
    "'lightning-adv2 test --config configs/evaluate/cifar10_cam.yaml' is a first real evaluation."
)


class SaveConfig(SaveConfigCallback):
    """Keep the resolved configuration: as ``config.yaml`` in the run's folder, and in W&B."""

    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        """Write it where the run's other files lie, not where the logger has its own."""
        if not trainer.is_global_zero:
            return
        folder = Path(trainer.default_root_dir)
        folder.mkdir(parents=True, exist_ok=True)
        self.parser.save(self.config, folder / "config.yaml", skip_none=False, overwrite=True, multifile=self.multifile)
        if isinstance(trainer.logger, WandbLogger):
            trainer.logger.log_hyperparams(yaml.safe_load(self.parser.dump(self.config, skip_none=False)))


class CLI(LightningCLI):
    """LightningCLI with the defaults that attacks need."""

    def __init__(self, args: Sequence[str] | None = None) -> None:
        super().__init__(
            pl.LightningModule,
            pl.LightningDataModule,
            subclass_mode_model=True,
            subclass_mode_data=True,
            save_config_callback=SaveConfig,
            trainer_defaults={
                "callbacks": [RichProgressBar()],
                "inference_mode": False,  # attacks take gradients in validate and test
            },
            seed_everything_default=0,
            parser_kwargs={"description": DESCRIPTION},
            args=list(args) if args is not None else None,
        )

    def _prepare_subcommand_parser(self, klass: type, subcommand: str, **kwargs: Any) -> LightningArgumentParser:
        parser = super()._prepare_subcommand_parser(klass, subcommand, **kwargs)
        if subcommand in ("validate", "test"):
            parser.set_defaults({"verbose": False})  # our own tables say it better
        return parser

    def _parse_ckpt_path(self) -> None:
        """Do nothing: Lightning would merge a checkpoint's hyper-parameters over the configuration asked for."""

    def instantiate_trainer(self, **kwargs: Any) -> pl.Trainer:
        """Log to W&B in the run's folder unless a logger is given; ``--trainer.logger false`` turns it off."""
        config = self._get(self.config_init, "trainer", default={})
        given = config.get("callbacks") or []
        given = given if isinstance(given, list) else [given]
        if config.get("enable_progress_bar") is False or any(isinstance(bar, ProgressBar) for bar in given):
            self.trainer_defaults["callbacks"] = []  # Lightning takes one bar or none, and refuses two
        if config.get("logger") is None and "logger" not in kwargs:
            kwargs["logger"] = default_logger(config.get("default_root_dir") or ".")
        return super().instantiate_trainer(**kwargs)


def _quieten() -> None:
    """Silence what tells a user of this tool nothing, so that what is left gets read."""
    for message in (
        r".*isinstance\(treespec, LeafSpec\).*",  # between Lightning and torch
        r".*module\(s\) in eval mode at the start of training.*",  # the frozen networks; on purpose
        r".*does not have many workers.*",  # the data lie in memory
    ):
        warnings.filterwarnings("ignore", message=message)
    advertised = ("litlogger", "litmodels")
    logging.getLogger("pytorch_lightning.utilities.rank_zero").addFilter(
        lambda record: not any(name in record.getMessage() for name in advertised)
    )


def main(args: Sequence[str] | None = None) -> None:
    """Entry point of ``lightning-adv2``."""
    _quieten()
    words = list(sys.argv[1:] if args is None else args)
    if words[:1] == ["demo"]:
        from lightning_adv2.demo import demo  # its imports are not for every --help

        parser = argparse.ArgumentParser(prog="lightning-adv2 demo", description=demo.__doc__)
        parser.add_argument("--output", type=Path, default=Path("runs/demo"), help="folder of the run (%(default)s)")
        parser.add_argument("--num-images", type=int, default=32, help="images to attack (%(default)s)")
        parser.add_argument("--seed", type=int, default=0, help="(%(default)s)")
        options = parser.parse_args(words[1:])
        demo(options.output, options.num_images, options.seed)
        return
    CLI(None if args is None else words)  # None: jsonargparse reads the command line itself
