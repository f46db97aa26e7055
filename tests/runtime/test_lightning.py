"""What is taken of Lightning's private parts does what it says, in real trainers; nothing else takes any."""

from __future__ import annotations

import re
import signal
from pathlib import Path
from typing import Any

import pytest
import pytorch_lightning as pl
import torch
from pytorch_lightning.cli import LightningCLI
from pytorch_lightning.plugins.environments import LightningEnvironment, SLURMEnvironment
from torch import Tensor
from torch.utils.data import DataLoader

import lightning_adv2
from lightning_adv2.cli.lightning_cli import CLI
from lightning_adv2.runtime.lightning import (
    accumulates,
    at_last_batch,
    begin_epoch,
    cluster_environment,
    validation_due,
    without_signal_handlers,
)


class Line(pl.LightningModule):
    def __init__(self) -> None:
        super().__init__()
        self.layer = torch.nn.Linear(1, 1)

    def training_step(self, batch: Tensor) -> Tensor:
        return self.layer(batch).sum()

    def validation_step(self, batch: Tensor) -> None:
        self.layer(batch)

    def configure_optimizers(self) -> Any:
        return torch.optim.SGD(self.parameters(), lr=0.1)


class Watch(pl.Callback):
    """Notes at every batch what the adapter says, and which handler hears SIGTERM."""

    def __init__(self) -> None:
        self.seen: list[tuple[bool, bool]] = []
        self.last: list[bool] = []
        self.begun = 0
        self.handler: Any = None

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self.handler = signal.getsignal(signal.SIGTERM)

    def on_train_epoch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self.begun += 1

    def on_train_batch_end(self, trainer: pl.Trainer, *_: Any) -> None:  # type: ignore[override]
        self.seen.append((accumulates(trainer), validation_due(trainer)))

    def on_validation_batch_end(self, trainer: pl.Trainer, *_: Any) -> None:  # type: ignore[override]
        if trainer.validating:
            self.last.append(at_last_batch(trainer))


DATA = DataLoader(torch.zeros(5, 1))


def made(watch: Watch, folder: Path, **options: Any) -> pl.Trainer:
    return pl.Trainer(
        accelerator="cpu", logger=False, enable_progress_bar=False, enable_model_summary=False, max_epochs=1,
        enable_checkpointing=False, default_root_dir=folder, callbacks=[watch], num_sanity_val_steps=0, **options,
    )  # fmt: skip


def test_when_gradients_wait_and_when_a_validation_comes(tmp_path: Path) -> None:
    watch = Watch()
    trainer = made(watch, tmp_path, accumulate_grad_batches=2, val_check_interval=3)
    trainer.fit(Line(), DATA, DATA)
    assert [waits for waits, _ in watch.seen] == [True, False, True, False, False], "the last batch waits for none"
    assert [due for _, due in watch.seen] == [False, False, True, False, False]
    begin_epoch(trainer)
    trainer.fit_loop.max_epochs = 2
    trainer.fit(Line(), DATA, DATA)
    assert watch.begun == 2


def test_which_batch_is_the_last(tmp_path: Path) -> None:
    watch = Watch()
    made(watch, tmp_path).validate(Line(), DATA, verbose=False)
    assert watch.last == [False] * 4 + [True]


def test_what_started_the_processes(tmp_path: Path) -> None:
    assert isinstance(cluster_environment(made(Watch(), tmp_path)), LightningEnvironment)
    given = SLURMEnvironment(auto_requeue=False)
    assert cluster_environment(made(Watch(), tmp_path, plugins=[given])) is given


@pytest.mark.parametrize("without", [True, False])
def test_lightnings_signal_handlers_stay_out_where_told(tmp_path: Path, without: bool) -> None:
    before, watch = signal.getsignal(signal.SIGTERM), Watch()
    trainer = made(watch, tmp_path)
    if without:
        without_signal_handlers(trainer)
    trainer.fit(Line(), DATA)
    assert (watch.handler == before) is without, "Lightning installs none: the test shows nothing"


def test_every_private_method_of_its_command_line_that_is_overridden_is_still_one() -> None:
    own = {name for name in vars(CLI) if name.startswith("_") and not name.startswith("__")}
    assert {"_run_subcommand", "_prepare_subcommand_kwargs"} <= own
    assert not [name for name in own if not callable(getattr(LightningCLI, name, None))]


PRIVATE = re.compile(
    r"(?:trainer|fit_loop|epoch_loop|strategy|loop|launcher|connector)\._[a-z]"
    r"|from (?:pytorch_lightning|lightning_fabric|jsonargparse)[\w.]*\._|from jsonargparse import .*\b_"
    r"|_option_string_actions"
)


def test_nobody_else_reaches_into_lightning_or_jsonargparse() -> None:
    package = Path(lightning_adv2.__file__).parent
    adapters = {package / "runtime" / "lightning.py", package / "cli" / "patching.py"}
    found = {path for path in package.rglob("*.py") if PRIVATE.search(path.read_text(encoding="utf-8"))}
    assert found == adapters
