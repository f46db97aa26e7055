"""The records that an evaluation expects, and those that an earlier run of it left."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pytorch_lightning as pl
import torch

from lightning_adv2.data.evaluated import evaluated_data
from lightning_adv2.evaluation.identity import num_batches
from lightning_adv2.results.records import BatchRecord, read_record, record_path, to_uint8
from lightning_adv2.runtime.folders import results_folder
from lightning_adv2.types import Batch


def expected_records(trainer: pl.Trainer, interpreters: Sequence[str]) -> list[Path]:
    """The paths of the records that all processes together will leave: one per batch and interpreter."""
    count = num_batches(trainer)
    if count is None or evaluated_data(trainer).manifest is None:
        return []
    asked = trainer.num_test_batches if trainer.testing else trainer.num_val_batches
    batches = range(int(min(count, asked[0] * trainer.world_size)))
    return [record_path(results_folder(trainer) / "records", name, i) for name in interpreters for i in batches]


def kept_record(trainer: pl.Trainer, interpreter: str, index: int, batch: Batch) -> BatchRecord | None:
    """The record that an earlier run of the same experiment left; None where there is none, or a damaged one."""
    path = record_path(results_folder(trainer) / "records", interpreter, index)
    if not path.exists():
        return None
    try:
        record = read_record(path)
    except ValueError as error:
        print(f"{error}\nIts batch is attacked again", flush=True)
        return None
    check_same_images(record, batch, path)
    return record


def check_same_images(record: BatchRecord, batch: Batch, path: Path) -> None:
    """Check that the record of an earlier run is of the images of a batch.

    Raises:
        RuntimeError: other images, pixels, labels or target classes.
    """
    names = batch["image_id"]
    same = {*record.image_id, *record.already_wrong, *record.invalid} == set(names)
    if same:
        rows = [names.index(name) for name in record.image_id]
        same = torch.equal(record.images, to_uint8(batch["images"][rows]))
        same &= torch.equal(record.label, batch["label"][rows].cpu())
        same &= "target_class" not in batch or torch.equal(record.target_class, batch["target_class"][rows].cpu())
    if not same:
        raise RuntimeError(
            f"{path} is of other images than this batch: they have changed, or the loader yields other batches than "
            "before. Put them back, take a data module with a fixed order such as AttackDataModule, or another folder"
        )
