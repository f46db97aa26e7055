from __future__ import annotations

import pytest
import torch
from cases import ATTACKS, BY_NAME, AttackCase, lattice_images, other_class, small_classifier
from torch import Tensor
from toys import AlteredCAM, search

from lightning_adv2.attacks import (
    Attack,
    AttackInputs,
    AttackResult,
    GradientStep,
    PixelDelta,
    Pixels,
    Ramp,
    Stage,
    TargetClass,
    TargetMap,
    adv2_cam,
    adv2_grad,
    checked_inputs,
    optimise,
    pgd,
)
from lightning_adv2.attacks.diagnosis import diagnose, flags
from lightning_adv2.functional import optim
from lightning_adv2.interpreters import CAM, Gradient, Interpreter
from lightning_adv2.models import Classifier, PaperReLU, Softplus, weights_hash
from lightning_adv2.types import Interpretation

COUNT = 6
EVERYONE = tuple(range(COUNT))
each = pytest.mark.parametrize("case", ATTACKS, ids=lambda case: case.name)


GENERATOR = torch.Generator().manual_seed(0)


class Around(Classifier):
    """A sound classifier with something wrong before it or behind it."""

    def __init__(self, inside: Classifier) -> None:
        super().__init__((0.0, 0.0, 0.0), (1.0, 1.0, 1.0))
        self.inside, self.num_classes = inside, inside.num_classes
        self.eval()

    def before(self, images: Tensor) -> Tensor:
        return images

    def behind(self, logits: Tensor) -> Tensor:
        return logits

    def stages(self):
        return [self.before, self.inside.forward_features]

    def forward_head(self, features: Tensor) -> Tensor:
        return self.behind(self.inside.forward_head(features))

    def class_weight(self) -> Tensor:
        return self.inside.class_weight()


class Random(Around):
    def before(self, images: Tensor) -> Tensor:
        return images + 0.02 * torch.randn(images.shape, generator=GENERATOR)


class Softmax(Around):
    def behind(self, logits: Tensor) -> Tensor:
        return logits.softmax(1)


class Rounded(Around):
    levels = 255

    def before(self, images: Tensor) -> Tensor:
        return (images * self.levels).round() / self.levels


class Coarse(Rounded):
    levels = 7


class Detached(Around):
    def before(self, images: Tensor) -> Tensor:
        return images.detach()


class Inverted(Around):
    """The right logits, their gradient with the wrong sign."""

    def before(self, images: Tensor) -> Tensor:
        return 2 * images.detach() - images


class NaNGradient(Around):
    """The right logits; the gradient of a square root at zero times zero is NaN."""

    def before(self, images: Tensor) -> Tensor:
        return images + 0 * (images - images.detach()).sqrt()


class Rippled(Around):
    """Right but for a ripple too small to see, whose slope drowns the network's."""

    def before(self, images: Tensor) -> Tensor:
        return images + 1e-5 * torch.sin(1e7 * images)


class Sound(Around):
    pass


class StraightThrough(Around):
    """Rounds the image and lets the gradient pass, as defences are rightly attacked."""

    def before(self, images: Tensor) -> Tensor:
        return images + ((images * 15).round() / 15 - images).detach()


def attacked(
    attack: Attack, classifier: Classifier, interpreter: Interpreter | None = None, target_map: Tensor | None = None
) -> tuple[Attack, AttackInputs, AttackResult]:
    """All that a diagnosis takes, once the attack has run."""
    images = lattice_images(COUNT, seed=4)
    target_class = other_class(small_classifier(), images)
    if target_map is None and interpreter is not None:
        target_map = interpreter.explain(classifier, images, (target_class - 1) % 4).attribution_map
    inputs = checked_inputs(classifier, interpreter, images, target_class, target_map)
    return attack, inputs, optimise(attack, inputs)


def found(*given: object) -> dict[str, tuple[int, ...]]:
    return {flag.name: flag.images for flag in diagnose(*given)}


@pytest.mark.parametrize("seed", range(4))
def test_promise_20_a_sound_network_raises_no_flag(seed):
    classifier = small_classifier(seed)
    assert found(*attacked(pgd(epsilon=0.1), classifier)) == {}
    assert found(*attacked(pgd(epsilon=0.1), Sound(classifier))) == {}


@each
def test_promise_20_a_sound_victim_raises_no_flag_under_any_ready_attack(case: AttackCase):
    classifier = small_classifier()
    interpreter = BY_NAME[case.interpreter].build(classifier) if case.interpreter else None
    assert found(*attacked(case.short(8, epsilon=0.1), classifier, interpreter)) == {}


@pytest.mark.parametrize("name", sorted(BY_NAME))
def test_promise_20_a_sound_interpreter_raises_no_flag(name):
    classifier, case = small_classifier(), BY_NAME[name]
    full = case.attack()
    stages = [Stage(stage.step, 12) for stage in full.stages]
    attack = Attack(full.name, full.schedule, full.perturbation, stages)
    assert found(*attacked(attack, classifier, case.build(classifier))) == {}


