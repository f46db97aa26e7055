"""Pictures of single images: what stands in each cell is what the interpreter says."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from cases import lattice_images, small_classifier

from lightning_adv2.attacks import ADV2
from lightning_adv2.evaluation.attack_batch import attack_batch
from lightning_adv2.interpreters import CAM, Gradient
from lightning_adv2.report import example_maps
from lightning_adv2.report.figures import overlay
from lightning_adv2.report.noise import Correct
from lightning_adv2.results.records import to_float, to_uint8


@pytest.fixture
def drawn(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """The rows of cells that are handed to the figure."""
    seen: list[Any] = []
    monkeypatch.setattr(example_maps, "grid", lambda rows, title: seen.extend(rows) or object())
    return seen


def test_a_map_of_another_interpreter_is_that_ones_for_the_predicted_class(drawn: list[Any]) -> None:
    classifier = small_classifier()
    images = lattice_images(6, seed=3)
    label = classifier(images).argmax(1)
    batch: Any = {"images": images, "label": label, "image_id": [f"i{k}" for k in range(6)]}
    judges = [CAM(), Gradient()]
    records = {one.name: attack_batch(classifier, one, batch, [ADV2(steps=30)]) for one in judges}
    figure = example_maps.transfer_maps(classifier, judges, records, list("abcdefgh"), torch.device("cpu"))
    if figure is None:
        pytest.fail("no image was fooled under both: take more steps")
    assert [len(row) for row in drawn] == [3, 3, 3]
    (source,) = (record for name, record in records.items() if name == "cam")
    attack = source.attacks[-1]
    shown = drawn[1][0][0]  # the image attacked for CAM
    i = next(k for k in range(len(source.image_id)) if np.array_equal(attack.adv_images[k].permute(1, 2, 0), shown))
    asked = to_float(attack.adv_images[i : i + 1]), attack.adv_predicted[i : i + 1]
    for place, judge in enumerate(judges, 1):
        wanted = judge.explain(classifier, *asked).attribution_map[0]
        assert np.array_equal(drawn[1][place][0], overlay(attack.adv_images[i], wanted))


def test_alone_there_is_nobody_to_explain(drawn: list[Any]) -> None:
    classifier, images = small_classifier(), lattice_images(2, seed=3)
    batch: Any = {"images": images, "label": classifier(images).argmax(1), "image_id": ["a", "b"]}
    records = {"cam": attack_batch(classifier, CAM(), batch, [ADV2(steps=2)])}
    assert example_maps.transfer_maps(classifier, [CAM()], records, list("abcdefgh"), torch.device("cpu")) is None
    assert not drawn


def test_only_images_that_the_noise_misleads_are_shown(drawn: list[Any]) -> None:
    classifier, images = small_classifier(), lattice_images(8, seed=4)
    label = classifier(images).argmax(1)
    part = Correct(0, [f"i{k}" for k in range(8)], label, to_uint8(images))
    levels = [{"kind": "uniform", "level": 0.9, "misclassified": 3, "rate_reached": 0.4}]
    names = list("abcdefgh")
    judges = [CAM()]
    made = example_maps.noise_maps(classifier, judges, [part], levels, names, 0, torch.device("cpu"), most=2)
    assert made is not None
    assert 1 <= len(drawn) <= 2
    for row in drawn:
        assert len(row) == 4
        clean, noisy = row[0], row[1]
        assert not np.array_equal(clean[0], noisy[0])
        assert noisy[1] != f"noisy: {clean[1]}"
    still = [levels[0] | {"level": 0.0}]
    assert example_maps.noise_maps(classifier, judges, [part], still, names, 0, torch.device("cpu")) is None
