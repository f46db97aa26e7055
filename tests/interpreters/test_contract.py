"""What every interpreter promises; one row in ``cases.INTERPRETERS`` buys all of it."""

from __future__ import annotations

from contextlib import nullcontext

import pytest
import torch
from cases import BY_NAME, INTERPRETERS, NUM_CLASSES, SIDE, VIT_INTERPRETERS, InterpreterCase, lattice_images
from torch import Tensor, nn

from lightning_adv2.interpreters import Interpreter
from lightning_adv2.models import Classifier, Surrogate, weights_hash

CASES = (*INTERPRETERS, *VIT_INTERPRETERS)
each = pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
CLAIMS = [(case, surrogate) for case in CASES for surrogate in case.surrogates]
CLAIM_IDS = [f"{case.name}-{type(s).__name__ if s else 'plain'}" for case, s in CLAIMS]
TARGET = torch.tensor([0, 1, 2, 3, 1])


def setting(case: InterpreterCase, dtype: torch.dtype = torch.float64) -> tuple[Classifier, Interpreter, Tensor]:
    classifier = case.classifier(dtype=dtype)
    return classifier, case.build(classifier), lattice_images(5, seed=3, dtype=dtype)


@each
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_shape_range_and_logits(case, dtype):
    classifier, interpreter, images = setting(case, dtype)
    result = interpreter(classifier, images, TARGET)
    side = case.map_side(SIDE)
    assert result.attribution_map.shape == (5, 1, side, side)
    assert result.attribution_map.dtype == dtype
    assert ((result.attribution_map >= 0) & (result.attribution_map <= 1)).all()
    torch.testing.assert_close(result.logits, classifier(images))
    assert interpreter.name == interpreter.name.lower()


@each
def test_the_map_depends_on_image_and_class(case):
    classifier, interpreter, images = setting(case)
    base = interpreter.explain(classifier, images, TARGET).attribution_map
    other_class = interpreter.explain(classifier, images, (TARGET + 1) % NUM_CLASSES).attribution_map
    other_image = interpreter.explain(classifier, images.flip(0), TARGET).attribution_map
    assert (base - other_class).abs().amax((1, 2, 3)).min() > 1e-3
    assert (base - other_image)[[0, 1, 3, 4]].abs().amax((1, 2, 3)).min() > 1e-3


@pytest.mark.parametrize(("case", "surrogate"), CLAIMS, ids=CLAIM_IDS)
def test_the_gradient_of_the_map_matches_finite_differences(case: InterpreterCase, surrogate: Surrogate | None):
    classifier, interpreter, images = setting(case)
    generator = torch.Generator().manual_seed(4)
    # An uneven weight: min-max maps have pixels fixed at 0 and 1, an even sum would hide what they do.
    weight = torch.randn(1, 1, case.map_side(SIDE), case.map_side(SIDE), generator=generator).double()

    def value(x: Tensor) -> Tensor:
        with surrogate or nullcontext():
            return (interpreter(classifier, x, TARGET).attribution_map * weight).sum((1, 2, 3))

    leaf = images.clone().requires_grad_()
    (gradient,) = torch.autograd.grad(value(leaf).sum(), leaf)
    assert gradient.isfinite().all()
    assert gradient.flatten(1).norm(dim=1).min() > 1e-3
    # The map is smooth but for a null set (a ReLU's or |.|'s kink, ties of a maximum). A step of 1e-6 crosses one
    # about once in a thousand units, so that a few of the 50 comparisons may meet one: ask for 9 of 10.
    step, close = 1e-6, []
    directions = [torch.randn(images.shape, generator=generator).double() for _ in range(6)]
    for _ in range(4):  # single pixels as well: a wrong border or channel disappears in a random direction
        pixel = torch.zeros_like(images)
        pixel.flatten(1).scatter_(1, torch.randint(pixel[0].numel(), (5, 1), generator=generator), 1.0)
        directions.append(pixel)
    for direction in directions:
        numerical = (value(images + step * direction) - value(images - step * direction)).detach() / (2 * step)
        analytical = (gradient * direction).flatten(1).sum(1)
        scale = gradient.flatten(1).norm(dim=1) * direction.flatten(1).norm(dim=1) / images[0].numel() ** 0.5
        close.append((numerical - analytical).abs() <= 1e-3 * analytical.abs() + 1e-3 * scale)
    assert torch.stack(close).double().mean() >= 0.9


def test_grad_of_a_plain_relu_network_has_no_slope():
    """Why GRAD's attack needs a surrogate: the logits are piecewise linear, so their gradient is piecewise constant."""
    classifier, interpreter, images = setting(BY_NAME["grad"])
    leaf = images.clone().requires_grad_()
    attribution_map = interpreter(classifier, leaf, TARGET).attribution_map
    (slope,) = torch.autograd.grad(attribution_map.sum(), leaf)
    assert torch.equal(slope, torch.zeros_like(slope))
    step = 1e-9 * torch.randn(images.shape, generator=torch.Generator().manual_seed(0)).double()
    moved = interpreter.explain(classifier, images + step, TARGET).attribution_map
    torch.testing.assert_close(moved, attribution_map.detach(), atol=1e-12, rtol=0)


