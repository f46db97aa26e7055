from __future__ import annotations

import math
from functools import partial

import numpy as np
import pytest
import torch
from cases import BY_NAME, INTERPRETERS, SIDE, lattice_images, other_class, small_classifier
from jsonargparse import ArgumentParser
from toys import Linear

from lightning_adv2.attacks import (
    ADV2,
    Attack,
    AttackRecipe,
    EncoderClass,
    GradientStep,
    MemberMaps,
    PixelDelta,
    Pixels,
    Ramp,
    Spatial,
    Stage,
    TargetClass,
    TargetMap,
    adv2,
    adv2_attack,
    adv2_cam,
    adv2_grad,
    adv2_rts,
    pgd,
    run_attack,
)
from lightning_adv2.functional import optim
from lightning_adv2.interpreters import CAM, MASK, Gradient
from lightning_adv2.models import PaperReLU, PlainReLU, weights_hash
from lightning_adv2.runtime.describe import describe, differences

each = pytest.mark.parametrize("case", INTERPRETERS, ids=lambda case: case.name)


@pytest.mark.parametrize("schedule", ["fast", "paper"])
@pytest.mark.parametrize("epsilon", [0.031, 8 / 255, 2.5 / 255])
def test_promise_21_pgd_reaches_the_closed_form_on_a_linear_model(schedule, epsilon):
    classifier, images = Linear.drawn(8), lattice_images(6, side=8)
    target_class = torch.tensor([0, 1, 0, 1, 0, 1])
    steps = 40 if schedule == "paper" else None
    result = run_attack(pgd(schedule, steps, epsilon), classifier, None, images, target_class)
    towards = (classifier.weight[target_class] - classifier.weight[1 - target_class]).sign().view_as(images)
    # every pixel as many whole levels towards the target class as the ball allows, cut off at black and white
    levels = math.floor(epsilon * 255 + 1e-3)
    best = np.clip(np.rint(images.numpy() * 255) + levels * towards.detach().numpy(), 0, 255)
    np.testing.assert_array_equal(np.rint(result.adv_images.numpy() * 255), best)


def asr(attack: Attack, count: int = 32) -> float:
    classifier, images = small_classifier(), lattice_images(count, seed=1)
    return run_attack(attack, classifier, None, images, other_class(classifier, images)).success.float().mean().item()


def test_promise_21_success_grows_with_epsilon_to_all():
    rates = [asr(pgd(epsilon=epsilon)) for epsilon in (1 / 255, 2 / 255, 4 / 255, 0.031, 0.1, 1.0)]
    assert rates == sorted(rates)
    assert rates[0] < 0.5, "too easy a victim: nothing to grow"
    assert rates[-1] == 1


@pytest.mark.parametrize("epsilon", [4 / 255, 0.031])
def test_promise_21_twice_the_steps_change_success_by_less_than_a_point(epsilon):
    assert abs(asr(pgd(epsilon=epsilon)) - asr(pgd(epsilon=epsilon, steps=2 * pgd().steps))) < 0.01


@each
def test_promise_21_adv2s_map_loss_is_below_pgds(case):
    classifier, images = small_classifier(), lattice_images(16, seed=5)
    interpreter, target_class = case.build(classifier), other_class(classifier, images)
    target_map = interpreter.explain(classifier, images, (target_class - 1) % 4).attribution_map
    joint = run_attack(case.attack(), classifier, interpreter, images, target_class, target_map)
    alone = run_attack(pgd(), classifier, interpreter, images, target_class, target_map)
    assert joint.score.mean() <= alone.score.mean()
    assert alone.score.mean() > 0


@each
def test_the_one_liner_fools_the_classifier_and_keeps_the_map(case):
    classifier, images = small_classifier(), lattice_images(4, seed=6)
    interpreter, target_class = case.build(classifier), other_class(classifier, images)
    result = adv2(classifier, interpreter, images, target_class, threat_model=Pixels(0.1))
    assert result.success.all()
    assert result.valid.all()
    benign = interpreter.explain(classifier, images, (target_class - 1) % 4).attribution_map
    # the score is taken against the benign map of the class seen before the attack
    reported = interpreter.explain(classifier, result.adv_images, target_class).attribution_map
    torch.testing.assert_close(result.score, (reported - benign).square().mean((1, 2, 3)))


def test_the_one_liner_takes_a_target_map_seed_and_epsilon():
    classifier, images = small_classifier(), lattice_images(3)
    target_class = other_class(classifier, images)
    target_map = torch.zeros(3, 1, 4, 4)
    target_map[..., 0, 0] = 1
    result = adv2(classifier, CAM(), images, target_class, target_map=target_map, threat_model=Pixels(4 / 255), seed=3)
    torch.testing.assert_close(result.score, (result.attribution_map - target_map).square().mean((1, 2, 3)))
    assert (result.adv_images - images).abs().amax() <= 4 / 255 + 1e-6


