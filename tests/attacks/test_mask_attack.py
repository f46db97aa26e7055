"""The joint attack on MASK where it has to work: a trained network and real images."""

from __future__ import annotations

from pathlib import Path

import pytest

from lightning_adv2.attacks import adv2_mask, pgd, run_attack
from lightning_adv2.data import AttackDataModule, CIFAR10DataModule
from lightning_adv2.functional.agreement import map_iou, map_l1
from lightning_adv2.functional.faithfulness import preserved_destroyed
from lightning_adv2.interpreters import MASK
from lightning_adv2.models import CifarResNet


@pytest.mark.slow
def test_promise_21_the_map_stays_closer_than_under_pgd(shared_data: Path, capsys: pytest.CaptureFixture[str]):
    cifar = shared_data / "cifar10"
    classifier = CifarResNet(20, weights=str(cifar / "resnet20.safetensors")).requires_grad_(False)
    data = AttackDataModule(CIFAR10DataModule(str(cifar)), num_images=6, batch_size=6, seed=5)
    data.manifest_for(classifier)
    batch = next(iter(data.test_dataloader()))
    images, target_class, interpreter = batch["images"], batch["target_class"], MASK()
    benign = interpreter.explain(classifier, images, batch["label"]).attribution_map
    kept, deleted = preserved_destroyed(classifier, images, interpreter.background(images), benign, batch["label"])
    assert kept.mean() > 0.5, "what the map shows is the class"
    assert deleted.mean() < 0.1, "and all of it"
    figures = {}
    for attack in (pgd(), adv2_mask(steps=60)):
        given = (interpreter, benign) if attack.needs_map else (None, None)
        result = run_attack(attack, classifier, given[0], images, target_class, given[1])
        shown = interpreter.explain(classifier, result.adv_images, target_class).attribution_map
        figures[attack.name] = map_l1(shown, benign).mean().item(), map_iou(shown, benign).mean().item()
        assert result.success.all()
    with capsys.disabled():
        print(f"\nMASK, 6 images, (L1, IoU): {figures}")
    assert figures["adv2"][0] < figures["pgd"][0]
    assert figures["adv2"][1] > figures["pgd"][1]
