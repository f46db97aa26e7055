from __future__ import annotations

import json
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import spawn
import torch
from cases import ATTACKS, INTERPRETERS, lattice_images, other_class, small_classifier
from lab import trainer, untrained_rts, victim
from torch import nn

from lightning_adv2.attacks import Attack, Stage, adv2_cam, adv2_grad, pgd, run_attack, stadv
from lightning_adv2.data import ShapesDataModule, ShapesDataset
from lightning_adv2.functional import optim
from lightning_adv2.functional.random import image_generators
from lightning_adv2.interpreters import CAM, MASK, Ensemble, Gradient, SmoothGrad
from lightning_adv2.models import PaperReLU, Softplus
from lightning_adv2.modules import RTSModule
from lightning_adv2.runtime.describe import describe, describe_training, differences


def changed(one: Any, other: Any) -> list[str]:
    return [line.split(":")[0].rsplit(".", 1)[-1] for line in differences(describe(one), describe(other))]


@pytest.mark.parametrize(
    ("one", "other", "expected"),
    [
        (pgd(epsilon=0.031), pgd(epsilon=0.03), ["epsilon"]),
        (pgd(steps=5), pgd(steps=6), ["steps"]),
        (stadv(tau=0.1), stadv(tau=0.2), ["start", "end"]),
        (adv2_grad(steps=3, surrogate=PaperReLU()), adv2_grad(steps=3, surrogate=PaperReLU()), []),
        (MASK(), MASK(iterations=7), ["iterations"]),
        (SmoothGrad(samples=2), SmoothGrad(samples=4), ["samples"]),
        (optim.adam(0.5, 0.5), optim.adam(0.5, 0.6), ["beta2"]),
        (Softplus(10), Softplus(50), ["beta"]),
        (torch.zeros(2), torch.zeros(2, dtype=torch.float64), ["type", "sha256"]),
        (torch.tensor([1.0]), torch.tensor([1.0 + 2**-20]), ["sha256"]),
        (partial(max, 1), partial(max, 2), ["0"]),
        ({"a": (1, 2)}, {"a": [1, 2]}, []),
        (float("nan"), float("nan"), []),
        ({3, 1, 2}, {2, 3, 1}, []),
        (None, 0, [""]),
    ],
)
def test_a_changed_setting_is_named(one: Any, other: Any, expected: list[str]) -> None:
    assert changed(one, other) == expected


def test_networks_differ_by_weights_and_by_settings_that_no_weight_shows() -> None:
    first, second = small_classifier(), small_classifier()
    assert changed(first, second) == []
    second.eval()
    assert changed(first, second) == [], "the mode is no setting"
    parameter = next(second.parameters())
    with torch.no_grad():
        parameter.view(-1)[0] += 1e-4
    assert changed(first, second) == ["weights"]
    assert changed(nn.Conv2d(2, 2, 3, stride=1), nn.Conv2d(2, 2, 3, stride=2)).count("architecture") == 1


def test_the_members_of_an_ensemble_are_described() -> None:
    assert "iterations" in changed(Ensemble([CAM(), MASK()]), Ensemble([CAM(), MASK(iterations=9)]))
    assert "class" in changed(Ensemble([CAM(), Gradient()]), Ensemble([Gradient(), CAM()]))


@pytest.mark.parametrize("case", ATTACKS, ids=lambda case: case.name)
def test_every_attack_is_plain_data_that_a_second_one_equals(case: Any) -> None:
    first, second = (describe(case.short()) for _ in range(2))
    assert json.loads(json.dumps(first)) == first == second


def described() -> dict[str, Any]:
    return describe(adv2_cam())


def test_another_process_with_other_hashes_says_the_same(tmp_path: Path) -> None:
    assert spawn.run(described, folder=tmp_path) == [described()]


def test_itself_inside_itself_ends() -> None:
    loop: dict[str, Any] = {}
    loop["me"] = loop
    assert describe(loop) == {"me": "<itself>"}
    assert describe(Path("a/b")) == "a/b"


def takes(a: int = 1, *, b: float = 0.5) -> None: ...


def also_takes(a: int = 2, *, b: float = 0.5) -> None: ...


also_takes.__qualname__, also_takes.__module__ = takes.__qualname__, takes.__module__


class Own:
    def __init__(self, **kwargs: Any) -> None:
        vars(self).update(kwargs)


class Slotted:
    __slots__ = ("_side", "scale")

    def __init__(self, scale: int, side: int) -> None:
        self.scale, self._side = scale, side


class Says:
    def __init__(self, path: str, content: int) -> None:
        self.path, self.content = path, content

    def description(self) -> dict[str, int]:
        return {"content": self.content}


class Layer(nn.Module):
    def __init__(self, stages: int) -> None:
        super().__init__()
        self._stages = stages


LONG, OTHER = np.zeros(5000), np.zeros(5000)
OTHER[2500] = 1


@pytest.mark.parametrize(
    ("one", "other", "expected"),
    [
        (LONG, OTHER, ["sha256"]),
        (LONG, LONG.copy(), []),
        (np.arange(6), np.arange(6).reshape(2, 3), ["0", "1"]),
        (np.array(["a", None]), np.array(["a", 1], dtype=object), ["1"]),
        (np.float32(0.5), np.float32(0.25), ["value"]),
        (takes, also_takes, ["0"]),
        (torch.Generator().manual_seed(1), torch.Generator().manual_seed(2), ["sha256"]),
        (torch.Generator().manual_seed(1), torch.Generator().manual_seed(1), []),
        (Own(_side=3), Own(_side=4), ["_side"]),
        (Own(_sides=(3, (4, "a"))), Own(_sides=(3, (5, "a"))), ["0"]),
        (Own(_cache={}), Own(_cache={"a": torch.ones(1)}), []),
        (Own(_cache=None), Own(_cache=torch.ones(1)), []),
        (Slotted(1, 2), Slotted(1, 3), ["_side"]),
        (Slotted(1, 2), Slotted(2, 2), ["scale"]),
        (Says("here", 1), Says("there", 1), []),
        (Says("here", 1), Says("here", 2), ["content"]),
        (Layer(3), Layer(4), ["_stages"]),
        ([3, 1].index, [3, 2].index, ["1"]),
        (b"a" * 9000, b"a" * 8999 + b"b", [""]),
    ],
)
def test_promise_5_what_a_repr_or_a_look_at_public_names_would_miss(one: Any, other: Any, expected: list[str]) -> None:
    assert changed(one, other) == expected


def test_what_cannot_be_described_is_refused() -> None:
    with pytest.raises(TypeError, match=r"cannot tell what .*Generator\(PCG64\).* give its class a method description"):
        describe({"noise": np.random.default_rng(0)})


@pytest.mark.parametrize("case", INTERPRETERS, ids=lambda case: case.name)
def test_use_changes_no_description(case: Any) -> None:
    """Whatever an interpreter or an attack fills in while it runs, the next run must find the same experiment."""
    classifier = small_classifier(dtype=torch.float64)
    explainer, images = case.build(classifier).double(), lattice_images(2, dtype=torch.float64)
    whole = case.attack()
    stages = [Stage(stage.step, min(2, stage.steps)) for stage in whole.stages]
    attack = Attack(whole.name, whole.schedule, whole.perturbation, stages, whole.min_confidence)
    before = describe([classifier, explainer, attack])
    target_class = other_class(classifier, images)
    target_map = explainer.explain(classifier, images, target_class).attribution_map
    generators = image_generators(0, ["a", "b"], "attack")
    run_attack(attack, classifier, explainer, images, target_class, target_map, generators=generators)
    assert describe([classifier, explainer, attack]) == before


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