def test_promise_23_the_one_liner_refuses_train_mode_before_anything_changes():
    classifier, images = small_classifier(), lattice_images(3)
    target_class = other_class(classifier, images)
    classifier.train()
    before = weights_hash(classifier)
    with pytest.raises(ValueError, match=r"train mode|eval mode"):
        adv2(classifier, CAM(), images, target_class)
    assert weights_hash(classifier) == before


def stage_facts(attack: Attack) -> list[tuple[int, list[tuple[str, float, float]]]]:
    """Steps of each stage and its terms' names and weights at both ends."""
    return [(s.steps, [(type(t).__name__, t.weight(0.0), t.weight(1.0)) for t in s.step.terms]) for s in attack.stages]


PREDICTION = (TargetClass.__name__, 1.0, 1.0)


def test_the_papers_pgd():
    attack = pgd("paper")
    assert stage_facts(attack) == [(1000, [PREDICTION])]
    assert attack.steps == 1000


def test_the_papers_attack_on_cam():
    attack = adv2_cam("paper")
    assert stage_facts(attack) == [(400, [PREDICTION]), (1000, [PREDICTION, (TargetMap.__name__, 5.0, 10.0)])]


def test_the_papers_attack_on_rts():
    attack = adv2_rts("paper")
    joint = [PREDICTION, (TargetMap.__name__, 5.0, 10.0), (EncoderClass.__name__, 0.1, 0.1)]
    assert stage_facts(attack) == [(300, [PREDICTION]), (1000, joint)]


def test_the_papers_attack_on_grad():
    attack = adv2_grad("paper")
    assert [s.steps for s in attack.stages] == [300, 301, 201, 101, 101]
    assert attack.steps == 300 + 704
    # published for the sum over a 56 x 56 map, used on the mean
    weights = [s.step.terms[1].weight for s in attack.stages[1:]]
    expected = [w * 56 * 56 for w in (0.001, 0.004, 0.01, 0.05)]
    assert [w(0.0) for w in weights] == pytest.approx(expected)
    assert [w(1.0) for w in weights] == pytest.approx(expected)
    smoothing = [s.step.terms[0].smoothing for s in attack.stages[1:]]
    assert smoothing[0](0.0) == 0.05
    assert smoothing[-1](1.0) == 0.01
    values = [rho(p) for rho in smoothing for p in (0.0, 1.0)]
    assert values == sorted(values, reverse=True)
    assert attack.stages[0].step.terms[0].smoothing is None
    assert attack.stages[0].step.surrogate is None
    for stage in attack.stages[1:]:
        assert isinstance(stage.step.surrogate, PaperReLU)
        assert stage.step.surrogate.tau == 1e-4


@pytest.mark.parametrize("attack", [pgd("paper"), adv2_cam("paper"), adv2_rts("paper"), adv2_grad("paper")])
def test_the_papers_steps_are_signs_times_one_level(attack):
    assert attack.min_confidence == 0.8
    assert attack.perturbation.epsilon == 0.031
    for stage in attack.stages:
        assert stage.step.step_size(0.0) == stage.step.step_size(1.0) == 1 / 255
        gradient = torch.tensor([[3.0, -1e-6, 0.0]])
        step, _ = stage.step.rule.update(gradient, stage.step.rule.init(gradient))
        assert torch.equal(step, torch.tensor([[-1.0, 1.0, 0.0]]))


@pytest.mark.parametrize("preset", [pgd, adv2_cam, adv2_rts, adv2_grad])
def test_steps_and_epsilon_are_taken_and_the_fast_schedule_is_the_default(preset):
    assert preset().schedule == preset("fast").schedule == "fast"
    attack = preset(steps=7, **({"epsilon": 0.1} if preset is pgd else {"threat_model": Pixels(0.1)}))
    assert attack.stages[-1].steps == 7
    assert attack.perturbation.epsilon == 0.1
    with pytest.raises(ValueError, match="stage"):
        preset(steps=0)
    with pytest.raises(ValueError, match="schedule='papre'"):
        preset("papre")


def test_the_papers_schedule_for_grad_has_fixed_counts():
    with pytest.raises(ValueError, match=r"steps=10.*four fixed stages"):
        adv2_grad("paper", steps=10)


@each
@pytest.mark.parametrize("schedule", ["fast", "paper"])
def test_dispatch_by_the_interpreters_type(case, schedule):
    interpreter = case.build(small_classifier())
    chosen, expected = (
        f(schedule, threat_model=Pixels(0.02)) for f in (partial(adv2_attack, interpreter), case.attack)
    )
    assert stage_facts(chosen) == stage_facts(expected)
    assert chosen.schedule == schedule
    assert chosen.name == "adv2"
    assert chosen.perturbation.epsilon == 0.02
    surrogates = [[type(getattr(s.step, "surrogate", None)) for s in attack.stages] for attack in (chosen, expected)]
    assert surrogates[0] == surrogates[1]