@pytest.mark.parametrize(
    ("victim", "flag"),
    [
        (Random, "random_network"),
        (Softmax, "softmax_outputs"),
        (Rounded, "masked_gradient"),
        (Coarse, "masked_gradient"),
        (Detached, "masked_gradient"),
        (Inverted, "masked_gradient"),
        (NaNGradient, "masked_gradient"),
        (Rippled, "masked_gradient"),
    ],
)
def test_promise_20_a_broken_classifier_raises_its_flag_for_every_image(victim, flag):
    broken = victim(small_classifier())
    given = attacked(pgd(steps=2), Sound(small_classifier()))
    given[1].classifier = broken
    raised = found(*given)
    assert raised.pop(flag) == EVERYONE
    assert raised.keys() <= {"unused_budget"}, "one cause, one flag"


def test_promise_20_a_straight_through_gradient_is_sound():
    assert found(*attacked(pgd(epsilon=0.1), StraightThrough(small_classifier()))) == {}


def test_promise_20_a_network_that_nothing_moves_is_robust_not_masked():
    flat = small_classifier()
    with torch.no_grad():
        flat.linear.weight.zero_()
    assert "masked_gradient" not in found(*attacked(pgd(steps=2), flat))


class RoundedDark(Around):
    """Rounds the images whose corner is dark."""

    def before(self, images: Tensor) -> Tensor:
        dark = images[:, :1, :1, :1] < 0.5
        return torch.where(dark, (images * 255).round() / 255, images)


def test_promise_3_and_20_a_flag_names_its_images_whoever_else_is_in_the_batch():
    given = attacked(pgd(steps=2), Sound(small_classifier()))
    inputs = given[1]
    inputs.classifier, inputs.images = RoundedDark(small_classifier()), inputs.images.clone()
    inputs.images[:, :, 0, 0] = torch.tensor([0.2, 0.8, 0.8, 0.2, 0.8, 0.2])[:, None]
    assert found(*given)["masked_gradient"] == (0, 3, 5)
    (flag,) = [f for f in diagnose(*given) if f.name == "masked_gradient"]
    assert "3 of 6 images" in str(flag)


def noisy(shown: Tensor, *_: Tensor) -> Tensor:
    return 0.9 * shown + 0.1 * torch.rand(shown.shape, generator=GENERATOR)


@pytest.mark.parametrize(
    ("alter", "expected"),
    [
        pytest.param(lambda shown, *_: (shown * 10).round() / 10, {"no_map_gradient"}, id="rounded"),
        pytest.param(lambda shown, *_: shown.detach(), {"no_map_gradient"}, id="detached"),
        # The minimum is 0.
        pytest.param(lambda shown, *_: shown.sqrt(), {"no_map_gradient"}, id="slope is NaN"),
        pytest.param(lambda shown, *_: 0.5 + 0 * shown, {"constant_map", "no_map_gradient"}, id="constant"),
        pytest.param(noisy, {"random_map"}, id="random"),
    ],
)
def test_promise_20_a_broken_interpreter_raises_its_flag_for_every_image(alter, expected):
    given = attacked(adv2_cam(steps=12, threat_model=Pixels(0.1)), small_classifier(), CAM())
    inputs = given[1]
    inputs.interpreter = AlteredCAM(alter)
    if "constant_map" in expected:
        inputs.target_map = torch.full_like(inputs.target_map, 0.5)
    assert found(*given) == dict.fromkeys(expected, EVERYONE)


def test_promise_20_what_a_search_does_not_use_is_no_reason_to_doubt_it():
    opaque = AlteredCAM(lambda shown, *_: shown.detach())
    opaque.differentiable = False
    attack, inputs, result = attacked(search(60), small_classifier(), opaque)
    inputs.classifier = Rounded(small_classifier())
    assert found(attack, inputs, result) == {}
    inputs.interpreter = AlteredCAM(noisy)
    assert found(attack, inputs, result) == {"random_map": EVERYONE}
    # The step that follows the gradient is asked, whatever comes after it.
    mixed = adv2_cam(steps=2).staged([*adv2_cam(steps=2).stages, *attack.stages])
    inputs.interpreter = opaque
    assert found(mixed, inputs, result) == {"masked_gradient": EVERYONE, "no_map_gradient": EVERYONE}


@pytest.mark.parametrize(
    ("surrogate", "expected"),
    [(None, {"no_map_gradient": EVERYONE}), (Softplus(50.0), {}), (PaperReLU(), {})],
    ids=["plain", "softplus", "paper"],
)
def test_promise_20_grad_needs_a_surrogate_and_the_steps_own_is_used(surrogate, expected):
    step = GradientStep([TargetClass(), TargetMap(50.0)], optim.adam(0.5, 0.5), Ramp(4 / 255, 0.0), surrogate)
    attack = Attack("adv2", "mine", PixelDelta(0.1), [Stage(step, 12)])
    assert found(*attacked(attack, small_classifier(), Gradient(pool=2))) == expected


