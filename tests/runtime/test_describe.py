from __future__ import annotations

import json
import subprocess
import sys
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from cases import ATTACKS, small_classifier
from torch import nn

from lightning_adv2.attacks import adv2_cam, adv2_grad, pgd, stadv
from lightning_adv2.functional import optim
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


def test_another_process_says_the_same() -> None:
    program = (
        "import json; from lightning_adv2.attacks import adv2_cam; "
        "from lightning_adv2.runtime.describe import describe; print(json.dumps(describe(adv2_cam())))"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert json.loads(done.stdout) == describe(adv2_cam())


def test_itself_inside_itself_ends() -> None:
    loop: dict[str, Any] = {}
    loop["me"] = loop
    assert describe(loop) == {"me": "<itself>"}
    assert describe(Path("a/b")) == "a/b"
