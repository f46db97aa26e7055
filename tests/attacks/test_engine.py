from __future__ import annotations

import pytest
import torch
from cases import BY_NAME, SIDE, lattice_images, other_class, small_classifier
from torch import Tensor

from lightning_adv2.attacks import (
    Attack,
    GradientStep,
    PixelDelta,
    Ramp,
    Stage,
    TargetClass,
    adv2_cam,
    adv2_grad,
    pgd,
    run_attack,
)
from lightning_adv2.attacks.engine import _Best
from lightning_adv2.functional import optim
from lightning_adv2.interpreters import CAM
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
        judged = interpreter.explain(classifier, adv_images, target_class)
        confidence = judged.logits.softmax(1)[torch.arange(8), target_class]
        score = (judged.attribution_map - target_map).square().mean((1, 2, 3))
        success = judged.logits.argmax(1) == target_class
        return [rank(*row) for row in zip(confidence.tolist(), success.tolist(), score.tolist(), strict=True)]

    kept, seen = ranks(result.adv_images), [ranks(a) for a in recording.looked_at]
    for i in range(8):
        assert kept[i] <= seen[-1][i]
        if name != "grad":  # GRAD's iterates are ranked by the surrogate, only two of them by the network itself
            assert kept[i] == min(row[i] for row in seen)
    assert any(kept[i] < seen[-1][i] for i in range(8)), "the last was the best everywhere: nothing was tested"


def _surrogate(attack: Attack):
    return attack.stages[0].step.surrogate


def offer(best: _Best, tag: float, confidence: float, score: float) -> None:
    """Offer an image of value ``tag`` whose target class 0 has this probability and whose map has this loss."""
    logits = torch.tensor([[confidence, 1 - confidence]]).log()
    best.offer(*[torch.full((1, 1, 1, 1), tag)] * 2, logits, torch.full((1, 1, 1, 1), score**0.5))


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
    zero = torch.zeros(1, 1, 1, 1)
    best = _Best(0.8, zero, zero, torch.tensor([0]), zero)
    for tag, (confidence, score) in enumerate((first, second), start=1):
        offer(best, float(tag), confidence, score)
    assert best.adv_images.item() == wins
    confidence, score = (first, second)[wins - 1]
    torch.testing.assert_close(best.confidence, torch.tensor([confidence]))
    torch.testing.assert_close(best.score, torch.tensor([score]))
    assert best.success.item() == (confidence > 0.5)
    torch.testing.assert_close(best.attribution_map.item(), score**0.5, rtol=1e-5, atol=1e-6)


def test_min_confidence_is_a_parameter():
    zero = torch.zeros(1, 1, 1, 1)
    for bar, wins in ((0.5, 1), (0.8, 2)):
        best = _Best(bar, zero, zero, torch.tensor([0]), zero)
        offer(best, 1.0, 0.6, 0.1)
        offer(best, 2.0, 0.9, 0.2)
        assert best.adv_images.item() == wins


class NaNForOne(CAM):
    """A map that is NaN for one image of the batch."""

    def __init__(self, index: int) -> None:
        super().__init__()
        self.index = index

    def forward(self, classifier, images, target_class, state=()):
        result = super().forward(classifier, images, target_class, state)
        factor = torch.ones(len(images), 1, 1, 1, dtype=images.dtype)
        factor[self.index] = NAN
        return Interpretation(result.logits, result.attribution_map * factor)


@pytest.mark.parametrize("attack", [adv2_cam(steps=10), pgd(steps=10)], ids=["adv2", "pgd"])
def test_promise_13_a_nan_map_is_invalid_and_leaves_its_neighbours_alone(attack):
    classifier, images = small_classifier(dtype=torch.float64), lattice_images(4, dtype=torch.float64)
    target_class = other_class(classifier, images)
    target_map = CAM().explain(classifier, images, target_class).attribution_map
    clean = run_attack(attack, classifier, CAM(), images, target_class, target_map)
    broken = run_attack(attack, classifier, NaNForOne(2), images, target_class, target_map)
    assert clean.valid.all()
    assert clean.success[2], "the broken image would have failed anyway: nothing was tested"
    assert broken.valid.tolist() == [True, True, False, True]
    assert not broken.success[2]
    others = [0, 1, 3]
    assert torch.equal(broken.adv_images[others], clean.adv_images[others])
    torch.testing.assert_close(broken.score[others], clean.score[others], rtol=0, atol=1e-9)
    assert torch.equal(broken.success[others], clean.success[others])
    assert broken.adv_images.isfinite().all()


class NaNAtStep(CAM):
    """A map that is NaN once, in the middle."""

    def __init__(self, call: int) -> None:
        super().__init__()
        self.calls, self.call = 0, call

    def forward(self, classifier, images, target_class, state=()):
        result = super().forward(classifier, images, target_class, state)
        self.calls += 1
        factor = torch.ones(len(images), 1, 1, 1)
        if self.calls == self.call:
            factor[0] = NAN
        return Interpretation(result.logits, result.attribution_map * factor)


def test_promise_13_a_nan_at_one_step_is_not_forgotten():
    classifier, images = small_classifier(), lattice_images(2)
    target_class = other_class(classifier, images)
    target_map = CAM().explain(classifier, images, target_class).attribution_map
    result = run_attack(adv2_cam(steps=8), classifier, NaNAtStep(4), images, target_class, target_map)
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
    ],
)
def test_an_attack_that_makes_no_sense_is_refused(arguments, message):
    step = GradientStep([TargetClass()], optim.sign(), Ramp(0.1, 0.1))
    stages = [Stage(step, *s) for s in arguments.get("stages", [(3,)])]
    with pytest.raises(ValueError, match=message):
        Attack("x", "fast", PixelDelta(), stages, arguments.get("min_confidence", 0.8))


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