def test_dispatch_of_interpreters_of_ones_own():
    class MyGradient(Gradient):
        name = "mine"

    class Blurred(CAM):
        name = "blurred"

    assert stage_facts(adv2_attack(MyGradient(), "paper")) == stage_facts(adv2_grad("paper"))
    assert stage_facts(adv2_attack(Blurred(), "paper")) == stage_facts(adv2_cam("paper"))


def test_adv2_passes_its_restarts_on():
    attack = ADV2(steps=4, restarts=3, extra=[TargetClass()]).against(CAM())
    assert (attack.restarts, attack.steps, attack.name) == (3, 12, "adv2")
    assert ADV2(steps=4).against(CAM()).restarts == 1
    with pytest.raises(ValueError, match="restarts=0"):
        ADV2(restarts=0)


def test_restarts_of_a_registered_attack_stay():
    class Stubborn(CAM):
        name = "stubborn"

    @adv2_attack.register(Stubborn)
    def _(interpreter, *args, **options) -> Attack:
        plain = adv2_cam(*args, **options)
        return Attack(plain.name, plain.schedule, plain.perturbation, plain.stages, restarts=5)

    assert ADV2(restarts=2).against(Stubborn()).restarts == 5
    assert ADV2(restarts=7).against(Stubborn()).restarts == 7


def test_promise_5_another_number_of_restarts_is_another_experiment():
    assert differences(describe(ADV2()), describe(ADV2(restarts=2))) == ["restarts: 1 before, 2 now"]
    few, many = (describe(ADV2(restarts=n).against(CAM())) for n in (1, 2))
    assert differences(few, many) == ["restarts: 1 before, 2 now"]


def test_grads_attack_needs_its_surrogate():
    """Without the smooth ReLU the map's gradient is zero, so that ADV2 could do no better than PGD."""
    assert adv2_grad().stages[-1].step.surrogate is not None
    assert adv2_cam().stages[-1].step.surrogate is None


def test_transfer_the_interpreter_of_another_classifier_is_no_error():
    victim, other = small_classifier(), small_classifier(seed=9)
    images = lattice_images(3)
    target_class = other_class(victim, images)
    result = adv2(victim, BY_NAME["rts"].build(other), images, target_class)
    assert result.attribution_map.shape == (3, 1, SIDE // 2, SIDE // 2)


def joint_terms(attack: Attack) -> list[list[float]]:
    """The map weights of every joint stage, at both ends."""
    steps = [stage.step for stage in attack.stages if stage.step.needs_map]
    return [[t.weight(p) for t in s.terms if isinstance(t, (TargetMap, MemberMaps)) for p in (0.0, 1.0)] for s in steps]


@pytest.mark.parametrize("case", [c for c in INTERPRETERS if c.name != "mask"], ids=lambda case: case.name)
@pytest.mark.parametrize("schedule", ["fast", "paper"])
def test_adv2_overrides_epsilon_map_weight_and_surrogate(case, schedule):
    interpreter, usual = case.build(small_classifier()), ADV2(schedule)
    surrogate = PaperReLU(tau=0.5)
    attack = ADV2(schedule, epsilon=0.1, map_weight=7.0, surrogate=surrogate).against(interpreter)
    assert attack.perturbation.epsilon == 0.1
    assert all(weights == [7.0, 7.0] for weights in joint_terms(attack))
    joint = [stage.step.surrogate for stage in attack.stages if stage.step.needs_map]
    assert joint
    assert all(used is surrogate for used in joint)
    assert not any(stage.step.surrogate for stage in attack.stages if not stage.step.needs_map)
    before = joint_terms(usual.against(interpreter))
    assert before != joint_terms(attack)
    assert joint_terms(usual.against(interpreter)) == before, "the usual attack must stay as it is"
    ramp = ADV2(schedule, map_weight=Ramp(1.0, 3.0)).against(interpreter)
    assert all(weights == [1.0, 3.0] for weights in joint_terms(ramp))


def test_adv2_without_them_is_the_usual_attack():
    for case in INTERPRETERS:
        interpreter = case.build(small_classifier())
        assert differences(describe(adv2_attack(interpreter)), describe(ADV2().against(interpreter))) == []


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({"epsilon": 0.05}, {"perturbation.epsilon: 0.031 before, 0.05 now"}),
        ({"map_weight": 20.0}, {"start: 50.0 before, 20.0 now", "end: 50.0 before, 20.0 now"}),
        ({"surrogate": PlainReLU()}, {"surrogate"}),
        ({"restarts": 3}, {"restarts: 1 before, 3 now"}),
        ({"steps": 9}, {"steps: 100 before, 9 now"}),
    ],
)
def test_promise_5_every_one_of_them_is_another_experiment(options, expected):
    lines = differences(*(describe(ADV2(**o).against(Gradient())) for o in ({}, options)))
    assert lines
    assert all(any(part in line for part in expected) for line in lines), lines


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"epsilon": 0.05, "threat_model": Pixels()}, r"epsilon=0\.05.*threat_model=Pixels.*Pixels\(epsilon=0\.05\)"),
        ({"epsilon": 0.05, "threat_model": Spatial()}, r"epsilon=0\.05.*threat_model=Spatial"),
        ({"epsilon": 0.0}, r"epsilon=0\.0: must lie in"),
        ({"epsilon": 8}, "epsilon=8: must lie in"),
        ({"map_weight": -1.0}, r"map_weight=-1\.0"),
        ({"map_weight": math.nan}, "map_weight=nan"),
        ({"map_weight": Ramp(1.0, math.inf)}, "map_weight=Ramp"),
    ],
)
def test_settings_that_make_no_sense_are_refused(options, message):
    classifier, images = small_classifier(), lattice_images(2)
    for call in (lambda: ADV2(**options), lambda: adv2(classifier, CAM(), images, 1, **options)):
        with pytest.raises(ValueError, match=message):
            call()


