"""The attacks on MASK: Algorithm 1's devices one by one, and the first-order attack on the network's answers."""

from __future__ import annotations

import pytest
import torch
from cases import lattice_images, other_class, small_classifier
from torch import Tensor, nn

from lightning_adv2.attacks import AttackInputs, FlowField, PixelDelta, Ramp, Stage, TargetMap, run_attack
from lightning_adv2.attacks.attack import Attack
from lightning_adv2.attacks.bilevel import BilevelStep, margin
from lightning_adv2.attacks.dispatch import adv2_attack
from lightning_adv2.attacks.footprint import GraphMeter
from lightning_adv2.attacks.presets_mask import adv2_mask
from lightning_adv2.attacks.response import ResponseStep
from lightning_adv2.functional import optim
from lightning_adv2.functional.agreement import map_l1
from lightning_adv2.functional.losses import map_mse
from lightning_adv2.functional.masking import blend
from lightning_adv2.functional.random import image_generators
from lightning_adv2.interpreters import CAM, MASK


def setting(count: int = 3, **options) -> AttackInputs:
    classifier = small_classifier(dtype=torch.float64).requires_grad_(False)
    images = lattice_images(count, seed=8, dtype=torch.float64)
    target, mask = other_class(classifier, images), MASK(**{"iterations": 6, "start": 0.5, **options})
    wanted = mask.explain(classifier, images, classifier(images).argmax(1)).attribution_map
    return AttackInputs(classifier, mask, images, target, wanted, image_generators(0, [str(i) for i in range(count)]))


def walk(step, inputs: AttackInputs, steps: int, perturbation=None) -> tuple[Tensor, tuple, list]:
    perturbation = perturbation or PixelDelta(0.1)
    parameter = perturbation.init(inputs.images, inputs.generators)
    state, reports = step.init(inputs, parameter), []
    for k in range(steps):
        parameter, state, seen = step(inputs, perturbation, parameter, state, k / steps)
        reports.append(seen)
    return parameter, state, reports


def attacked(inputs: AttackInputs, step, steps: int) -> Tensor:
    attack = Attack("adv2", "fast", PixelDelta(0.1), [Stage(step, steps)])
    result = run_attack(
        attack, inputs.classifier, inputs.interpreter, inputs.images, inputs.target_class, inputs.target_map
    )
    return result.adv_images


def test_margin_by_hand():
    logits = torch.tensor([[3.0, 1.0, 2.5], [0.0, 4.0, 1.0]])
    assert torch.equal(margin(logits, torch.tensor([0, 2])), torch.tensor([0.5, -3.0]))


@pytest.mark.parametrize(("plain", "unrolled", "average"), [(0, 3, True), (2, 3, True), (2, 3, False)])
def test_lookahead_is_the_map_loss_of_the_iterations_to_come(plain, unrolled, average):
    inputs = setting()
    state = inputs.interpreter.init_state(inputs.classifier, inputs.images, inputs.target_class)
    expected, s = [], state
    for _ in range(plain + unrolled):
        s = inputs.interpreter.advance(inputs.classifier, inputs.images, inputs.target_class, s)
        expected.append(map_mse(1 - s[0], inputs.target_map))
    wanted = torch.stack(expected[plain:]).mean(0) if average else expected[-1]
    step = BilevelStep(plain=plain, unrolled=unrolled, average=average)
    loss, inner = step.lookahead(inputs, inputs.images.clone().requires_grad_(), state)
    torch.testing.assert_close(loss.detach(), wanted)
    torch.testing.assert_close(inner[0], s[0])
    assert not any(leaf.requires_grad for leaf in (inner[0], *inner[1]))


