"""Started by the tests: a small evaluation or training, in a process of its own, with W&B in its folder."""

from __future__ import annotations

import os
import signal
import sys
import time
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
import wandb

sys.path.insert(0, str(Path(__file__).parents[1]))

from lab import attack_data, idls, shapes, short_attacks, trainer

from lightning_adv2.evaluation import AttackEvaluation
from lightning_adv2.models import ResidualClassifier
from lightning_adv2.modules import ClassifierModule
from lightning_adv2.report import default_logger
from lightning_adv2.report.wandb.files import MARK
from lightning_adv2.report.wandb.sync import sync


class Break(pl.Callback):
    """Does something once, at the end of the second batch: what comes after has to be logged still."""

    def __init__(self, what: str) -> None:
        self.what = what

    def on_test_batch_end(self, *args: Any) -> None:
        if args[4] == 1:
            self.act()

    on_train_batch_end = on_test_batch_end

    def act(self) -> None:
        what, self.what = self.what, ""
        if what == "kill service":
            for pid in service():
                os.kill(pid, signal.SIGKILL)
        elif what.startswith("wait "):  # until the caller has done its part
            place = Path(what.removeprefix("wait "))
            place.with_suffix(".reached").touch()
            while not place.exists():
                time.sleep(0.05)


def kill_at_row(number: int) -> None:
    """Die of SIGKILL, and the W&B service too, when the row of that number is about to be logged."""
    log = wandb.Run.log

    def count(run: wandb.Run, data: dict[str, Any], *args: Any, **kwargs: Any) -> None:
        if str(data.get(MARK)).endswith(f"/{number}"):
            log(run, {"filler": "x" * 100_000})  # W&B writes in blocks: what comes before gets to the disk
            time.sleep(float(os.environ.get("PAUSE", "1")))
            for pid in (*service(), os.getpid()):
                os.kill(pid, signal.SIGKILL)
        log(run, data, *args, **kwargs)

    wandb.Run.log = count


def service() -> list[int]:
    """The W&B service among this process's children."""
    children = Path(f"/proc/self/task/{os.getpid()}/children").read_text().split()
    return [int(one) for one in children if "wandb" in Path(f"/proc/{one}/cmdline").read_text()]


if __name__ == "__main__":
    torch.set_num_threads(1)
    folder, task, what = Path(sys.argv[1]), sys.argv[2], " ".join(sys.argv[3:])
    if what.startswith("kill at row "):
        kill_at_row(int(what.removeprefix("kill at row ")))
    if task == "sync":
        print(sync(folder))
        sys.exit()
    logger = default_logger(folder)
    if task == "fit":
        loop = trainer(folder, Break(what), logger=logger, max_epochs=2, log_every_n_steps=1)
        loop.fit(ClassifierModule(ResidualClassifier(num_classes=7, widths=(4, 4, 4))), shapes())
    else:
        loop = trainer(folder, AttackEvaluation(short_attacks()), Break(what), logger=logger)
        loop.test(idls("cam"), attack_data(num_images=8), verbose=False)
    print("done")
