"""Pictures of single images: what stands in each cell is what the interpreter says."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from cases import lattice_images, small_classifier

from lightning_adv2.interpreters import CAM
from lightning_adv2.report import example_maps
from lightning_adv2.report.noise import Correct
from lightning_adv2.results.records import to_uint8


@pytest.fixture
def drawn(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """The rows of cells that are handed to the figure."""
    seen: list[Any] = []
    monkeypatch.setattr(example_maps, "grid", lambda rows, title: seen.extend(rows) or object())
    return seen


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
