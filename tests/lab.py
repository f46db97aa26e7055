"""What the tests of the upper layers share: drawn images, a victim that memorised them, quiet trainers, shut-in W&B."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import pytorch_lightning as pl
import torch
import torch.nn.functional as F
import wandb
from spawn import run_fresh_python as run_fresh_python
from spawn import run_python as run_python
from spawn import wandb_environment as wandb_environment
from torch import Tensor
from torch.utils.data import default_collate

from lightning_adv2.attacks import Attack, adv2_cam, adv2_grad, adv2_rts, pgd
from lightning_adv2.data import AttackDataModule, ShapesDataModule
from lightning_adv2.interpreters import CAM, RTS, Gradient, Interpreter
from lightning_adv2.models import ResidualClassifier, read_weights, save_weights
from lightning_adv2.modules import IDLS
from lightning_adv2.types import Batch

SIDE = 32
NUM_TEST = 35
WIDTHS = (8, 12, 16)
METRICS_FILES = ("results.json", "results.csv", "images.csv", "status.csv", "manifest.json")
"""Of a run; equal to the byte where the same is measured."""


def shapes(**kwargs: Any) -> ShapesDataModule:
    """Drawn shapes, few and small."""
    options = {"num_train": 32, "num_val": 14, "num_test": NUM_TEST, "image_size": SIDE, "batch_size": 16}
    return ShapesDataModule(**options | kwargs)


def test_batch() -> Batch:
    """The whole test split as one batch."""
    dataset = shapes().dataset("test")
    return default_collate([dataset[i] for i in range(len(dataset))])


test_batch.__test__ = False  # type: ignore[attr-defined] - a helper, whatever pytest thinks of its name


@cache
def _memory() -> dict[str, Tensor]:
    """Weights that have seen the test images: an attack needs images that the victim gets right, not a good victim.

    All processes of a session of pytest have them from its first.
    """
    made = Path(os.environ["LAB"]) / "victim.safetensors"
    if not made.is_file():
        save_weights(_trained(), made)
    return read_weights(made)


def _trained() -> dict[str, Tensor]:
    batch = test_batch()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(3)
        classifier = ResidualClassifier(num_classes=7, widths=WIDTHS, stem_stride=2)
        classifier.train()
        optimizer = torch.optim.AdamW(classifier.parameters(), lr=2e-2)
        for _ in range(60):
            optimizer.zero_grad()
            F.cross_entropy(classifier(batch["images"]), batch["label"]).backward()
            optimizer.step()
    return {name: value.detach().clone() for name, value in classifier.state_dict().items()}


def victim() -> ResidualClassifier:
    """A classifier that gets most of the test images right, a new instance each time."""
    classifier = ResidualClassifier(num_classes=7, widths=WIDTHS, stem_stride=2)
    classifier.load_state_dict(_memory())
    return classifier.eval()


def victim_weights(folder: Path) -> Path:
    """The same as a weights file."""
    return save_weights(_memory(), folder / "victim.safetensors")


def untrained_rts(encoder: ResidualClassifier | None = None) -> RTS:
    """RTS with a random decoder."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(5)
        return RTS(encoder or victim(), map_stride=4, width=4)


def interpreter(name: str) -> Interpreter:
    """By its short name."""
    return {"cam": CAM, "grad": Gradient, "rts": untrained_rts}[name]()


def short_attacks(name: str = "cam") -> list[Attack]:
    """PGD and the interpreter's ADV2 with few steps."""
    joint = {"cam": adv2_cam, "grad": adv2_grad, "rts": adv2_rts}[name]
    return [pgd(steps=6), joint(steps=6)]


def attack_data(**kwargs: Any) -> AttackDataModule:
    """Thirteen images in batches of four: the last batch is smaller."""
    return AttackDataModule(shapes(), **{"num_images": 13, "batch_size": 4} | kwargs)


def idls(*names: str) -> IDLS:
    """The victim and its interpreters, by default CAM."""
    several = [interpreter(name) for name in names or ("cam",)]
    return IDLS(victim(), several if len(several) > 1 else several[0])


def trainer(folder: Path, *callbacks: pl.Callback, **kwargs: Any) -> pl.Trainer:
    """A silent trainer on the CPU that writes below ``folder``."""
    options: dict[str, Any] = {
        "accelerator": "cpu",
        "devices": 1,
        "logger": False,
        "inference_mode": False,
        "enable_progress_bar": False,
        "enable_checkpointing": False,
        "enable_model_summary": False,
        "num_sanity_val_steps": 0,
    }
    return pl.Trainer(default_root_dir=folder, callbacks=list(callbacks), **options | kwargs)


def map_qualities(folder: Path) -> dict[str, dict[str, float]]:
    """What ``map_quality.json`` says of each interpreter: the measures that it has."""
    rows = json.loads((folder / "map_quality.json").read_text())["rows"]
    return {
        row["interpreter"]: {key: value for key, value in row.items() if key != "interpreter" and value is not None}
        for row in rows
    }


def shut_in(monkeypatch: pytest.MonkeyPatch, folder: Path) -> None:
    """Put this process under ``wandb_environment``."""
    for name in [name for name in os.environ if name.startswith("WANDB_")]:
        monkeypatch.delenv(name)
    for name, value in wandb_environment(folder).items():
        monkeypatch.setenv(name, value)


@pytest.fixture(autouse=True)
def wandb_home(monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """W&B without a key and outside the home folder, in every test of the folder or file that imports this."""
    folder = tmp_path_factory.mktemp("wandb_home")
    shut_in(monkeypatch, folder)
    yield folder
    wandb.finish()  # a run left open would be picked up by the next logger
    wandb.teardown()  # and the environment is read when W&B starts
