"""The command line: LightningCLI's fit, validate, test and predict, and the package's own subcommands."""

from lightning_adv2.cli.dispatch import main

__all__ = ["main"]
