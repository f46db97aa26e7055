from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
import torch
from cases import BY_NAME, SIDE, lattice_images, other_class, small_classifier
from torch import Tensor, nn
from toys import AlteredCAM, nan_of

from lightning_adv2.attacks import (
    Attack,
    AttackInputs,
    AttackResult,
    GradientStep,
    PixelDelta,
    Ramp,
    Stage,
    TargetClass,
    TargetMap,
    adv2_cam,
    adv2_grad,
    pgd,
    run_attack,
)
from lightning_adv2.attacks.best import Best
from lightning_adv2.attacks.perturbation import FlowField
from lightning_adv2.functional import optim
from lightning_adv2.functional.random import image_generators
from lightning_adv2.interpreters import CAM, Interpreter
from lightning_adv2.models import Classifier
from lightning_adv2.types import Interpretation

NAN = float("nan")


class Recording(PixelDelta):
    """Remembers every image that the attack looked at."""

    def __init__(self, epsilon: float = 0.031) -> None:
        super().__init__(epsilon)
        self.looked_at: list[Tensor] = []

    def apply(self, images: Tensor, parameter: Tensor) -> Tensor:
        adv_images = super().apply(images, parameter)
        self.looked_at.append(adv_images.detach().clone())
        return adv_images


def rank(confidence: float, success: bool, score: float) -> tuple[int, float]:
    """The rule in words: confident ones first, by map loss; then successful ones; then the most likely."""
    if success and confidence >= 0.8:
        return 0, score
    return (1, score) if success else (2, -confidence)


@pytest.mark.parametrize("name", ["cam", "rts", "grad"])
@pytest.mark.parametrize("epsilon", [2 / 255, 0.031])
def test_the_result_is_the_best_that_was_looked_at(name, epsilon):
    classifier, images = small_classifier(dtype=torch.float64), lattice_images(8, seed=3, dtype=torch.float64)
    interpreter, target_class = BY_NAME[name].build(classifier), other_class(classifier, images)
    target_map = interpreter.explain(classifier, images, (target_class - 1) % 4).attribution_map
    recording = Recording(epsilon)
    ready = BY_NAME[name].attack()
    # Too large a step: the iterates jump about, so that the last is seldom the best.
    stage = Stage(GradientStep(ready.stages[0].step.terms, optim.sign(), Ramp(0.01, 0.01), _surrogate(ready)), 12)
    attack = Attack("test", "fast", recording, [stage])
    result = run_attack(attack, classifier, interpreter, images, target_class, target_map)
    assert len(recording.looked_at) == 13  # before each step, and the last

    def ranks(adv_images: Tensor) -> list[tuple[int, float]]:
        reported = interpreter.explain(classifier, adv_images, target_class)
        confidence = reported.logits.softmax(1)[torch.arange(8), target_class]
        score = (reported.attribution_map - target_map).square().mean((1, 2, 3))
        success = reported.logits.argmax(1) == target_class
        return [rank(*row) for row in zip(confidence.tolist(), success.tolist(), score.tolist(), strict=True)]

    kept, seen = ranks(result.adv_images), [ranks(a) for a in recording.looked_at]
    for i in range(8):
        assert kept[i] <= seen[-1][i]
        if name != "grad":  # GRAD's iterates are ranked by the surrogate, only two of them by the network itself
            assert kept[i] == min(row[i] for row in seen)
    assert any(kept[i] < seen[-1][i] for i in range(8)), "the last was the best everywhere: nothing was tested"


def _surrogate(attack: Attack):
    return attack.stages[0].step.surrogate


def keep(min_confidence: float = 0.8, *, by_map: bool = True) -> Best:
    """For one black pixel, its target class 0 and a target map of zero."""
    zero = torch.zeros(1, 1, 1, 1)
    return Best(
        AttackInputs(small_classifier(), CAM(), zero, torch.tensor([0]), zero), zero, min_confidence, by_map=by_map
    )


def offer(best: Best, tag: float, confidence: float, score: float) -> None:
    """Offer an image of value ``tag`` whose target class 0 has this probability and whose map has this loss."""
    logits = torch.tensor([[confidence, 1 - confidence]]).log()
    best.offer(*[torch.full((1, 1, 1, 1), tag)] * 2, Interpretation(logits, torch.full((1, 1, 1, 1), score**0.5)))


