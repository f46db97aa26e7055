from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from lab import trainer, untrained_rts, victim
from torch import nn

from lightning_adv2.data import ShapesDataModule, ShapesDataset
from lightning_adv2.modules import RTSModule
from lightning_adv2.runtime.describe import differences
from lightning_adv2.runtime.training import describe_training


class HeldOut(ShapesDataModule):
    """With a folder, and another order of classes if you like."""

    def __init__(self, root: str = "", turned: bool = False, **kwargs: Any) -> None:
        super().__init__(**{"num_train": 20, "num_val": 7} | kwargs)
        self.root, self.name, self.turned = root, root, turned

    def build(self, split: Any) -> ShapesDataset:
        dataset = super().build(split)
        dataset.classes = dataset.classes[:: -1 if self.turned else 1]
        return dataset


def training() -> RTSModule:
    return RTSModule(victim(), untrained_rts())


def named(module: Any, data: Any) -> set[str]:
    before = describe_training(training(), HeldOut())
    return {line.split(":")[0] for line in differences(before, describe_training(module, data))}


TURNED = {f"data.classes.{i}" for i in (0, 1, 2, 4, 5, 6)} | {"data.train images.content", "data.val images.content"}


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({}, set()),
        ({"root": "/tmp/job-17", "num_workers": 2}, set()),
        ({"batch_size": 3}, {"step.images at once"}),
        ({"num_val": 8}, {"data.val images.count", "data.val images.content"}),
        ({"num_train": 21}, {"data.train images.count", "data.train images.content"}),
        ({"seed": 1}, {"data.seed", "data.train images.content", "data.val images.content"}),
        ({"turned": True}, TURNED),
    ],
)
def test_promise_5_a_training_on_other_data_is_refused_by_name(options: dict[str, Any], expected: set[str]) -> None:
    assert named(training(), HeldOut(**options)) == expected


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({"max_epochs": 7, "val_check_interval": 2, "log_every_n_steps": 1}, set()),
        ({"precision": "bf16-mixed"}, {"step.precision"}),
        ({"gradient_clip_val": 0.5}, {"step.gradient_clip_val"}),
        ({"accumulate_grad_batches": 2}, {"step.accumulate_grad_batches"}),
        ({"limit_train_batches": 3}, {"step.limit_train_batches"}),
        ({"limit_val_batches": 0.5}, {"step.limit_val_batches"}),
    ],
)
def test_promise_5_a_training_by_other_steps_is_refused_by_name(
    tmp_path: Path, options: dict[str, Any], expected: set[str]
) -> None:
    before, now = (describe_training(training(), HeldOut(), trainer(tmp_path, **more)) for more in ({}, options))
    assert {line.split(":")[0] for line in differences(before, now)} == expected


def test_promise_5_as_many_images_at_once_on_more_processes_are_the_same_training(tmp_path: Path) -> None:
    one, two = trainer(tmp_path), trainer(tmp_path, devices=2, strategy="ddp")
    before = describe_training(training(), HeldOut(batch_size=8), one)
    assert not differences(before, describe_training(training(), HeldOut(batch_size=4), two))
    assert differences(before, describe_training(training(), HeldOut(batch_size=8), two)) == [
        "step.images at once: 8 before, 16 now"
    ]


def test_promise_5_statistics_and_normalisation_of_a_frozen_network_count() -> None:
    module = training()
    first = next(m for m in module.classifier.modules() if isinstance(m, nn.BatchNorm2d))
    assert first.running_mean is not None
    first.running_mean[0] += 0.5
    assert named(module, HeldOut()) == {"frozen weights.classifier."}
    module = training()
    module.interpreter.network.encoder.mean += 0.1
    assert named(module, HeldOut()) == {"frozen weights.interpreter.network.encoder."}
    module = training()
    trained = next(p for p in module.interpreter.parameters() if p.requires_grad)
    with torch.no_grad():
        trained += 1
    assert named(module, HeldOut()) == set(), "what is trained may start anywhere"
    assert named(training().double(), HeldOut()) == set(), "as Trainer(precision='64-true') leaves it"