@each
def test_promise_3_a_batch_equals_its_images_and_order_does_not_matter(case):
    classifier, interpreter, images = setting(case)
    together = interpreter.explain(classifier, images, TARGET)
    for i in range(5):
        alone = interpreter.explain(classifier, images[i : i + 1], TARGET[i : i + 1])
        torch.testing.assert_close(alone.attribution_map[0], together.attribution_map[i], rtol=0, atol=1e-10)
        torch.testing.assert_close(alone.logits[0], together.logits[i], rtol=0, atol=1e-10)
    order = torch.tensor([3, 0, 4, 2, 1])
    permuted = interpreter.explain(classifier, images[order], TARGET[order])
    torch.testing.assert_close(permuted.attribution_map, together.attribution_map[order], rtol=0, atol=1e-10)


@each
def test_a_gradient_belongs_to_its_own_image(case):
    """The map of one image must not depend on the pixels of another."""
    classifier, interpreter, images = setting(case)
    surrogate = next((s for s in case.surrogates if s is not None), None)
    leaf = images.clone().requires_grad_()
    with surrogate or nullcontext():
        attribution_map = interpreter(classifier, leaf, TARGET).attribution_map
    (gradient,) = torch.autograd.grad(attribution_map[2].square().sum(), leaf)
    assert gradient[2].any()
    assert not gradient[[0, 1, 3, 4]].any()


@each
def test_deterministic_and_silent_towards_the_global_random_numbers(case):
    classifier, interpreter, images = setting(case)
    before = torch.get_rng_state()
    first, second = (interpreter.explain(classifier, images, TARGET).attribution_map for _ in range(2))
    assert torch.equal(first, second)
    assert torch.equal(torch.get_rng_state(), before)


def snapshot(module: nn.Module) -> list[object]:
    hooks = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")
    return [
        weights_hash(module),
        [m.training for m in module.modules()],
        [p.requires_grad for p in module.parameters()],
        [p.grad is None for p in module.parameters()],
        [len(getattr(m, kind)) for m in module.modules() for kind in hooks],
    ]


@each
@pytest.mark.parametrize("how", ["explain", "forward"])
def test_promise_23_nothing_changes_in_the_victim(case, how):
    classifier, interpreter, images = setting(case)
    before, own = snapshot(classifier), snapshot(interpreter)
    if how == "explain":
        interpreter.explain(classifier, images, TARGET)
    else:
        leaf = images.clone().requires_grad_()
        torch.autograd.grad(interpreter(classifier, leaf, TARGET).attribution_map.sum(), leaf)
        assert leaf.grad is None
    assert snapshot(classifier) == before
    assert snapshot(interpreter) == own
    assert not images.requires_grad
    assert images.grad is None


@each
def test_explain_is_detached_also_under_no_grad(case):
    classifier, interpreter, images = setting(case)
    plain = interpreter.explain(classifier, images.clone().requires_grad_(), TARGET)
    for tensor in (plain.attribution_map, plain.logits, *plain.aux.values()):
        assert not tensor.requires_grad
    with torch.no_grad():
        quiet = interpreter.explain(classifier, images, TARGET)
        called = interpreter(classifier, images, TARGET)
    assert torch.equal(quiet.attribution_map, plain.attribution_map)
    assert not called.attribution_map.requires_grad
    assert not called.logits.requires_grad


@each
def test_forward_keeps_the_graph_of_map_and_logits(case):
    classifier, interpreter, images = setting(case)
    result = interpreter(classifier, images.clone().requires_grad_(), TARGET)
    assert result.attribution_map.requires_grad
    assert result.logits.requires_grad


@each
def test_promise_13_a_nan_pixel_gives_a_nan_map_for_its_image_alone(case):
    classifier, interpreter, images = setting(case)
    clean = interpreter.explain(classifier, images, TARGET).attribution_map
    broken = images.clone()
    broken[1] = float("nan")
    spoiled = interpreter.explain(classifier, broken, TARGET).attribution_map
    assert spoiled[1].isnan().any(), "NaN must stay visible: a neutral map would count as a robust one"
    others = [0, 2, 3, 4]
    torch.testing.assert_close(spoiled[others], clean[others], rtol=0, atol=1e-10)


@each
def test_an_empty_batch(case):
    classifier, interpreter, images = setting(case)
    result = interpreter.explain(classifier, images[:0], TARGET[:0])
    side = case.map_side(SIDE)
    assert result.attribution_map.shape == (0, 1, side, side)
    assert result.logits.shape == (0, NUM_CLASSES)


@each
def test_one_interpreter_explains_another_classifier(case):
    _, interpreter, images = setting(case)
    other = case.classifier(seed=5, dtype=torch.float64)
    torch.testing.assert_close(interpreter.explain(other, images, TARGET).logits, other(images).detach())
