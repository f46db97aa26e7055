from __future__ import annotations

import numpy as np
import pytest
import torch
from cases import lattice_images, other_class, small_classifier

from lightning_adv2.attacks import (
    ADV2,
    Attack,
    AttackInputs,
    MemberMaps,
    Pixels,
    Ramp,
    SqueezedClass,
    SqueezedPrediction,
    adv2_ensemble,
    pgd,
    run_attack,
)
from lightning_adv2.attacks.objective import Context
from lightning_adv2.functional.random import image_generators
from lightning_adv2.functional.squeeze import BitDepth, MedianFilter
from lightning_adv2.interpreters import CAM, Ensemble, Gradient, Interpreter
from lightning_adv2.models import Softplus

CLASSIFIER = small_classifier(dtype=torch.float64)
IMAGES = lattice_images(4, seed=8, dtype=torch.float64)
TARGET = other_class(CLASSIFIER, IMAGES)
SEEN = (TARGET - 1) % 4


def inputs(interpreter: Interpreter, target_map: torch.Tensor | None = None) -> AttackInputs:
    if target_map is None:
        target_map = interpreter.explain(CLASSIFIER, IMAGES, SEEN).attribution_map
    generators = image_generators(0, list("abcd"), "attack")
    return AttackInputs(CLASSIFIER, interpreter, IMAGES, TARGET, target_map, generators)


def context(of: AttackInputs, images: torch.Tensor) -> Context:
    assert of.interpreter is not None
    shown = of.interpreter(CLASSIFIER, images, TARGET)
    return Context(of, shown, 0.0, images, torch.zeros_like(images))


def softmax(logits: np.ndarray) -> np.ndarray:
    e = np.exp(logits - logits.max(1, keepdims=True))
    return e / e.sum(1, keepdims=True)


def test_l_sqz_is_the_cross_entropy_of_both_predictions():
    squeezers = [MedianFilter(3), BitDepth(2)]
    with torch.no_grad():
        plain = softmax(CLASSIFIER(IMAGES).numpy())
        squeezed = [softmax(CLASSIFIER(squeezer(IMAGES)).numpy()) for squeezer in squeezers]
    expected = np.mean([-(plain * np.log(q)).sum(1) for q in squeezed], axis=0)
    value = SqueezedClass(squeezers, weight=3.0)(context(inputs(CAM()), IMAGES))
    np.testing.assert_allclose(value.detach().numpy(), 3 * expected, rtol=1e-9)
    with pytest.raises(ValueError, match=r"squeezers=\[\]"):
        SqueezedClass([])


def test_algorithm_2_aims_at_an_adversarial_image_of_the_squeezed_space():
    term = SqueezedPrediction(bits=2, steps=10)
    prepared = term.prepare(inputs(CAM()))
    torch.testing.assert_close(prepared.sum(1), torch.ones(4, dtype=torch.float64))
    assert (prepared.argmax(1) == TARGET).all(), "the squeezed network takes x+ for the target"
    here = context(inputs(CAM()), IMAGES)
    here.prepared = prepared
    with torch.no_grad():
        expected = (CLASSIFIER(IMAGES).softmax(1) - prepared).abs().sum(1)
    torch.testing.assert_close(term.loss(here).detach(), expected)
    with pytest.raises(ValueError, match="steps=0"):
        SqueezedPrediction(steps=0)


def test_an_attacker_who_knows_the_squeezer_is_taken_alike_with_and_without_it():
    """What a feature-squeezing detector measures falls, and the attack still succeeds."""
    squeezer = MedianFilter(3)

    def gap(attack: ADV2) -> tuple[float, float]:
        of = inputs(CAM())
        result = run_attack(attack.against(CAM()), CLASSIFIER, CAM(), IMAGES, TARGET, of.target_map)
        with torch.no_grad():
            both = [CLASSIFIER(x).softmax(1) for x in (result.adv_images, squeezer(result.adv_images))]
        return float((both[0] - both[1]).abs().sum(1).mean()), float(result.success.double().mean())

    wide = Pixels(0.1)  # a random network's decisions are hard to turn
    basic = gap(ADV2(threat_model=wide))
    adaptive = gap(ADV2(threat_model=wide, extra=[SqueezedClass([squeezer])]))
    assert adaptive[0] < 0.5 * basic[0]
    assert adaptive[1] == basic[1] == 1.0