def test_recomputed_the_lookahead_has_the_same_gradient_in_less_memory():
    inputs = setting()
    state = inputs.interpreter.explain(inputs.classifier, inputs.images, inputs.target_class).state
    found = []
    for checkpoint in (False, True):
        meter, leaf = GraphMeter(), inputs.images.clone().requires_grad_()
        with meter.open():
            loss, _ = BilevelStep(checkpoint=checkpoint).lookahead(inputs, leaf, state)
            (gradient,) = torch.autograd.grad(loss.sum(), leaf)
        found.append((gradient, meter.peak))
    (plain, most), (recomputed, least) = found
    assert plain.abs().max() > 0
    torch.testing.assert_close(recomputed, plain, rtol=1e-9, atol=1e-15)
    assert least < 0.5 * most


def test_the_lookaheads_gradient_matches_finite_differences():
    inputs = setting(2)
    state = inputs.interpreter.init_state(inputs.classifier, inputs.images, inputs.target_class)
    step = BilevelStep(plain=0, unrolled=4)
    leaf = inputs.images.clone().requires_grad_()
    (gradient,) = torch.autograd.grad(step.lookahead(inputs, leaf, state)[0].sum(), leaf)
    generator, close = torch.Generator().manual_seed(0), []
    for _ in range(6):
        direction = torch.randn(leaf.shape, generator=generator).double()
        up, down = (step.lookahead(inputs, inputs.images + s * 1e-6 * direction, state)[0] for s in (1, -1))
        analytical = (gradient * direction).flatten(1).sum(1)
        close.append(((up - down) / 2e-6 - analytical).abs() <= 1e-3 * analytical.abs() + 1e-6)
    assert torch.stack(close).double().mean() >= 0.8  # a step may cross a ReLU's kink


class Line(nn.Module):
    """Its margin for class 1 is 10 times the mean of the image, minus 5."""

    def forward(self, images: Tensor) -> Tensor:
        mean = images.mean((1, 2, 3))
        return torch.stack([torch.zeros_like(mean), 10 * mean - 5], 1)


@pytest.mark.parametrize(("kappa", "expected"), [(1.5, 0.05), (0.5, 0.08), (3.0, 0.0)])
def test_the_bisection_finds_the_longest_legal_move(kappa, expected):
    """In closed form: from mean 0.7 (margin 2) every pixel sinks by the step's length: margin 2 - 10 length."""
    inputs = setting(2)
    inputs.classifier, inputs.target_class = Line(), torch.tensor([1, 1])
    inputs.images = torch.full_like(inputs.images, 0.7)
    perturbation, flat = PixelDelta(0.5), torch.ones_like(inputs.images)
    perturbation.apply = lambda images, parameter: images + parameter  # without the 8 bits
    moved = BilevelStep(kappa=kappa)._map_move(inputs, perturbation, torch.zeros_like(flat), flat, 0.08)
    torch.testing.assert_close(-moved, expected * flat, rtol=0, atol=0.08 / 2**10)
    always = BilevelStep(kappa=kappa, halvings=0)._map_move(inputs, perturbation, torch.zeros_like(flat), flat, 0.08)
    torch.testing.assert_close(-always, 0.08 * flat)


def test_the_move_for_the_map_keeps_the_confidence_of_each_image():
    inputs = setting(4)
    step, perturbation = BilevelStep(kappa=1.0, map_step=0.5, reset=0), PixelDelta(0.1)
    parameter, _, _ = walk(BilevelStep(class_step=0.5, kappa=1.0, map_step=1e-6), inputs, 25)
    logits = inputs.classifier(perturbation.apply(inputs.images, parameter))
    ahead = margin(logits, inputs.target_class) >= 1.0
    assert ahead.any()
    direction = torch.randn(parameter.shape, generator=torch.Generator().manual_seed(1)).double()
    direction /= direction.flatten(1).norm(dim=1).view(-1, 1, 1, 1)
    moved = step._map_move(inputs, perturbation, parameter, direction, 0.5)
    after = margin(inputs.classifier(perturbation.apply(inputs.images, moved)), inputs.target_class)
    assert (after[ahead] >= 1.0).all()
    assert torch.equal(moved[~ahead], parameter[~ahead])