@pytest.mark.parametrize(
    ("first", "second", "wins"),
    [
        ((0.9, 0.5), (0.9, 0.4), 2),  # both confident: the smaller map loss
        ((0.81, 0.4), (0.99, 0.5), 1),  # not the greater confidence
        ((0.6, 0.01), (0.85, 0.9), 2),  # confident before successful, whatever the map
        ((0.85, 0.9), (0.6, 0.01), 1),
        ((0.6, 0.5), (0.7, 0.4), 2),  # both merely successful: the smaller map loss
        ((0.45, 0.0), (0.51, 1.0), 2),  # successful before failed
        ((0.51, 1.0), (0.45, 0.0), 1),
        ((0.3, 0.0), (0.4, 1.0), 2),  # both failed: the more likely
        ((0.4, 1.0), (0.3, 0.0), 1),
        ((0.9, 0.5), (0.9, 0.5), 1),  # a tie: the earlier
        ((0.9, 0.5), (0.9, NAN), 1),  # NaN never wins
        ((0.3, 0.5), (NAN, 0.1), 1),
        ((0.9, NAN), (0.1, 0.9), 2),
        ((NAN, 0.1), (0.1, 0.9), 2),
    ],
)
def test_the_keep_rule(first, second, wins):
    best = keep()
    for tag, (confidence, score) in enumerate((first, second), start=1):
        offer(best, float(tag), confidence, score)
    assert best.adv_images.item() == wins
    confidence, score = (first, second)[wins - 1]
    torch.testing.assert_close(best.confidence, torch.tensor([confidence]))
    torch.testing.assert_close(best.score, torch.tensor([score]))
    assert best.success.item() == (confidence > 0.5)
    torch.testing.assert_close(best.attribution_map.item(), score**0.5, rtol=1e-5, atol=1e-6)


def test_min_confidence_is_a_parameter():
    for bar, wins in ((0.5, 1), (0.8, 2)):
        best = keep(bar)
        offer(best, 1.0, 0.6, 0.1)
        offer(best, 2.0, 0.9, 0.2)
        assert best.adv_images.item() == wins


@pytest.mark.parametrize(
    ("first", "second", "wins"),
    [
        ((0.9, 0.1), (0.95, 0.9), 2),  # both confident: the more confident, whatever the map
        ((0.95, 0.9), (0.9, 0.1), 1),
        ((0.6, 0.1), (0.7, 0.9), 2),
        ((0.51, 0.9), (0.45, 0.0), 1),
        ((0.3, 0.0), (0.4, 1.0), 2),
        ((0.9, 0.5), (0.9, 0.1), 1),  # a tie: the earlier
        ((0.3, 0.5), (NAN, 0.1), 1),
    ],
)
def test_the_keep_rule_without_a_map(first, second, wins):
    best = keep(by_map=False)
    for tag, (confidence, score) in enumerate((first, second), start=1):
        offer(best, float(tag), confidence, score)
    assert best.adv_images.item() == wins


@pytest.mark.parametrize("attack", [adv2_cam(steps=10), pgd(steps=10)], ids=["adv2", "pgd"])
def test_promise_13_a_nan_map_is_invalid_and_leaves_its_neighbours_alone(attack):
    classifier, images = small_classifier(dtype=torch.float64), lattice_images(4, dtype=torch.float64)
    target_class = other_class(classifier, images)
    target_map = CAM().explain(classifier, images, target_class).attribution_map
    clean = run_attack(attack, classifier, CAM(), images, target_class, target_map)
    broken = run_attack(attack, classifier, AlteredCAM(nan_of(2)), images, target_class, target_map)
    assert clean.valid.all()
    assert clean.success[2], "the broken image would have failed anyway: nothing was tested"
    assert broken.valid.tolist() == [True, True, False, True]
    assert not broken.success[2]
    others = [0, 1, 3]
    assert torch.equal(broken.adv_images[others], clean.adv_images[others])
    torch.testing.assert_close(broken.score[others], clean.score[others], rtol=0, atol=1e-9)
    assert torch.equal(broken.success[others], clean.success[others])
    assert broken.adv_images.isfinite().all()


def test_promise_13_a_nan_at_one_step_is_not_forgotten():
    classifier, images = small_classifier(), lattice_images(2)
    target_class = other_class(classifier, images)
    target_map = CAM().explain(classifier, images, target_class).attribution_map
    result = run_attack(adv2_cam(steps=8), classifier, AlteredCAM(nan_of(0, call=4)), images, target_class, target_map)
    assert result.valid.tolist() == [False, True]
    assert not result.success[0]
    assert result.adv_images.isfinite().all()


