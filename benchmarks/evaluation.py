"""``python -m benchmarks.evaluation``: what exact, resumable, many-process evaluation costs.

1. The loop of a whole evaluation (loading, checks, attacks, sealed records on disk) against the same attacks on the
   same batches in a bare loop, in turn in one process on one thread; ratios of each round, their median.
2. The images per second of that loop on several processes against one process, each with one thread.
3. The share of a whole evaluation, from the choice of the images to the page, that is spent inside the attacks.
"""

from __future__ import annotations

import argparse
import json
import logging
import os
import statistics
import subprocess
import sys
import tempfile
import time
import warnings
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch

from lightning_adv2.attacks import adv2_cam, make_accelerated_copy, pgd
from lightning_adv2.data import AttackDataModule, CIFAR10DataModule
from lightning_adv2.evaluation import AttackEvaluation
from lightning_adv2.evaluation.attack_batch import Shared, attack_batch
from lightning_adv2.files.data_root import data_root
from lightning_adv2.interpreters import CAM, RTS, Gradient, Interpreter
from lightning_adv2.models import CifarResNet
from lightning_adv2.modules import IDLS
from lightning_adv2.modules.idls import interpreters_of
from lightning_adv2.runtime.processes import wait_for_all


class LoopTime(pl.Callback):
    """Seconds from the first batch to the last process's last record; the report is not in it."""

    seconds = 0.0

    def on_test_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """All start together."""
        wait_for_all(trainer)
        self._start = time.perf_counter()

    def on_test_batch_end(self, *_: Any) -> None:
        """So far."""
        self.seconds = time.perf_counter() - self._start


def attacks() -> list[Any]:
    """The default evaluation of CAM."""
    return [pgd(), adv2_cam()]


def data(root: Path, images: int, batch_size: int) -> AttackDataModule:
    """Real images."""
    return AttackDataModule(CIFAR10DataModule(root), num_images=images, batch_size=batch_size)


def module(root: Path, *more: Interpreter) -> IDLS:
    """ResNet-20 and CAM, and whatever else explains it."""
    classifier = CifarResNet(20, weights=str(root / "resnet20.safetensors"))
    return IDLS(classifier, [CAM(), *more])


def end_to_end(root: Path, images: int, batch_size: int) -> list[dict[str, Any]]:
    """Seconds of a whole evaluation and of its attacks: of CAM alone, and of CAM, GRAD and RTS."""
    rows = []
    rts = RTS(CifarResNet(20, weights=str(root / "resnet20.safetensors")), map_stride=2)
    for more, count in (((), images), ((Gradient(), rts), images // 4)):
        evaluation = AttackEvaluation()
        with tempfile.TemporaryDirectory() as folder:
            trainer = pl.Trainer(
                default_root_dir=folder, accelerator="cpu", callbacks=[evaluation], logger=False, inference_mode=False,
                enable_progress_bar=False, enable_checkpointing=False,
            )  # fmt: skip
            idls, source = module(root, *more), data(root, count, batch_size)
            start = time.perf_counter()
            trainer.test(idls, source, verbose=False)
            whole = time.perf_counter() - start
        assert evaluation.summary is not None
        spent = {
            (key if key.startswith("pgd") else f"{key} {name}"): seconds  # PGD ran once for all
            for name, attacks in evaluation.summary.seconds.items()
            for key, seconds in attacks.items()
            if not key.endswith("control")
        }
        names = [one.name for one in interpreters_of(idls)]
        attacks = sum(spent.values())
        rows.append(
            {"interpreters": names, "images": count, "seconds": whole, "attacks": attacks, "share": attacks / whole}
        )
    return rows


def evaluate(root: Path, folder: Path, images: int, batch_size: int, devices: int) -> float:
    """Seconds of this process's loop."""
    timer = LoopTime()
    trainer = pl.Trainer(
        default_root_dir=folder, accelerator="cpu", devices=devices, strategy="ddp" if devices > 1 else "auto",
        callbacks=[AttackEvaluation(attacks()), timer], logger=False, inference_mode=False,
        enable_progress_bar=False, enable_checkpointing=False,
    )  # fmt: skip
    trainer.test(module(root), data(root, images, batch_size), verbose=False)
    path = folder / f"seconds_{trainer.global_rank}.json"
    path.write_text(json.dumps(timer.seconds))
    return timer.seconds


def bare(root: Path, images: int, batch_size: int) -> float:
    """Seconds of the same attacks and judgements in a plain loop, records thrown away."""
    idls, source = module(root), data(root, images, batch_size)
    source.manifest_for(idls.classifier)
    batches = list(source.test_dataloader())
    accelerated = make_accelerated_copy(idls.classifier, idls.interpreter, batches[0]["images"])
    start = time.perf_counter()
    for index, batch in enumerate(batches):
        attack_batch(idls.classifier, idls.interpreter, batch, attacks(), Shared(index, copies=lambda _: accelerated))
    return time.perf_counter() - start


def processes(root: Path, images: int, batch_size: int, devices: int) -> float:
    """Seconds of the slowest process's loop."""
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, "-m", "benchmarks.evaluation", "--root", str(root), "--images", str(images)]
        command += ["--batch-size", str(batch_size), "--worker", folder, "--devices", str(devices)]
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL, env=os.environ | {"OMP_NUM_THREADS": "1"})
        return max(json.loads(path.read_text()) for path in Path(folder).glob("seconds_*.json"))


def main() -> None:
    """Time both and write JSON."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.evaluation", description=__doc__)
    parser.add_argument("--root", type=Path, default=data_root() / "cifar10", help="images and resnet20")
    parser.add_argument("--images", type=int, default=64)
    parser.add_argument("--end-to-end", type=int, default=512, help="images of the third part")
    parser.add_argument("--batch-size", type=int, default=16)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--devices", type=int, default=2)
    parser.add_argument("--output", type=Path, default=Path("benchmarks/results"))
    parser.add_argument("--worker", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    logging.getLogger("pytorch_lightning").setLevel(logging.ERROR)
    size = options.images, options.batch_size
    if options.worker is not None:
        evaluate(options.root, options.worker, *size, options.devices)
        return
    loops, scaled = [], []
    for _ in range(options.rounds):
        plain = bare(options.root, *size)
        with tempfile.TemporaryDirectory() as folder:
            loops.append((plain, evaluate(options.root, Path(folder), *size, 1)))
    for _ in range(options.rounds):
        alone = processes(options.root, *size, 1)
        scaled.append((alone, processes(options.root, *size, options.devices)))
    found = {
        "end_to_end": end_to_end(options.root, options.end_to_end, 64),
        "loop_against_bare": {
            "ratio": statistics.median(whole / plain for plain, whole in loops),
            "seconds": loops,
        },
        "processes": {
            "devices": options.devices,
            "speed_up": statistics.median(alone / several for alone, several in scaled),
            "seconds": scaled,
        },
        "images": options.images,
        "batch_size": options.batch_size,
        "torch": torch.__version__,
    }
    print(json.dumps(found, indent=1))
    options.output.mkdir(parents=True, exist_ok=True)
    (options.output / "evaluation.json").write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