def test_a_reset_takes_a_fresh_map_and_damps_adam():
    inputs = setting()
    step = BilevelStep(reset=2, class_step=0.5)
    parameter, state, _ = walk(step, inputs, 2)
    adv_images = PixelDelta(0.1).apply(inputs.images, parameter)
    fresh = inputs.interpreter.explain(inputs.classifier, adv_images, inputs.target_class)
    seen_states = []
    step.lookahead = lambda p, x, inner: (seen_states.append(inner), BilevelStep.lookahead(step, p, x, inner))[1]
    _, _, seen = step(inputs, PixelDelta(0.1), parameter, state, 0.5)
    mask, (mean, variance, count) = seen_states[0]
    torch.testing.assert_close(1 - mask, fresh.attribution_map)
    torch.testing.assert_close(mean, 0.5 * state[1][1][0])
    torch.testing.assert_close(variance, 0.25 * state[1][1][1])
    assert torch.equal(count, state[1][1][2])
    torch.testing.assert_close(seen.interpretation.attribution_map, fresh.attribution_map)


@pytest.mark.parametrize("step", [BilevelStep(reset=3), ResponseStep(optim.sign(), Ramp(0.01, 0.0), refresh=3)])
def test_only_maps_from_scratch_are_reported(step):
    """Otherwise the engine would keep an iterate for a map that it does not have."""
    inputs = setting()
    _, _, reports = walk(step, inputs, 5)
    for seen in reports:
        fresh = inputs.interpreter.explain(inputs.classifier, seen.adv_images, inputs.target_class)
        torch.testing.assert_close(seen.interpretation.attribution_map, fresh.attribution_map)
        torch.testing.assert_close(seen.interpretation.logits, fresh.logits)
    assert torch.equal(reports[2].adv_images, reports[0].adv_images)
    assert not torch.equal(reports[3].adv_images, reports[0].adv_images)


SWITCHES = [
    {"plain": 0},
    {"unrolled": 1},
    {"average": False},
    {"halvings": 0},
    {"reset": 0},
    {"class_step": 0.0},
]


@pytest.mark.parametrize("switch", SWITCHES, ids=lambda switch: next(iter(switch)))
def test_every_device_can_be_switched_and_matters(switch):
    inputs, base = setting(), {"class_step": 0.5, "map_step": 0.3, "kappa": 2.0, "reset": 3}
    usual, _, _ = walk(BilevelStep(**base), inputs, 8)
    other, _, reports = walk(BilevelStep(**base | switch), inputs, 8)
    assert not torch.equal(usual, other)
    assert all(seen.finite.all() for seen in reports)


@pytest.mark.parametrize(
    "step",
    [BilevelStep(class_step=0.5, kappa=0.5, reset=3), ResponseStep(optim.adam(0.5, 0.5), Ramp(0.02, 0.0), refresh=3)],
)
def test_a_batch_equals_its_images_one_by_one(step):
    inputs = setting(4)
    together, _, _ = walk(step, setting(4), 6)
    for i in range(4):
        one = slice(i, i + 1)
        generators = image_generators(0, [str(i)])
        alone = AttackInputs(
            inputs.classifier,
            inputs.interpreter,
            inputs.images[one],
            inputs.target_class[one],
            inputs.target_map[one],
            generators,
        )
        torch.testing.assert_close(walk(step, alone, 6)[0], together[one], rtol=0, atol=1e-9)


@pytest.mark.parametrize(
    "step", [BilevelStep(class_step=0.05), ResponseStep(optim.adam(0.5, 0.5), Ramp(0.1, 0.0))], ids=["paper", "fast"]
)
def test_the_steps_move_a_flow_as_well(step):
    parameter, _, reports = walk(step, setting(), 3, FlowField())
    assert parameter.shape == (3, 2, 16, 16)
    assert parameter.isfinite().all()
    assert all(seen.finite.all() for seen in reports)


