from __future__ import annotations

import json
import sys
from functools import partial
from pathlib import Path
from threading import Lock
from typing import Any

import numpy as np
import pytest
import spawn
import torch
from cases import ATTACKS, INTERPRETERS, lattice_images, other_class, small_classifier
from torch import nn

from lightning_adv2.attacks import Attack, Stage, adv2_cam, adv2_grad, pgd, run_attack, stadv
from lightning_adv2.functional import optim
from lightning_adv2.functional.random import image_generators
from lightning_adv2.interpreters import CAM, MASK, Ensemble, Gradient, SmoothGrad
from lightning_adv2.models import PaperReLU, Softplus
from lightning_adv2.runtime.describe import describe, differences


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


PINNED = Path(__file__).with_name("descriptions.json")


def shipped() -> dict[str, Any]:
    """What ``experiment.json`` says of the attacks of the package: those without a part from another file."""
    attacks = {case.name: describe(case.build(epsilon=0.031)) for case in ATTACKS}
    return {name: attack for name, attack in attacks.items() if "@" not in json.dumps(attack)}


def test_promise_5_the_descriptions_of_the_attacks_of_the_package_are_pinned() -> None:
    """A package that describes an attack otherwise refuses the finished runs of this attack."""
    lines = differences(json.loads(PINNED.read_text(encoding="utf-8")), shipped())
    assert not lines, (
        "finished runs would be refused as another experiment; a value derived from others is a property or an "
        "attribute of the class. After a new attack, or a new version of the package, write the "
        "descriptions anew: PYTHONPATH=tests python tests/runtime/test_describe.py"
    )


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
        (np.float32(0.5), np.float32(0.25), ["1"]),
        (np.float32(0.5), np.float16(0.5), ["0", "1"]),
        (takes, also_takes, ["a"]),
        (torch.Generator().manual_seed(1), torch.Generator().manual_seed(2), ["0", "sha256"]),
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


def test_a_generator_is_where_it_has_come_to() -> None:
    first, second = np.random.default_rng(1), np.random.default_rng(1)
    assert describe(first) == describe(second)
    second.random()
    assert "state" in changed(first, second)


@pytest.mark.parametrize("thing", [Lock(), (one for one in ()), sys.stdout], ids=type)
def test_what_cannot_be_described_is_refused(thing: Any) -> None:
    with pytest.raises(TypeError, match=r"cannot tell what .* is, .* give its class a method description"):
        describe({"noise": [thing]})


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


if __name__ == "__main__":
    lines = [f"{json.dumps(name)}: {json.dumps(attack, sort_keys=True)}" for name, attack in shipped().items()]
    PINNED.write_text("{\n" + ",\n".join(lines) + "\n}\n", encoding="utf-8")
