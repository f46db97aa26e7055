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
            while service():
                time.sleep(0.01)
            time.sleep(0.2)  # until this process hears of it; what W&B takes before is lost
        elif what.startswith("wait "):  # until the caller has done its part
            place = Path(what.removeprefix("wait "))
            place.with_suffix(".reached").touch()
            while not place.exists():
                time.sleep(0.05)


def kill_when(moment: str) -> None:
    """Die of SIGKILL, and the W&B service too, at a moment around the row of an evaluation.

    Args:
        moment: ``before`` or ``after`` the row is logged; or ``closing``, when all is on disk or uploaded and
            ``wandb.json`` does not say so yet.
    """
    log, finish = wandb.Run.log, wandb.Run.finish

    def die(run: wandb.Run) -> None:
        log(run, {"filler": "x" * 100_000})  # W&B writes in blocks: what comes before gets to the disk
        time.sleep(1)
        for pid in (*service(), os.getpid()):
            os.kill(pid, signal.SIGKILL)

    def dying_log(run: wandb.Run, data: dict[str, Any], *args: Any, **kwargs: Any) -> None:
        if "results/test/table" in data and moment == "before":
            die(run)
        log(run, data, *args, **kwargs)
        if "results/test/table" in data and moment == "after":
            die(run)

    def dying_finish(run: wandb.Run, *args: Any, **kwargs: Any) -> None:
        finish(run, *args, **kwargs)
        time.sleep(1)
        os.kill(os.getpid(), signal.SIGKILL)

    wandb.Run.log = dying_log
    if moment == "closing":
        wandb.Run.finish = dying_finish


def service() -> list[int]:
    """The W&B service among this process's children."""
    children = Path(f"/proc/self/task/{os.getpid()}/children").read_text().split()
    return [int(one) for one in children if "wandb" in Path(f"/proc/{one}/cmdline").read_text()]


if __name__ == "__main__":
    torch.set_num_threads(1)
    folder, task, what = Path(sys.argv[1]), sys.argv[2], " ".join(sys.argv[3:])
    if what in ("before", "after", "closing"):
        kill_when(what)
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
