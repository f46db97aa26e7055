"""The attacks on torchvision's own networks, whose code paths our small ones do not have."""

from __future__ import annotations

from functools import cache

import pytest
import torch
from cases import lattice_images

from lightning_adv2.attacks import ADV2, Pixels, Spatial, run_attack
from lightning_adv2.interpreters import CAM, MASK, Gradient, Interpreter
from lightning_adv2.models import TorchvisionClassifier, weights_hash


@cache
def densenet() -> TorchvisionClassifier:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return TorchvisionClassifier("densenet121", num_classes=10).requires_grad_(False)


@pytest.mark.parametrize("threat_model", [Pixels(), Spatial()], ids=["pixels", "spatial"])
@pytest.mark.parametrize("interpreter", [CAM(), Gradient(), MASK(iterations=3)], ids=["cam", "grad", "mask"])
def test_densenet_of_torchvision(interpreter: Interpreter, threat_model):
    """Random weights: whether it succeeds says nothing, but every step must move, legally, and change no weight."""
    classifier = densenet()
    images = lattice_images(2, side=64)
    with torch.no_grad():
        seen = classifier(images).argmax(1)
    before = weights_hash(classifier)
    target_map = interpreter.explain(classifier, images, seen).attribution_map
    attack = ADV2(steps=6, threat_model=threat_model).against(interpreter)
    result = run_attack(attack, classifier, interpreter, images, (seen + 1) % 10, target_map)
    assert result.valid.all()
    assert result.attribution_map.shape == target_map.shape
    assert (result.adv_images != images).any()
    levels = result.adv_images * 255
    torch.testing.assert_close(levels, levels.round(), rtol=0, atol=1e-4)
    assert weights_hash(classifier) == before