def test_promise_20_a_map_without_variety_is_named_by_image():
    attack, inputs, result = attacked(adv2_cam(steps=12, threat_model=Pixels(0.1)), small_classifier(), CAM())
    inputs.target_map = inputs.target_map.clone()
    inputs.target_map[2] = 0.0
    result.attribution_map[4] = 1.0
    assert found(attack, inputs, result) == {"constant_map": (2, 4)}


class Slow(Interpreter):
    """An iterative interpreter: from its start on it moves towards the image's grey, at first like any other."""

    def __init__(self, rounded: bool) -> None:
        super().__init__()
        self.rounded, self.asked = rounded, 0

    def init_state(self, classifier, images, class_idx):
        return (images.new_full((len(images), 1, *images.shape[2:]), 0.5), images.new_zeros(len(images)))

    def advance(self, classifier, images, class_idx, state):
        self.asked += 1
        mask, count = state
        away = images.mean(1, keepdim=True) - mask
        return mask + 0.1 * torch.where((count > 1).view(-1, 1, 1, 1), away, away.sign()), count + 1

    def forward(self, classifier, images, class_idx, state=()):
        if not state:
            raise AssertionError("the whole optimisation is too dear for a diagnosis")
        state = self.advance(classifier, images, class_idx, state)
        shown = state[0].round() if self.rounded else state[0]
        return Interpretation(classifier(images), shown, state=state)


@pytest.mark.parametrize("rounded", [False, True])
def test_promise_20_an_iterative_interpreter_is_diagnosed_by_a_step_in_the_middle(rounded):
    _, inputs, result = attacked(pgd(epsilon=0.1), small_classifier())
    interpreter = Slow(rounded)
    step = GradientStep([TargetClass(), TargetMap(50.0)], optim.sign(), Ramp(1 / 255, 1 / 255))
    attack = Attack("adv2", "mine", PixelDelta(0.1), [Stage(step, 1)])
    inputs.interpreter, inputs.target_map = interpreter, inputs.images.mean(1, keepdim=True)
    assert found(attack, inputs, result) == ({"no_map_gradient": EVERYONE} if rounded else {})
    assert interpreter.asked <= 10


@pytest.mark.parametrize(("size", "expected"), [(0.1 / 255, True), (8 / 255, False)])
def test_promise_20_too_small_a_step_leaves_the_budget_unused(size, expected):
    step = GradientStep([TargetClass()], optim.sign(), Ramp(size, size))
    attack = Attack("pgd", "mine", PixelDelta(8 / 255), [Stage(step, 10)])
    given = attacked(attack, small_classifier())
    failed = tuple((~given[2].success).nonzero()[:, 0].tolist())
    assert failed or not expected, "all succeeded: nothing was tested"
    assert found(*given) == ({"unused_budget": failed} if expected else {})


def test_promise_20_an_invalid_image_has_a_status_of_its_own():
    broken = small_classifier()
    with torch.no_grad():
        broken.linear.weight.fill_(float("nan"))
    assert found(*attacked(pgd(steps=2), broken)) == {}


def test_promise_23_nothing_changes_and_nothing_is_drawn():
    classifier = small_classifier()
    given = attacked(adv2_grad(steps=3), classifier, Gradient(pool=2))
    first = next(classifier.parameters())
    first.grad = torch.ones_like(first)
    images = given[1].images
    before = weights_hash(classifier), torch.get_rng_state(), images.clone()
    text = flags(*given)
    with torch.no_grad():
        assert flags(*given) == text
    assert weights_hash(classifier) == before[0]
    assert torch.equal(torch.get_rng_state(), before[1])
    assert torch.equal(images, before[2])
    assert images.grad is None
    assert torch.equal(first.grad, torch.ones_like(first))
    assert [p.grad for p in classifier.parameters()][1:] == [None] * (len(list(classifier.parameters())) - 1)
    assert torch.nn.functional.relu(torch.zeros(1)) == 0  # no surrogate left open


def test_the_text_names_the_flag_and_the_remedy():
    given = attacked(pgd(steps=2), Sound(small_classifier()))
    given[1].classifier = Softmax(small_classifier())
    texts = flags(*given)
    assert any(t.startswith("softmax_outputs: ") and "before the softmax" in t and "6 of 6" in t for t in texts)


def test_an_empty_batch_raises_no_flag():
    attack, inputs, _ = attacked(pgd(steps=1), small_classifier())
    empty = checked_inputs(inputs.classifier, None, inputs.images[:0], inputs.target_class[:0])
    assert diagnose(attack, empty, optimise(attack, empty)) == []


def test_promise_23_inference_mode_gives_a_clear_error():
    given = attacked(pgd(steps=1), small_classifier())
    with torch.inference_mode(), pytest.raises(RuntimeError, match=r"inference_mode.*inference_mode=False"):
        diagnose(*given)
