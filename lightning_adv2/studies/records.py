"""The records that AttackEvaluation left, shared out among the processes."""

from __future__ import annotations

from collections.abc import Iterator

import pytorch_lightning as pl

from lightning_adv2.files.run import record_paths
from lightning_adv2.results.records import BatchRecord, read_record, wait_for_records
from lightning_adv2.runtime.folders import results_folder
from lightning_adv2.runtime.processes import on_rank_zero


def batches_of_this_process(trainer: pl.Trainer) -> Iterator[dict[str, BatchRecord]]:
    """The records of every W-th batch, by interpreter in the module's order; all processes have to ask."""
    # One process looks, for another machine may not see all files yet.
    paths = on_rank_zero(trainer, lambda: record_paths(results_folder(trainer) / "records"))
    batches = sorted({path.name for path in paths}, key=lambda name: (len(name), name))
    for name in batches[trainer.global_rank :: trainer.world_size]:
        own = [path for path in paths if path.name == name]
        wait_for_records(own)
        yield {record.interpreter: record for record in map(read_record, own)}