def test_extra_terms_enter_the_joint_steps_alone_and_leave_the_preset_as_it_was():
    term = SqueezedClass([BitDepth(3)])
    attack = ADV2("paper", extra=[term]).against(CAM())
    assert term not in attack.stages[0].step.terms
    assert term in attack.stages[1].step.terms
    assert term not in ADV2("paper").against(CAM()).stages[1].step.terms
    with pytest.raises(ValueError, match=r"'adv2' aims at the map: give an interpreter"):
        ADV2().against(None)


def ensemble() -> Ensemble:
    return Ensemble([Gradient(pool=2), CAM()])


def test_every_member_aims_at_its_own_benign_map_when_the_ensemble_aims_at_its_own():
    term, of = MemberMaps(), inputs(ensemble())
    benign = ensemble().explain(CLASSIFIER, IMAGES, SEEN)
    prepared = term.prepare(of)
    torch.testing.assert_close(prepared, benign.aux["member_maps"])
    here = context(of, IMAGES)
    here.prepared = prepared
    shown = here.interpretation.aux["member_maps"].detach().numpy()
    expected = ((shown - prepared.numpy()) ** 2).mean((1, 2, 3))
    np.testing.assert_allclose(term.loss(here).detach().numpy(), expected, rtol=1e-9)
    only = MemberMaps(members=["cam"]).loss(here).detach().numpy()
    np.testing.assert_allclose(only, ((shown - prepared.numpy())[:, 1] ** 2).mean((1, 2)), rtol=1e-9)


def test_another_target_is_shifted_by_what_the_members_differ():
    target_map = torch.full((4, 1, 8, 8), 0.5, dtype=torch.float64)
    prepared = MemberMaps().prepare(inputs(ensemble(), target_map))
    benign = ensemble().explain(CLASSIFIER, IMAGES, SEEN)
    expected = np.clip(0.5 + (benign.aux["member_maps"] - benign.attribution_map).numpy(), 0, 1)
    np.testing.assert_allclose(prepared.numpy(), expected, atol=1e-12)


def test_members_must_exist():
    with pytest.raises(ValueError, match="MemberMaps needs an Ensemble, not CAM"):
        MemberMaps().prepare(inputs(CAM()))
    with pytest.raises(ValueError, match=r"members=\['rts'\]: the ensemble has grad, cam"):
        MemberMaps(members=["cam", "rts"]).prepare(inputs(ensemble()))


def test_the_joint_attack_keeps_all_members_and_one_on_a_single_member_keeps_that_one():
    of = inputs(ensemble())
    benign = ensemble().explain(CLASSIFIER, IMAGES, SEEN).aux["member_maps"]

    def distances(attack: Attack) -> np.ndarray:
        result = run_attack(attack, CLASSIFIER, of.interpreter, IMAGES, TARGET, of.target_map)
        shown = ensemble().explain(CLASSIFIER, result.adv_images, TARGET).aux["member_maps"]
        return ((shown - benign) ** 2).mean((0, 2, 3)).numpy()

    both, one = (
        distances(adv2_ensemble(steps=40, surrogate=Softplus(50.0), members=members)) for members in (None, ["cam"])
    )
    none = distances(pgd(steps=40))
    assert both[0] < 0.7 * one[0], "grad is kept only where it is aimed at"
    assert one[1] < 0.7 * none[1]
    assert both[1] < 0.7 * none[1]


def test_terms_are_weighted_over_the_stage():
    here = context(inputs(CAM()), IMAGES)
    here.progress = 1.0
    term = SqueezedClass([BitDepth(2)], weight=Ramp(1.0, 3.0))
    torch.testing.assert_close(term(here), 3 * term.loss(here))
