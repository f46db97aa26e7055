"""Go on from a checkpoint of every batch, validation and epoch, and compare all that follows with one whole run."""

from __future__ import annotations

import copy
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import Checkpoint
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from lightning_adv2.data.loaders import BatchLoader
from lightning_adv2.data.sampling import EpochOrder
from lightning_adv2.data.skipping import Skipped
from lightning_adv2.modules import TrainingCheckpoint

BATCHES = 4


class Numbers(Dataset[Any]):
    def __getitem__(self, indices: list[int]) -> dict[str, Any]:
        return {"indices": torch.tensor(indices), "skipped": {}}


def loader() -> BatchLoader:
    skipped = Skipped("train", 8, 0.0, lambda count: count)
    return BatchLoader(Numbers(), EpochOrder(2 * BATCHES + 1, 2, seed=3), 0, skipped)


class Recorder(pl.LightningModule):
    """Writes down every training batch, validation and end of an epoch."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = torch.nn.Linear(1, 1)
        self.seen: list[tuple[Any, ...]] = []

    def training_step(self, batch: dict[str, Tensor], batch_idx: int) -> Tensor:
        self.seen.append(
            ("train", tuple(batch["indices"].tolist()), batch_idx, self.current_epoch, float(torch.rand(())))
        )
        return self.layer(batch["indices"][:1].float()).sum()

    def validation_step(self, batch: Tensor, batch_idx: int) -> None:
        torch.rand(7)  # what validation draws must not matter

    def on_validation_epoch_end(self) -> None:
        if not self.trainer.sanity_checking:
            self.seen.append(("validated", self.global_step))

    def on_train_epoch_start(self) -> None:
        self.seen.append(("begin", self.current_epoch))

    def on_train_epoch_end(self) -> None:
        self.seen.append(("epoch", self.current_epoch))

    def configure_optimizers(self) -> Any:
        optimizer = torch.optim.SGD(self.parameters(), lr=0.1)
        schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: 1 / (1 + step))
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}


class Stop(Exception):
    pass


class Everywhere(TrainingCheckpoint):
    """Keeps what it would have saved at every hook; with ``stop_at`` the run dies right after that save."""

    def __init__(self, stop_at: int | None = None) -> None:
        super().__init__()
        self.kept: list[tuple[int, dict[str, Any]]] = []
        self.stop_at = stop_at

    def on_train_batch_end(self, trainer: Any, *_: Any) -> None:  # type: ignore[override]
        self.save(trainer)

    def on_train_epoch_end(self, trainer: Any, *_: Any) -> None:  # type: ignore[override]
        self.save(trainer)

    def save(self, trainer: Any) -> None:
        checkpoint = trainer._checkpoint_connector.dump_checkpoint(False)
        self.kept.append((len(trainer.lightning_module.seen), copy.deepcopy(checkpoint)))
        if len(self.kept) == self.stop_at:
            raise Stop


def fit(folder: Path, callback: Checkpoint, checkpoint: dict[str, Any] | None = None, **limits: Any) -> Recorder:
    module, path = Recorder(), None
    trainer = pl.Trainer(
        accelerator="cpu", logger=False, enable_progress_bar=False, enable_model_summary=False,
        default_root_dir=folder, callbacks=[callback], **limits,
    )  # fmt: skip
    callback.setup(trainer, module, "fit")  # installs the sealed format, which the line below writes
    if checkpoint is not None:
        path = folder / "from.ckpt"
        trainer.strategy.checkpoint_io.save_checkpoint(checkpoint, path)
    with suppress(Stop):
        trainer.fit(module, loader(), DataLoader(torch.zeros(2, 1)), ckpt_path=path)
    return module


RUNS: list[dict[str, Any]] = [
    {"max_epochs": 3},
    {"max_epochs": 3, "limit_val_batches": 0},
    {"max_epochs": 3, "val_check_interval": 2},
    {"max_epochs": 3, "val_check_interval": 3, "check_val_every_n_epoch": None},
    {"max_epochs": 3, "check_val_every_n_epoch": 2},
    {"max_epochs": 3, "accumulate_grad_batches": 4},
    {"max_steps": 12, "max_epochs": -1},
    {"max_steps": 10, "max_epochs": -1, "limit_val_batches": 0},
    {"max_steps": 12, "max_epochs": -1, "val_check_interval": 2},
    {"max_steps": 11, "max_epochs": -1, "val_check_interval": 3, "check_val_every_n_epoch": None},
]


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("limits", RUNS, ids=str)
def test_promise_9_from_any_checkpoint_the_rest_is_as_in_one_run(limits: dict[str, Any], tmp_path: Path) -> None:
    torch.manual_seed(1)
    whole = Everywhere()
    expected = fit(tmp_path, whole, **limits)
    assert len({entry[1:] for entry in expected.seen if entry[0] == "train"}) >= 10
    last_step = whole.kept[-1][1]["global_step"]
    compared = 0
    for done, checkpoint in whole.kept:
        steps = sum(entry[0] == "train" for entry in expected.seen[:done])
        if "accumulate_grad_batches" in limits and steps % BATCHES:
            continue  # between two batches whose gradients are accumulated nothing is saved
        if "max_steps" in limits and checkpoint["global_step"] == last_step:
            continue  # nothing is left to train, and Lightning does not begin
        torch.manual_seed(compared + 100)  # the state of the generators must not matter
        found = fit(tmp_path, Everywhere(), checkpoint, **limits)
        assert found.seen == expected.seen[done:], (checkpoint["global_step"], done)
        compared += 1
    assert compared >= 3


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("limits", [RUNS[0], RUNS[2], RUNS[6], RUNS[9]], ids=str)
def test_promise_9_a_run_that_stops_after_every_save(limits: dict[str, Any], tmp_path: Path) -> None:
    """Each stretch goes on from the checkpoint of the one before."""
    torch.manual_seed(1)
    expected = fit(tmp_path, Everywhere(), **limits)
    torch.manual_seed(1)
    seen: list[tuple[Any, ...]] = []
    checkpoint: dict[str, Any] | None = None
    weights = None
    for _ in range(60):
        stretch = Everywhere(stop_at=1)
        module = fit(tmp_path, stretch, checkpoint, **limits)
        if not stretch.kept:
            seen += module.seen
            break
        seen += module.seen[: stretch.kept[0][0]]
        checkpoint, weights = stretch.kept[0][1], module.layer.weight
    # With max_steps nothing is done after the last step's save, for Lightning does not begin again.
    assert len(seen) >= len(expected.seen) - 2 * ("max_steps" in limits)
    assert seen == expected.seen[: len(seen)]
    assert weights is not None
    assert torch.equal(weights, expected.layer.weight)
