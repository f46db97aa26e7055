"""The command line: LightningCLI's fit, validate, test and predict, and our own subcommands."""

from lightning_adv2.cli.command import CLI, main

__all__ = ["CLI", "main"]
