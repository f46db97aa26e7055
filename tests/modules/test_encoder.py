"""An interpreter that names no encoder gets a copy of the classifier wherever the two meet."""

from __future__ import annotations

from collections.abc import Callable
from copy import deepcopy
from pathlib import Path
from typing import Any

import pytest
import torch
from lab import shapes, test_batch, trainer, victim

from lightning_adv2.attacks import ADV2
from lightning_adv2.interpreters import CAM, RTS, Ensemble, Student, TrainableInterpreter
from lightning_adv2.models import ResidualClassifier, weights_hash
from lightning_adv2.modules import IDLS, AIDModule, DistillationModule, RTSModule
from lightning_adv2.runtime.describe import describe

SMALL = {"map_stride": 4, "width": 4}


def in_rts(classifier: ResidualClassifier, one: Any) -> Any:
    return RTSModule(classifier, one)


def in_aid(classifier: ResidualClassifier, one: Any) -> Any:
    return AIDModule(classifier, one, ADV2(steps=2))


def in_distillation(classifier: ResidualClassifier, one: Any) -> Any:
    return DistillationModule(classifier, one, CAM())


def as_teacher(classifier: ResidualClassifier, one: Any) -> Any:
    return DistillationModule(classifier, Student(**SMALL), one)


def in_ensemble(classifier: ResidualClassifier, one: Any) -> Any:
    return IDLS(classifier, [CAM(), Ensemble([CAM(), one])])


MEETINGS: list[Callable[..., Any]] = [IDLS, in_rts, in_aid, in_distillation, as_teacher, in_ensemble]


@pytest.mark.parametrize("kind", [RTS, Student])
@pytest.mark.parametrize("meet", MEETINGS, ids=lambda meet: meet.__name__)
def test_it_is_a_copy_of_the_classifier(meet: Callable[..., Any], kind: type[TrainableInterpreter]) -> None:
    classifier, one = victim(), kind(**SMALL)  # type: ignore[arg-type]
    meet(classifier, one)
    encoder = one.network.encoder
    assert weights_hash(encoder) == weights_hash(victim()) == weights_hash(classifier)
    assert not {p.data_ptr() for p in encoder.parameters()} & {p.data_ptr() for p in classifier.parameters()}
    assert not any(p.requires_grad for p in encoder.parameters())
    assert not any(part.training for part in encoder.modules())
    batch = test_batch()
    assert one.explain(classifier, batch["images"], batch["label"]).attribution_map.shape == (35, 1, 8, 8)


@pytest.mark.parametrize("meet", MEETINGS, ids=lambda meet: meet.__name__)
def test_an_encoder_that_is_named_stays(meet: Callable[..., Any]) -> None:
    other = ResidualClassifier(num_classes=7, widths=(8, 12, 16), stem_stride=2)
    before = weights_hash(other)
    one = RTS(other, **SMALL)
    network = one.network
    meet(victim(), one)
    assert one.network is network
    assert network.encoder is other
    assert weights_hash(other) == before != weights_hash(victim())


def trained(folder: Path, one: RTS) -> RTS:
    torch.manual_seed(0)
    module = RTSModule(victim(), one, selector_steps=2)
    trainer(folder, max_steps=6, max_epochs=-1, limit_val_batches=0).fit(module, shapes())
    return module.interpreter


@pytest.mark.parametrize("train_encoder", [False, True])
def test_trained_weights_are_loaded_without_naming_it_again(train_encoder: bool, tmp_path: Path) -> None:
    after = trained(tmp_path, RTS(**SMALL, train_encoder=train_encoder))
    assert (weights_hash(after.network.encoder) != weights_hash(victim())) is train_encoder
    loaded = RTS(**SMALL, weights=str(tmp_path / "rts.safetensors"))
    module, batch = IDLS(victim(), [CAM(), loaded]), test_batch()
    assert weights_hash(loaded) == weights_hash(after)
    assert not any(p.requires_grad for p in module.parameters())
    assert not any(part.training for part in module.interpreters.modules())
    shown, expected = (
        one.explain(victim(), batch["images"], batch["label"]).attribution_map for one in (loaded, after)
    )
    assert torch.equal(shown, expected)


def test_training_and_experiment_are_those_of_a_named_copy(tmp_path: Path) -> None:
    def alike(named: bool) -> tuple[Any, RTS]:
        classifier = victim()
        torch.manual_seed(1)  # both networks start from the same numbers
        one = RTS(classifier if named else None, **SMALL)
        one.follow(classifier)
        return describe(one), trained(tmp_path / str(named), one)

    (first, named), (second, followed) = alike(True), alike(False)
    assert first == second
    assert weights_hash(named) == weights_hash(followed)


def test_before_it_meets_a_classifier_it_says_what_is_missing(tmp_path: Path) -> None:
    one, batch = RTS(**SMALL), test_batch()
    for use in (
        lambda: one.explain(victim(), batch["images"], batch["label"]),
        lambda: one(victim(), batch["images"], batch["label"]),
        lambda: one.maps(batch["images"], 0),
        lambda: one.save(tmp_path / "rts.safetensors"),
    ):
        with pytest.raises(RuntimeError, match=r"encoder=None: this RTS has no network .* name the encoder, or call"):
            use()
    with pytest.raises(AttributeError, match="nonsense"):
        _ = one.nonsense
    with pytest.raises(TypeError, match=r"classifier: got the class ResidualClassifier"):
        one.follow(ResidualClassifier)  # type: ignore[arg-type]
    again = deepcopy(one)
    again.follow(victim())
    assert again.explain(victim(), batch["images"], batch["label"]).attribution_map.shape == (35, 1, 8, 8)


def test_what_does_not_fit_the_classifier_is_refused(tmp_path: Path) -> None:
    path = RTS(victim(), **SMALL).save(tmp_path / "rts.safetensors")
    other = ResidualClassifier(num_classes=7, widths=(8, 12, 20), stem_stride=2)
    with pytest.raises(ValueError, match=r"rts\.safetensors' do not fit RTSNetwork: .* of another shape"):
        IDLS(other, RTS(**SMALL, weights=str(path)))
    with pytest.raises(ValueError, match=r"map_stride=5: the encoder offers strides"):
        IDLS(victim(), RTS(map_stride=5))
    with pytest.raises(FileNotFoundError, match="nowhere"):
        IDLS(victim(), RTS(**SMALL, weights="nowhere.safetensors"))