@pytest.mark.parametrize("attack", [adv2_cam(steps=5), pgd(steps=5), adv2_grad(steps=3)], ids=["cam", "pgd", "grad"])
def test_promise_13_nan_weights_make_every_image_invalid(attack):
    classifier, images = small_classifier(), lattice_images(3)
    target_class = other_class(classifier, images)
    interpreter = BY_NAME["grad" if attack.stages[0].step.surrogate else "cam"].build(classifier)
    target_map = interpreter.explain(classifier, images, target_class).attribution_map
    with torch.no_grad():
        classifier.conv1.weight[0, 0, 0, 0] = NAN
    result = run_attack(attack, classifier, interpreter, images, target_class, target_map)
    assert not result.valid.any()
    assert not result.success.any()
    assert torch.equal(result.adv_images, images), "with no gradient to follow, an image must stay where it is"


def arguments(**changes):
    classifier = small_classifier()
    images = lattice_images(3)
    given = {
        "attack": adv2_cam(steps=2),
        "classifier": classifier,
        "interpreter": CAM(),
        "images": images,
        "target_class": torch.tensor([0, 1, 2]),
        "target_map": torch.rand(3, 1, SIDE // 4, SIDE // 4),
    }
    return given | changes


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"images": torch.rand(3, 16, 16)}, r"images: expected floats \(B, C, H, W\)"),
        ({"images": torch.zeros(3, 3, 16, 16, dtype=torch.uint8)}, r"images: expected floats.*uint8"),
        ({"images": torch.rand(3, 3, 16, 16) * 255}, r"images: values.*255"),
        ({"images": torch.rand(3, 3, 16, 16) - 0.5}, r"images: values.*normalisation"),
        ({"images": torch.full((3, 3, 16, 16), NAN)}, r"images: values.*NaN"),
        ({"target_class": torch.tensor([0, 1])}, "target_class: expected 3 whole numbers"),
        ({"target_class": torch.tensor([[0], [1], [2]])}, "target_class: expected 3 whole numbers"),
        ({"target_class": torch.tensor([0.0, 1.0, 2.0])}, "target_class: expected 3 whole numbers"),
        ({"target_class": torch.tensor([0, 1, 4])}, "target_class.*4"),
        ({"target_class": torch.tensor([0, -1, 2])}, "target_class.*-1"),
        ({"target_map": None}, "'adv2' aims at the map"),
        ({"interpreter": None}, "'adv2' aims at the map"),
        ({"target_map": torch.rand(2, 1, 4, 4)}, "target_map.*2"),
        ({"target_map": torch.rand(3, 4, 4)}, "target_map"),
        ({"target_map": torch.rand(3, 3, 4, 4)}, "target_map"),
        ({"target_map": torch.rand(3, 1, 8, 8)}, "target_map.*8"),
        ({"target_map": torch.rand(3, 1, 1, 1)}, "target_map.*1"),
        ({"target_map": torch.full((3, 1, 4, 4), NAN)}, "target_map.*NaN"),
        ({"target_map": torch.rand(3, 1, 4, 4) + 0.5}, r"target_map.*\[0, 1\]"),
    ],
)
def test_arguments_that_do_not_fit_are_named(changes, message):
    with pytest.raises(ValueError, match=message):
        run_attack(**arguments(**changes))


def test_the_arguments_of_the_error_table_are_right_when_unchanged():
    assert run_attack(**arguments()).valid.all()


@pytest.mark.parametrize("part", ["", "bn1", "layer2.0.bn2"])
def test_promise_23_a_victim_in_train_mode_is_refused_before_anything_changes(part):
    given = arguments()
    classifier = given["classifier"]
    classifier.get_submodule(part).train()
    before = {name: value.clone() for name, value in classifier.state_dict().items()}
    with pytest.raises(ValueError, match=r"train mode|eval mode"):
        run_attack(**given)
    assert all(torch.equal(before[name], value) for name, value in classifier.state_dict().items())


def test_promise_23_an_interpreter_with_weights_in_train_mode_is_refused():
    given = arguments()
    interpreter = BY_NAME["rts"].build(given["classifier"])
    given |= {
        "interpreter": interpreter,
        "target_map": torch.rand(3, 1, 8, 8),
        "attack": BY_NAME["rts"].attack(steps=1),
    }
    run_attack(**given)
    interpreter.train()
    with pytest.raises(ValueError, match=r"interpreter"):
        run_attack(**given)


