"""The whole way in minutes, without any data: classifier, RTS and RTS-A for drawn shapes; attack, measure, show."""

from __future__ import annotations

import shutil
import time
from argparse import Namespace
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import RichProgressBar
from pytorch_lightning.loggers import Logger
from rich.console import Console

from lightning_adv2.attacks import ADV2
from lightning_adv2.data import AttackDataModule, ShapesDataModule
from lightning_adv2.evaluation import AttackEvaluation
from lightning_adv2.files import read_json, write_json
from lightning_adv2.files.sums import renew_sums
from lightning_adv2.interpreters import CAM, RTS, Gradient, Interpreter
from lightning_adv2.models import ResidualClassifier
from lightning_adv2.modules import IDLS, AIDModule, ClassifierModule, RTSModule
from lightning_adv2.report import default_logger
from lightning_adv2.report.html.run_page import FILE
from lightning_adv2.results import Summary
from lightning_adv2.studies import MapQualityEvaluation

# As in configs/train/*_shapes.yaml, where a user would start from.
CLASSIFIER_EPOCHS, RTS_EPOCHS = 8, 3
CLASSIFIER: dict[str, Any] = {"stem_stride": 2, "widths": (16, 32, 64)}
MAP_STRIDE = 4
RTS_LOSS: dict[str, Any] = {
    "selector_steps": 60,
    "tv_weight": 0.2,
    "area_weight": 5.0,
    "area_power": 1.0,
    "preserve_weight": 1.0,
    "destroy_weight": 2.0,
    "learning_rate": 3e-3,
}
# Few images, so that they come back often: the attacks on them add up.
AID_IMAGES, AID_BATCH, AID_EPOCHS, AID_ATTACK_STEPS = 512, 32, 16, 2
AID: dict[str, Any] = {"warm_start": True, "agreement_weight": 3.0, "encoder_weight": 0.3, "learning_rate": 2e-3}


def demo(output: Path = Path("runs/demo"), num_images: int = 32, seed: int = 0) -> Summary:
    """Train a shape classifier, RTS and RTS-A; attack them, GRAD and CAM with PGD and ADV2; write tables and figures.

    Args:
        output: folder of the run.
        num_images: images to attack.
        seed: of data, training and attacks.

    Returns:
        All rows; the same as in ``results.json``.
    """
    console, start = Console(), time.perf_counter()
    pl.seed_everything(seed, verbose=False)
    output.mkdir(parents=True, exist_ok=True)
    logger = default_logger(output)
    data = ShapesDataModule(seed=seed)

    console.rule("1/4  a classifier for drawn shapes")
    classifier = ResidualClassifier(num_classes=data.num_classes, **CLASSIFIER)
    trainer = _trainer(output / "classifier", logger, max_epochs=CLASSIFIER_EPOCHS, limit_val_batches=0)
    trained = ClassifierModule(classifier, learning_rate=1e-2)
    trainer.fit(trained, datamodule=data)
    held_out = trainer.test(trained, datamodule=data, verbose=False)[0]["test/accuracy"]
    console.print(f"accuracy on {len(data.dataset('test'))} held-out images: [bold]{held_out:.1%}[/]")

    console.rule("2/4  RTS, a network that predicts the classifier's attribution map")
    module = RTSModule(classifier, RTS(_copy(output, data), map_stride=MAP_STRIDE), **RTS_LOSS)
    trainer = _trainer(output / "rts", logger, max_epochs=RTS_EPOCHS)
    trainer.fit(module, datamodule=data)
    preserved, destroyed, shuffled = (
        float(trainer.callback_metrics[f"val/benign/rts/{name}"]) for name in ("preserved", "destroyed", "shuffled")
    )
    console.print(
        f"confidence in the class: [bold]{preserved:.0%}[/] where the map keeps the image, {destroyed:.0%} where it "
        f"removes it, {shuffled:.0%} under another image's map"
    )

    console.rule("3/4  AID: RTS-A, an RTS trained against the attack on it")
    rts_a = RTS(
        _copy(output, data),
        map_stride=MAP_STRIDE,
        weights=str(output / "rts" / "rts.safetensors"),
        train_encoder=True,
        name="rts_a",
    )
    trainer = _trainer(output / "aid", logger, max_epochs=AID_EPOCHS, limit_val_batches=0, gradient_clip_val=1.0)
    few = ShapesDataModule(num_train=AID_IMAGES, batch_size=AID_BATCH, seed=seed)
    trainer.fit(AIDModule(classifier, rts_a, ADV2(steps=AID_ATTACK_STEPS), **AID), datamodule=few)

    console.rule("4/4  PGD aims at the class alone, ADV2 at the map, too; RTS-A was trained against ADV2")
    for stale in ("records", "figures"):  # of an earlier demo, whose classifier was another one
        shutil.rmtree(output / stale, ignore_errors=True)
    for file in output.glob("manifest*.json"):
        file.unlink()
    interpreters: list[Interpreter] = [Gradient(), CAM(), module.interpreter, rts_a]
    evaluation = AttackEvaluation(seed=seed)
    attacked = AttackDataModule(data, num_images=num_images, batch_size=32, seed=seed)
    quality = MapQualityEvaluation(order=False, reference="rts")
    trainer = _trainer(output, logger, callbacks=[quality, evaluation])
    trainer.test(IDLS(classifier, interpreters), datamodule=attacked, verbose=False)
    assert evaluation.summary is not None
    kept = {row["interpreter"]: row["iou"] for row in evaluation.summary.rows if row["role"] == "joint"}
    agreement = float(trainer.callback_metrics["test/benign/rts_a/agreement_l1"])
    console.print(
        f"IoU between the map before ADV2 and after it: [bold]{kept['rts']:.2f}[/] with RTS, "
        f"[bold]{kept['rts_a']:.2f}[/] with RTS-A; where nobody attacks, their maps differ by L1 {agreement:.3f}"
    )
    seconds = time.perf_counter() - start
    stamp = read_json(output / "stamp.json")
    write_json(output / "stamp.json", stamp | {"held_out_accuracy": held_out, "seconds_in_all": seconds})
    renew_sums(output, output / "stamp.json")
    console.print(f"{seconds:.0f} s", highlight=False)
    if (output / FILE).is_file():
        console.print(f"{output / FILE}: open it in a browser", markup=False, highlight=False, soft_wrap=True)
    return evaluation.summary


def _copy(output: Path, data: ShapesDataModule) -> ResidualClassifier:
    """The trained classifier once more, as an interpreter's encoder."""
    weights = output / "classifier" / "classifier.safetensors"
    return ResidualClassifier(num_classes=data.num_classes, weights=str(weights), **CLASSIFIER)


def _trainer(folder: Path, logger: Logger, callbacks: list[pl.Callback] | None = None, **kwargs: Any) -> pl.Trainer:
    return pl.Trainer(
        default_root_dir=folder,
        logger=logger,
        callbacks=[RichProgressBar(), *(callbacks or [])],
        accelerator="gpu" if torch.cuda.is_available() else "cpu",
        devices=1,
        inference_mode=False,
        enable_checkpointing=False,
        enable_model_summary=False,
        log_every_n_steps=16,
        num_sanity_val_steps=0,
        **kwargs,
    )


def main(options: Namespace) -> None:
    """Run ``lightning-adv2 demo``.

    Args:
        options: of :func:`lightning_adv2.cli.options.demo`.
    """
    demo(options.output, options.num_images, options.seed)
