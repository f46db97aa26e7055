"""What a step says of itself: its terms, and whether it needs the map and its gradient."""

from __future__ import annotations

import pytest
from cases import lattice_images, other_class, small_classifier
from toys import AlteredCAM, Search, search

from lightning_adv2.attacks import (
    ADV2,
    Attack,
    BilevelStep,
    EncoderClass,
    GradientStep,
    PixelDelta,
    Ramp,
    ResponseStep,
    Stage,
    TargetClass,
    TargetMap,
    adv2_attack,
    adv2_cam,
    pgd,
    run_attack,
)
from lightning_adv2.functional import optim
from lightning_adv2.interpreters import CAM
from lightning_adv2.runtime.describe import describe


class Opaque(AlteredCAM):
    """CAM without a gradient, and with a sign that says so."""

    differentiable = False

    def __init__(self) -> None:
        super().__init__(lambda shown, *_: shown.detach(), "opaque")


class Searched(CAM):
    name = "searched"


def gradient_step(terms, size=0.01):
    return GradientStep(terms, optim.sign(), Ramp(size, size))


def test_a_further_term_may_need_the_map():
    for plain in (gradient_step([TargetClass()]), Search([TargetClass()], 0.1)):
        assert not plain.needs_map
        assert plain.extended([TargetMap()]).needs_map
        assert not plain.needs_map, "the step itself stays"
    extended = gradient_step([TargetClass()]).extended([TargetMap()])
    assert describe(extended) == describe(gradient_step([TargetClass(), TargetMap()]))


def test_an_extended_step_computes_the_map_that_its_further_term_needs():
    classifier, images = small_classifier(), lattice_images(3)
    target = other_class(classifier, images)
    shown = CAM().explain(classifier, images, target).attribution_map
    for step in (gradient_step([TargetClass()]), Search([TargetClass()], 0.1)):
        attack = Attack("a", "mine", PixelDelta(0.1), [Stage(step.extended([TargetMap()]), 2)])
        result = run_attack(attack, classifier, CAM(), images, target, shown)
        assert result.attribution_map.shape == shown.shape
        assert len(result.trace["l1"]) == 2


@pytest.mark.parametrize(
    ("step", "term", "message"),
    [
        (Search([TargetClass()], 0.1), TargetClass(Ramp(1.0, 2.0)), r"TargetClass: weight=.* changes"),
        (ResponseStep(optim.sign(), Ramp(0.01, 0.01)), TargetMap(), "leave out"),
        (BilevelStep(), EncoderClass(), "leave out"),
    ],
    ids=lambda value: type(value).__name__,
)
def test_a_steps_own_checks_hold_for_further_terms(step, term, message):
    with pytest.raises(ValueError, match=message):
        type(step)(**{name: value for name, value in vars(step).items() if name != "terms"}, terms=[term])
    with pytest.raises(ValueError, match=message):
        step.extended([term])


def test_the_recipe_asks_the_step_of_a_registered_attack():
    @adv2_attack.register
    def _(interpreter: Searched, schedule="fast", steps=None, threat_model=None, name=None) -> Attack:
        return search(steps or 20)

    assert ADV2(steps=7).against(Searched()).steps == 7
    with pytest.raises(ValueError, match="TargetClass: weight="):
        ADV2(extra=[TargetClass(Ramp(0.0, 1.0))]).against(Searched())


@pytest.mark.parametrize(
    ("preset", "message"),
    [
        (lambda interpreter: adv2_cam(), r"takes \(interpreter\): too many positional arguments"),
        (lambda interpreter, schedule, steps, threat_model, name, *, decay: adv2_cam(), r"missing .*'decay'"),
        (lambda *arguments: None, "returned None"),
        (lambda *arguments: ADV2(), "returned .*ADV2"),
    ],
)
def test_a_registered_function_that_does_not_fit_is_named_with_what_it_must_take(preset, message):
    class Unfitted(CAM):
        name = "unfitted"

    adv2_attack.register(Unfitted)(preset)
    with pytest.raises(TypeError, match=message) as caught:
        ADV2().against(Unfitted())
    assert "the attack registered for Unfitted" in str(caught.value)
    assert "must take (interpreter, schedule, steps, threat_model, name) and return an Attack" in str(caught.value)


def test_what_an_attack_needs():
    assert (pgd().needs_gradient, pgd().needs_map_gradient) == (True, False)
    assert (adv2_cam().needs_gradient, adv2_cam().needs_map_gradient) == (True, True)
    assert (search().needs_gradient, search().needs_map_gradient, search().needs_map) == (False, False, True)
    mixed = pgd().staged([*pgd().stages, *search().stages])
    assert (mixed.needs_gradient, mixed.needs_map_gradient, mixed.needs_map) == (True, False, True)


def test_a_map_without_a_gradient_is_attacked_by_a_search_alone():
    classifier, images = small_classifier(), lattice_images(4, seed=6)
    target, opaque = other_class(classifier, images), Opaque()
    benign = opaque.explain(classifier, images, (target - 1) % 4).attribution_map
    for attack in (adv2_cam(steps=2), adv2_cam(steps=2).staged([*adv2_cam().stages, *search().stages])):
        with pytest.raises(ValueError, match=r"gradient of Opaque's map is not right.*needs_gradient = False"):
            run_attack(attack, classifier, opaque, images, target, benign)
    few, many = (run_attack(search(steps), classifier, opaque, images, target, benign) for steps in (1, 60))
    loss = [50 * result.score - result.confidence.log() for result in (few, many)]
    assert (loss[1] < loss[0]).all()