def test_promise_23_inference_mode_gives_a_clear_error():
    with torch.inference_mode(), pytest.raises(RuntimeError, match=r"inference_mode.*inference_mode=False"):
        run_attack(**arguments())
    with torch.inference_mode():
        images = lattice_images(3)
    with pytest.raises(RuntimeError, match="inference_mode"):
        run_attack(**arguments(images=images))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"stages": []}, "at least one stage"),
        ({"stages": [(0,)]}, "at least one step"),
        ({"min_confidence": 1.0}, "min_confidence=1.0"),
        ({"min_confidence": -0.1}, r"min_confidence=-0\.1"),
        ({"restarts": 0}, "restarts=0"),
    ],
)
def test_an_attack_that_makes_no_sense_is_refused(arguments, message):
    step = GradientStep([TargetClass()], optim.sign(), Ramp(0.1, 0.1))
    stages = [Stage(step, *s) for s in arguments.get("stages", [(3,)])]
    with pytest.raises(ValueError, match=message):
        Attack("x", "fast", PixelDelta(), stages, arguments.get("min_confidence", 0.8), arguments.get("restarts", 1))


def test_stages_share_the_perturbation():
    """Two stages of two plain steps are one of four; a stage that began anew would end two steps from the start."""
    classifier, images = small_classifier(), lattice_images(3)
    target_class = other_class(classifier, images)
    step = GradientStep([TargetClass()], optim.sign(), Ramp(1 / 255, 1 / 255))
    results = [
        run_attack(Attack("x", "fast", PixelDelta(), stages), classifier, None, images, target_class).adv_images
        for stages in ([Stage(step, 4)], [Stage(step, 2), Stage(step, 2)])
    ]
    assert torch.equal(*results)
    assert (results[0] - images).abs().amax() > 2.5 / 255


def test_without_generators_the_position_in_the_batch_seeds():
    given = arguments(attack=adv2_grad("paper"), interpreter=BY_NAME["grad"].build(small_classifier()))
    full = given["attack"]
    given["attack"] = Attack(full.name, full.schedule, full.perturbation, [Stage(full.stages[1].step, 3)])
    given["target_map"] = torch.rand(3, 1, 8, 8)
    assert torch.equal(run_attack(**given).adv_images, run_attack(**given).adv_images)


def again(attack: Attack, restarts: int, perturbation=None) -> Attack:
    """The same attack, run this often."""
    where = perturbation or attack.perturbation
    return Attack(attack.name, attack.schedule, where, attack.stages, attack.min_confidence, restarts)


SHORT = 24


class Setting:
    """A victim, six images and an attack of few steps on the map of one interpreter; ``pgd`` has none."""

    def __init__(self, name: str) -> None:
        self.classifier = small_classifier(dtype=torch.float64)
        self.images, self.ids = lattice_images(6, seed=3, dtype=torch.float64), list("abcdef")
        self.target_class = other_class(self.classifier, self.images)
        self.interpreter, self.target_map, self.attack = None, None, pgd(steps=2, epsilon=2 / 255)
        if name != "pgd":
            self.interpreter, ready = BY_NAME[name].build(self.classifier), BY_NAME[name].attack(steps=SHORT)
            seen = (self.target_class - 1) % 4
            self.target_map = self.interpreter.explain(self.classifier, self.images, seen).attribution_map
            self.attack = Attack("test", "fast", PixelDelta(), ready.stages)

    def run(self, attack: Attack, which: slice = slice(None), **options) -> AttackResult:
        target_map = None if self.target_map is None else self.target_map[which]
        generators = image_generators(0, self.ids[which], "attack")
        given = self.interpreter, self.images[which], self.target_class[which], target_map
        return run_attack(attack, self.classifier, *given, generators=generators, **options)


both_perturbations = pytest.mark.parametrize("perturbation", [None, FlowField(0.5)], ids=["pixel", "flow"])