def test_a_framework_given_as_a_class_is_refused():
    with pytest.raises(TypeError, match=r"threat_model: got the class Spatial; give an instance: Spatial\(\)"):
        ADV2(threat_model=Spatial)


def test_what_an_attack_does_not_have_cannot_be_overridden():
    for options in ({"map_weight": 3.0}, {"surrogate": PaperReLU()}):
        with pytest.raises(ValueError, match=rf"{next(iter(options))}.*ResponseSteps.*leave it out"):
            ADV2(**options).against(MASK())

    class Own(CAM):
        name = "own"

    @adv2_attack.register(Own)
    def _(interpreter, *args, **options) -> Attack:
        step = GradientStep([TargetClass(), EncoderClass()], optim.sign(), Ramp(0.01, 0.01))
        return Attack("own", "fast", PixelDelta(), [Stage(step, 2)])

    with pytest.raises(ValueError, match=r"map_weight.*'EncoderClass'.*TargetMap"):
        ADV2(map_weight=3.0).against(Own())


def test_the_one_liner_is_the_recipe():
    classifier, images = small_classifier(), lattice_images(3)
    target_class, interpreter = other_class(classifier, images), Gradient(pool=2)
    options = {"steps": 6, "epsilon": 0.05, "restarts": 2, "map_weight": 20.0, "surrogate": PaperReLU()}
    found = adv2(classifier, interpreter, images, target_class, **options)
    target_map = interpreter.explain(classifier, images, classifier(images).argmax(1)).attribution_map
    attack = ADV2(**options).against(interpreter)
    expected = run_attack(attack, classifier, interpreter, images, target_class, target_map)
    assert found.steps_taken.tolist() == [12, 12, 12]
    assert (found.adv_images - images).abs().amax() > 0.031, "the wider ball must be used"
    assert (found.adv_images - images).abs().amax() <= 0.05 + 1e-6
    torch.testing.assert_close(found.adv_images, expected.adv_images, rtol=0, atol=1.5 / 255)


YAML = """
attack:
  class_path: lightning_adv2.attacks.ADV2
  init_args:
    schedule: fast
    steps: 12
    restarts: 2
    epsilon: 0.05
    map_weight: {weight}
    surrogate: {{class_path: lightning_adv2.models.PaperReLU, init_args: {{tau: 0.01}}}}
    {more}
"""


def parsed(**parts: str) -> ADV2:
    parser = ArgumentParser(exit_on_error=False)
    parser.add_subclass_arguments(AttackRecipe, "attack")
    return parser.instantiate_classes(parser.parse_string(YAML.format(**{"weight": "20", "more": ""} | parts))).attack


def test_adv2_in_yaml():
    attack = parsed()
    assert isinstance(attack, ADV2)
    ready = attack.against(Gradient())
    assert (ready.steps, ready.restarts, ready.perturbation.epsilon) == (24, 2, 0.05)
    assert joint_terms(ready) == [[20.0, 20.0]]
    assert isinstance(ready.stages[0].step.surrogate, PaperReLU)
    assert ready.stages[0].step.surrogate.tau == 0.01
    assert joint_terms(parsed(weight="{start: 5, end: 10}").against(Gradient())) == [[5.0, 10.0]]


def test_epsilon_and_framework_in_yaml_are_refused_by_name():
    with pytest.raises(ValueError, match=r"epsilon=0\.05.*threat_model=Spatial"):
        parsed(more="threat_model: lightning_adv2.attacks.Spatial")
