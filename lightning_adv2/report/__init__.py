"""Finished results, shown: tables, figures, HTML pages and W&B."""

from lightning_adv2.report.results_table import print_table
from lightning_adv2.report.run_report import write_figures
from lightning_adv2.report.wandb.start import default_logger, wandb_logger

__all__ = ["default_logger", "print_table", "wandb_logger", "write_figures"]