@pytest.mark.parametrize("name", ["cam", "rts", "grad", "pgd"])
@both_perturbations
def test_restarts_make_no_image_worse_and_some_better(name, perturbation):
    setting, ranks = Setting(name), []
    for restarts in (1, 2, 5):
        result = setting.run(again(setting.attack, restarts, perturbation))
        with torch.no_grad():
            confidence = setting.classifier(result.adv_images).softmax(1)
        success = confidence.argmax(1) == setting.target_class
        confidence = confidence[torch.arange(6), setting.target_class]
        if setting.interpreter is None:
            loss = -confidence
        else:
            reported = setting.interpreter.explain(setting.classifier, result.adv_images, setting.target_class)
            loss = (reported.attribution_map - setting.target_map).square().mean((1, 2, 3))
        ranks.append([rank(*row) for row in zip(confidence.tolist(), success.tolist(), loss.tolist(), strict=True)])
    for fewer, more in pairwise(ranks):
        assert all(m <= f for f, m in zip(fewer, more, strict=True))
    assert any(m < f for f, m in zip(ranks[0], ranks[-1], strict=True))


@pytest.mark.parametrize("name", ["cam", "pgd"])
@both_perturbations
def test_promise_3_with_restarts_a_batch_equals_its_images_and_the_generators_decide(name, perturbation):
    setting = Setting(name)
    attack = again(setting.attack, 3, perturbation)
    together = setting.run(attack)
    torch.manual_seed(5)
    before = torch.get_rng_state()
    assert torch.equal(setting.run(attack).adv_images, together.adv_images)
    assert torch.equal(torch.get_rng_state(), before)
    for i in (4, 0):
        alone = setting.run(attack, slice(i, i + 1))
        assert torch.equal(alone.adv_images[0], together.adv_images[i])
    setting.ids = list("uvwxyz")
    assert not torch.equal(setting.run(attack).adv_images, together.adv_images)


def test_restarts_count_in_steps_and_progress_but_not_in_the_trace():
    setting, calls = Setting("cam"), []
    attack = again(setting.attack, 4)
    result = setting.run(attack, on_step=calls.append)
    assert attack.steps == 4 * SHORT
    assert calls == list(range(1, 4 * SHORT + 1))
    assert result.steps_taken.tolist() == [4 * SHORT] * 6
    once = setting.run(again(setting.attack, 1))
    assert set(result.trace) == set(once.trace)
    assert all(torch.equal(result.trace[key], once.trace[key]) for key in once.trace)


@pytest.mark.parametrize("call", [3, SHORT + 4], ids=["first run", "second run"])
def test_promise_13_a_nan_in_one_run_is_not_forgotten(call):
    setting = Setting("cam")
    attack = again(setting.attack, 2)
    setting.classifier, setting.images = setting.classifier.float(), setting.images.float()
    setting.interpreter, setting.target_map = AlteredCAM(nan_of(0, call=call)), setting.target_map.float()
    result = setting.run(attack)
    assert result.valid.tolist() == [False, *[True] * 5]
    assert result.adv_images.isfinite().all()


def valley(images: Tensor, left: float, right: float) -> Tensor:
    """Height over the first pixel: it rises gently to the left of level 129.5 and steeply to its right."""
    level = images[:, 0, 0, 0] * 255 - 129.5
    return torch.where(level < 0, -left * level, right * level)


class ValleyClassifier(Classifier):
    """Class 1's lead: 5 where ``hard`` is off; else below zero but for the valley's right end."""

    num_classes = 2

    def __init__(self, hard: bool) -> None:
        super().__init__(mean=(0.0, 0.0, 0.0), std=(1.0, 1.0, 1.0))
        self.hard = hard
        self.eval()

    def stages(self):
        return [nn.Identity()]

    def forward_head(self, features: Tensor) -> Tensor:
        height = valley(features, 0.1, 1.0)
        lead = height - 2 if self.hard else 5 + 0 * height
        return torch.stack([torch.zeros_like(lead), lead], 1)


class ValleyMap(Interpreter):
    """A map of two pixels, one of them the valley's height."""

    def forward(self, classifier, images, class_idx, state=()):
        height = valley(images, 0.02, 0.15).clamp(0, 1)
        return Interpretation(classifier(images), torch.stack([height, height * 0], 1).view(-1, 1, 1, 2))


