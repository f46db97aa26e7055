from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from jsonargparse import ArgumentParser
from lab import attack_data, idls, shapes, test_batch, trainer, untrained_rts, victim

from lightning_adv2.interpreters import CAM
from lightning_adv2.models import weights_hash
from lightning_adv2.modules import IDLS, RTSModule
from lightning_adv2.modules.idls import interpreters_of
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


def test_several_interpreters(tmp_path: Path) -> None:
    module, batch = idls("rts", "cam"), test_batch()
    assert [one.name for one in module.interpreters] == ["rts", "cam"]
    assert module.interpreter is module.interpreters[0]
    assert interpreters_of(module) == list(module.interpreters)
    assert not any(p.requires_grad for p in module.parameters())
    assert not any(part.training for part in module.interpreters.modules())
    assert torch.equal(module(batch["images"]).attribution_map, idls("rts")(batch["images"]).attribution_map)
    shown = trainer(tmp_path).predict(module, shapes())
    for name in ("rts", "cam"):
        alone = trainer(tmp_path).predict(idls(name), shapes())
        for part, expected in zip(shown, alone, strict=True):
            assert list(part) == ["rts", "cam"]
            assert torch.equal(part[name].attribution_map, expected.attribution_map)


def test_the_interpreters_of_any_module() -> None:
    module = RTSModule(victim(), untrained_rts())
    assert interpreters_of(module) == [module.interpreter]


def test_two_of_one_name_are_refused() -> None:
    with pytest.raises(ValueError, match=r"interpreter: expected .* different names, got cam, cam; .* run of its own"):
        IDLS(victim(), [CAM(), CAM()])
    with pytest.raises(ValueError, match="got none"):
        IDLS(victim(), [])
    other = CAM()
    other.name = "cam2"
    assert len(IDLS(victim(), [CAM(), other]).interpreters) == 2


CLASSIFIER = {"class_path": "lightning_adv2.models.ResidualClassifier", "init_args": {"num_classes": 7}}


def class_paths(*names: str) -> list[dict[str, str]]:
    return [{"class_path": f"lightning_adv2.interpreters.{name}"} for name in names]


@pytest.mark.parametrize(
    ("given", "names"),
    [
        (class_paths("CAM")[0], ["cam"]),
        (class_paths("CAM"), ["cam"]),
        (class_paths("Gradient", "CAM"), ["grad", "cam"]),
        ([class_paths("Gradient")[0] | {"init_args": {"pool": 4}}, *class_paths("CAM")], ["grad", "cam"]),
    ],
    ids=str,
)
def test_yaml_takes_one_or_several(given: Any, names: list[str], tmp_path: Path) -> None:
    (tmp_path / "model.yaml").write_text(yaml.safe_dump({"model": {"classifier": CLASSIFIER, "interpreter": given}}))
    parser = ArgumentParser()
    parser.add_argument("--config", action="config")
    parser.add_class_arguments(IDLS, "model")
    module = parser.instantiate_classes(parser.parse_args([f"--config={tmp_path / 'model.yaml'}"])).model
    assert [one.name for one in interpreters_of(module)] == names


def test_there_is_nothing_to_train() -> None:
    assert idls().configure_optimizers() is None
