from __future__ import annotations

from pathlib import Path

import pytest
import torch
from callbacks.lab import attack_data, idls, shapes, test_batch, trainer

from lightning_adv2.models import weights_hash
from lightning_adv2.types import Interpretation


@pytest.mark.parametrize("name", ["cam", "grad", "rts"])
def test_test_and_predict(name: str, tmp_path: Path) -> None:
    module, batch = idls(name), test_batch()
    before = weights_hash(module.classifier), weights_hash(module.interpreter)
    assert not any(p.requires_grad for p in module.parameters())
    (logged,) = trainer(tmp_path).test(module, shapes(), verbose=False)
    with torch.no_grad():
        predicted = module.classifier(batch["images"]).argmax(1)
    assert logged == {"test/benign/accuracy": pytest.approx(float((predicted == batch["label"]).float().mean()))}
    assert set(trainer(tmp_path).validate(module, shapes(), verbose=False)[0]) == {"val/benign/accuracy"}
    shown = trainer(tmp_path).predict(module, shapes())
    assert [type(part) for part in shown] == [Interpretation] * 3
    maps = torch.cat([part.attribution_map for part in shown])
    expected = module.interpreter.explain(module.classifier, batch["images"], predicted).attribution_map
    assert torch.allclose(maps, expected, atol=1e-5)
    assert torch.equal(torch.cat([part.logits for part in shown]).argmax(1), predicted)
    assert (weights_hash(module.classifier), weights_hash(module.interpreter)) == before


def test_a_class_can_be_asked_for() -> None:
    module, batch = idls("cam"), test_batch()
    asked = (batch["label"] + 1) % 7
    shown = module(batch["images"], asked)
    expected = module.interpreter.explain(module.classifier, batch["images"], asked)
    assert torch.equal(shown.attribution_map, expected.attribution_map)
    assert not torch.equal(shown.attribution_map, module(batch["images"], batch["label"]).attribution_map)


def test_chosen_images_are_all_right(tmp_path: Path) -> None:
    (logged,) = trainer(tmp_path).test(idls(), attack_data(), verbose=False)
    assert logged == {"test/benign/accuracy": 1.0}


def test_there_is_nothing_to_train() -> None:
    assert idls().configure_optimizers() is None