@pytest.mark.parametrize("aims_at_map", [False, True], ids=["pgd", "adv2"])
def test_restarts_leave_the_valley_in_which_a_run_from_the_image_is_caught(aims_at_map):
    """At level 128 it is uphill to the left, where nothing is to be had; the top lies 5.5 levels right of 129.5."""
    classifier, images = ValleyClassifier(hard=not aims_at_map), torch.full((8, 3, 4, 4), 128 / 255)
    target_class, target_map = torch.ones(8, dtype=torch.int64), torch.tensor([1.0, 0.0]).expand(8, 1, 1, 2)
    terms = [TargetClass(), TargetMap(10.0)] if aims_at_map else [TargetClass()]
    step = GradientStep(terms, optim.sign(), Ramp(1 / 255, 1 / 255))
    attack = Attack("x", "fast", PixelDelta(), [Stage(step, 20)])
    victim = (classifier, ValleyMap() if aims_at_map else None, images, target_class)
    once, often = (run_attack(again(attack, n), *victim, target_map if aims_at_map else None) for n in (1, 16))
    if aims_at_map:
        assert (once.score > 0.5 * (1 - 0.17) ** 2 - 1e-3).all()
        assert (often.score < 0.5 * (1 - 0.82) ** 2 + 1e-3).all()
    else:
        assert not once.success.any()
        assert often.success.all()
        assert (often.confidence > 0.9).all()


def test_a_map_that_is_only_judged_does_not_choose_among_the_runs():
    setting = Setting("cam")
    attack = again(pgd(steps=5), 6)
    reported = setting.run(attack)
    setting.interpreter = setting.target_map = None
    assert torch.equal(reported.adv_images, setting.run(attack).adv_images)
    assert reported.score.gt(0).all()
    assert reported.success.any(), "the map could not have had a say"


def test_the_first_run_begins_at_the_start():
    setting, recording = Setting("cam"), Recording()
    given = torch.linspace(-1, 1, setting.images.numel(), dtype=torch.float64).view_as(setting.images)
    setting.run(again(setting.attack, 1, recording), start=given)
    move = np.clip(np.rint(given.numpy() * 255), -7, 7)  # 0.031 is 7.9 levels
    levels = np.clip(np.rint(setting.images.numpy() * 255) + move, 0, 255)
    np.testing.assert_array_equal(np.rint(recording.looked_at[0].numpy() * 255), levels)


@pytest.mark.parametrize(
    ("perturbation", "bound"), [(PixelDelta(0.031), 0.031), (FlowField(0.1, 0.5), 0.5)], ids=["pixel", "flow"]
)
def test_the_start_is_projected(perturbation, bound):
    setting = Setting("cam")
    attack = again(setting.attack, 1, perturbation)
    far = 2 * torch.randn(6, 3 if bound < 0.1 else 2, SIDE, SIDE, generator=torch.Generator().manual_seed(0)).double()
    near = far.clamp(-bound, bound)
    if bound < 0.1:
        near = (setting.images + near).clamp(0, 1) - setting.images
    found, expected = (setting.run(attack, start=start) for start in (far, near))
    torch.testing.assert_close(found.adv_images, expected.adv_images, rtol=0, atol=1.01 / 255)
    assert (found.adv_images == expected.adv_images).double().mean() > 0.99, "but for rounding"
    torch.testing.assert_close(found.norm, expected.norm)


def test_only_the_first_run_begins_at_the_start():
    setting, recording = Setting("cam"), Recording()
    given = torch.full_like(setting.images, 0.02)
    setting.run(again(setting.attack, 2, recording), start=given)
    plain = Recording()
    setting.run(again(setting.attack, 2, plain))
    assert len(plain.looked_at) == len(recording.looked_at) == 2 * (SHORT + 1)
    assert not torch.equal(plain.looked_at[0], recording.looked_at[0])
    assert all(
        torch.equal(a, b) for a, b in zip(plain.looked_at[SHORT + 1 :], recording.looked_at[SHORT + 1 :], strict=True)
    )


@both_perturbations
def test_started_where_it_starts_anyway_nothing_changes(perturbation):
    setting = Setting("cam")
    attack = again(setting.attack, 2, perturbation)
    own = attack.perturbation.init(setting.images, image_generators(0, setting.ids, "attack"))
    assert torch.equal(setting.run(attack, start=own).adv_images, setting.run(attack).adv_images)


@pytest.mark.parametrize(
    ("start", "message"),
    [
        (torch.zeros(6, 2, SIDE, SIDE), r"start: expected .*\(6, 3, 16, 16\), got \(6, 2, 16, 16\)"),
        (torch.zeros(3, SIDE, SIDE), "start: expected"),
        (torch.full((6, 3, SIDE, SIDE), NAN), "start: holds NaN"),
    ],
)
def test_a_start_that_does_not_fit_is_refused(start, message):
    setting = Setting("cam")
    with pytest.raises(ValueError, match=message):
        setting.run(setting.attack, start=start)