def test_the_answer_grows_with_the_share_of_the_target_that_a_mask_keeps():
    step = ResponseStep(optim.sign(), Ramp(1.0, 1.0), slope=10.0, floor=0.5, clip=3.0)
    target_map = torch.tensor([[1.0, 0.5], [0.5, 0.0]]).view(1, 1, 2, 2)
    masks = torch.stack([torch.ones(2, 2), torch.zeros(2, 2), torch.tensor([[0.6, 0.6], [0.6, 0.0]])])
    masks = torch.cat([masks, 1 - target_map[0]]).view(1, 4, 1, 2, 2)
    expected = torch.tensor([[3.0, -3.0, 1.0, 10 * (0.25 - 0.5)]])
    torch.testing.assert_close(step.answer(masks, target_map), expected)
    assert step.answer(masks, torch.zeros_like(target_map)).isfinite().all()


def test_algorithm_1_brings_the_map_closer_than_its_class_step_alone():
    """Measured from scratch, on the final 8-bit images; both reach the target class."""
    inputs, found = setting(3, iterations=12), {}
    for name, map_step in (("class", 1e-9), ("both", 0.3)):
        adv_images = attacked(inputs, BilevelStep(class_step=0.1, map_step=map_step, kappa=0.5, reset=5), 20)
        found[name] = inputs.interpreter.explain(inputs.classifier, adv_images, inputs.target_class)
        assert (found[name].logits.argmax(1) == inputs.target_class).all()
    l1 = {name: map_l1(f.attribution_map, inputs.target_map).mean() for name, f in found.items()}
    assert l1["both"] < 0.6 * l1["class"]


def test_the_first_order_attack_shapes_the_answers_to_masks_that_it_never_saw():
    """Held-out masks, uniform noise: the margins come to follow the share of the target map that is kept."""
    inputs, perturbation = setting(4), PixelDelta(0.1)
    step = ResponseStep(optim.adam(0.5, 0.5), Ramp(0.03, 0.0), own=0.0)
    masks = torch.rand(4, 16, 1, 4, 4, generator=torch.Generator().manual_seed(9)).double()
    wanted = step.answer(masks, inputs.target_map)

    def error(parameter: Tensor) -> Tensor:
        adv_images = perturbation.apply(inputs.images, parameter)
        background = inputs.interpreter.background(adv_images)
        answers = [
            margin(inputs.classifier(blend(adv_images, background, masks[:, k])), inputs.target_class)
            for k in range(16)
        ]
        return (torch.stack(answers, 1).clamp(-4, 4) - wanted).abs().mean(1)

    parameter, _, _ = walk(step, inputs, 20, perturbation)
    assert error(parameter).mean() < 0.8 * error(torch.zeros_like(parameter)).mean()


def test_presets():
    paper, fast = adv2_mask("paper"), adv2_attack(MASK())
    assert [stage.steps for stage in paper.stages] == [400, 500, 500]
    assert [stage.step.map_step(0.5) for stage in paper.stages[1:]] == [0.08, 0.04]
    assert (paper.schedule, fast.schedule, fast.name) == ("paper", "fast", "adv2")
    assert fast.steps * 5 <= paper.steps
    assert [s.steps for s in adv2_mask("paper", steps=3, warm_start=0, kappa=1.0).stages] == [2, 1]
    assert [type(s.step).__name__ for s in adv2_mask(steps=7, warm_start=2).stages] == [
        "GradientStep",
        "ResponseStep",
        "BilevelStep",
    ]


def test_wrong_uses_are_refused():
    for wrong in ({"unrolled": 0}, {"reset": -1}, {"map_step": 0.0}, {"terms": [TargetMap()]}):
        with pytest.raises(ValueError, match=next(iter(wrong))):
            BilevelStep(**wrong)
    for wrong in ({"masks": 0}, {"own": 2.0}, {"terms": [TargetMap()]}):
        with pytest.raises(ValueError, match=next(iter(wrong))):
            ResponseStep(optim.sign(), Ramp(1.0, 1.0), **wrong)
    inputs = setting()
    inputs.interpreter = CAM()
    with pytest.raises(ValueError, match="interpreter: this step looks into MASK"):
        BilevelStep().init(inputs, inputs.images)
