"""Tables, figures and W&B, all computed from finished records."""

from lightning_adv2.report.records import AttackRecord, BatchRecord, read_record, read_records, write_record
from lightning_adv2.report.results import write_figures, write_results
from lightning_adv2.report.stamp import make_stamp
from lightning_adv2.report.summary import Summary, merge
from lightning_adv2.report.tables import summarize
from lightning_adv2.report.terminal import print_table
from lightning_adv2.report.wandb_start import default_logger, wandb_logger

__all__ = [
    "AttackRecord",
    "BatchRecord",
    "Summary",
    "default_logger",
    "make_stamp",
    "merge",
    "print_table",
    "read_record",
    "read_records",
    "summarize",
    "wandb_logger",
    "write_figures",
    "write_record",
    "write_results",
]
