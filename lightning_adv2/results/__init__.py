"""Records of finished batches, and the tables that are pure functions of them."""

from lightning_adv2.results.records import AttackRecord, BatchRecord, read_record, read_records, write_record
from lightning_adv2.results.stamp import make_stamp
from lightning_adv2.results.summary import Summary, merge
from lightning_adv2.results.tables import summarize
from lightning_adv2.results.writing import write_results

__all__ = [
    "AttackRecord",
    "BatchRecord",
    "Summary",
    "make_stamp",
    "merge",
    "read_record",
    "read_records",
    "summarize",
    "write_record",
    "write_results",
]
