"""What every attack promises; one row in ``cases.ATTACKS`` buys all of it."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from cases import ATTACKS
from torch import nn

from attacks.setting import Setting
from lightning_adv2.attacks import (
    EarlyStopping,
    make_accelerated_copy,
    run_attack,
)
from lightning_adv2.models import weights_hash

each = pytest.mark.parametrize("case", ATTACKS, ids=lambda case: case.name)


# What moves pixels about has no epsilon.
BUDGETS = [(case, epsilon) for case in ATTACKS for epsilon in ([0.031] if case.spatial else [0.031, 8 / 255, 1 / 255])]


@pytest.mark.parametrize(("case", "epsilon"), BUDGETS, ids=lambda value: getattr(value, "name", None))
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("high", [255, 12])  # dark images: where floats are dense, rounding has most room to go wrong
def test_promise_4_the_result_is_legal(case, dtype, epsilon, high):
    setting = Setting(case, dtype, high)
    adv_images = setting.run(case.short(epsilon=epsilon)).adv_images
    benign = np.rint(setting.images.numpy() * 255).astype(np.int64)
    stored = np.rint(adv_images.numpy() * 255).astype(np.int64)
    assert stored.min() >= 0
    assert stored.max() <= 255
    assert case.spatial or np.abs(stored - benign).max() <= math.floor(epsilon * 255 + 1e-3)
    assert np.abs(stored - benign).max() > 0, "an attack that moves nothing is legal, too"
    # Exactly what an 8-bit file gives back, not merely close to it.
    np.testing.assert_array_equal(adv_images.numpy(), (torch.from_numpy(stored).to(dtype) / 255).numpy())


@each
def test_promise_3_a_batch_equals_its_images_in_any_order(case):
    setting, attack = Setting(case), case.short()
    together = setting.run(attack)
    order = [3, 0, 4, 2, 1]
    permuted = setting.run(attack, order)
    pairs = [(together, i, setting.run(attack, [i]), 0) for i in range(5)]
    pairs += [(together, order[k], permuted, k) for k in range(5)]
    for first, i, second, k in pairs:
        assert torch.equal(first.adv_images[i], second.adv_images[k])
        assert first.success[i] == second.success[k]
        torch.testing.assert_close(first.confidence[i], second.confidence[k], rtol=0, atol=1e-9)
        torch.testing.assert_close(first.score[i], second.score[k], rtol=0, atol=1e-9)
        torch.testing.assert_close(first.attribution_map[i], second.attribution_map[k], rtol=0, atol=1e-9)


@each
def test_what_is_left_of_a_batch_goes_on_as_it_would_alone(case):
    """Compacted = full: images stop at different steps, and each ends where it ends by itself."""
    setting, attack = Setting(case), case.short(6)
    attack.stop = EarlyStopping(patience=1, tolerance=0.02, every=1)
    attack.min_confidence = 0.0
    together = setting.run(attack)
    for i in range(5):
        alone = setting.run(attack, [i])
        assert torch.equal(together.adv_images[i], alone.adv_images[0])
        assert torch.equal(together.last_images[i], alone.last_images[0])
        assert together.steps_taken[i] == alone.steps_taken[0]
        torch.testing.assert_close(together.score[i], alone.score[0], rtol=0, atol=1e-9)
        for name, curve in together.trace.items():
            torch.testing.assert_close(curve[:, i], alone.trace[name][:, 0], rtol=0, atol=1e-9, equal_nan=True)


@each
def test_through_a_twin_the_result_is_the_same_but_for_rounding(case):
    """In double precision rounding turns no sign: the very same pixels."""
    setting, attack = Setting(case), case.short()
    accelerated = make_accelerated_copy(setting.classifier, setting.interpreter, setting.images)
    assert accelerated.classifier is not setting.classifier
    plain = setting.run(attack)
    fast = setting.run(attack, accelerated=accelerated)
    assert (plain.adv_images == fast.adv_images).double().mean() > 0.999
    torch.testing.assert_close(plain.confidence, fast.confidence, rtol=0, atol=1e-3)
    torch.testing.assert_close(plain.score, fast.score, rtol=0, atol=1e-3)
    assert fast.adv_images.is_contiguous()


@each
def test_deterministic_also_under_no_grad_and_silent_towards_the_global_random_numbers(case):
    setting, attack = Setting(case), case.short()
    torch.manual_seed(1)
    before = torch.get_rng_state()
    first = setting.run(attack)
    assert torch.equal(torch.get_rng_state(), before)
    torch.manual_seed(2)
    with torch.no_grad():
        second = setting.run(attack)
    assert torch.equal(first.adv_images, second.adv_images)
    assert torch.equal(first.score, second.score)


@each
def test_one_attack_object_carries_nothing_over(case):
    attack = case.short()
    fresh = Setting(case).run(attack).adv_images
    other = Setting(case)
    other.images, other.target_class = 1 - other.images, (other.target_class + 1) % 4
    other.run(attack)
    assert torch.equal(Setting(case).run(attack).adv_images, fresh)


def snapshot(module: nn.Module | None) -> list[object]:
    if module is None:
        return []
    hooks = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")
    return [
        weights_hash(module),
        [m.training for m in module.modules()],
        [p.requires_grad for p in module.parameters()],
        [None if p.grad is None else p.grad.clone().sum().item() for p in module.parameters()],
        [len(getattr(m, kind)) for m in module.modules() for kind in hooks],
        [int(b) for n, b in module.named_buffers() if n.endswith("num_batches_tracked")],
    ]


@each
def test_promise_23_nothing_changes_in_the_victim(case):
    setting = Setting(case)
    first = next(setting.classifier.parameters())
    first.grad = torch.ones_like(first)  # someone else's gradient, in the middle of a training step
    setting.classifier.bn1.weight.requires_grad_(False)
    images, target_class = setting.images, setting.target_class
    copies = images.clone(), target_class.clone(), None if setting.target_map is None else setting.target_map.clone()
    images.requires_grad_()
    before, own = snapshot(setting.classifier), snapshot(setting.interpreter)
    setting.run(case.short())
    assert snapshot(setting.classifier) == before
    assert snapshot(setting.interpreter) == own
    assert images.requires_grad
    assert images.grad is None
    assert torch.equal(images, copies[0])
    assert torch.equal(target_class, copies[1])
    assert setting.target_map is None or torch.equal(setting.target_map, copies[2])
    assert torch.nn.functional.relu(torch.zeros(1)) == 0  # no surrogate left open


@each
def test_the_unmodified_network_has_the_last_word(case):
    setting = Setting(case, torch.float32)
    result = setting.run(case.short())
    with torch.no_grad():
        logits = setting.classifier(result.adv_images)
    assert torch.equal(result.success, logits.argmax(1) == setting.target_class)
    confidence = logits.softmax(1).gather(1, setting.target_class[:, None])[:, 0]
    torch.testing.assert_close(result.confidence, confidence)
    if setting.interpreter is not None:
        reported = setting.interpreter.explain(setting.classifier, result.adv_images, setting.target_class)
        torch.testing.assert_close(result.attribution_map, reported.attribution_map)
        distance = (reported.attribution_map - setting.target_map).square().mean((1, 2, 3))
        torch.testing.assert_close(result.score, distance)
    else:
        assert result.attribution_map.numel() == 0
    assert result.valid.all()


@each
def test_shapes_and_nothing_keeps_a_graph(case):
    setting, attack = Setting(case), case.short()
    if setting.target_map is not None:
        setting.target_map.requires_grad_()
    setting.images.requires_grad_()
    result = setting.run(attack)
    tensors = [result.adv_images, result.success, result.confidence, result.score, result.attribution_map]
    tensors += [result.valid, result.steps_taken, *result.trace.values()]
    assert not any(t.requires_grad for t in tensors)
    assert result.adv_images.shape == setting.images.shape
    assert all(t.shape == (5,) for t in (result.success, result.confidence, result.score, result.valid))
    assert torch.equal(result.steps_taken, torch.full((5,), attack.steps))
    joint = sum(stage.steps for stage in attack.stages if stage.step.needs_map)
    assert set(result.trace) == (set() if not joint else {"confidence", "success", "l1", "iou"})
    assert all(row.shape == (joint, 5) for row in result.trace.values())
    assert attack.needs_map is (case.interpreter is not None)


@each
def test_on_step_is_called_once_per_step(case):
    setting, attack, calls = Setting(case), case.short(3), []
    run_attack(
        attack,
        setting.classifier,
        setting.interpreter,
        setting.images,
        setting.target_class,
        setting.target_map,
        on_step=calls.append,
    )
    assert calls == list(range(1, attack.steps + 1))


@each
def test_an_empty_batch(case):
    setting = Setting(case)
    empty = slice(0, 0)
    result = run_attack(
        case.short(2),
        setting.classifier,
        setting.interpreter,
        setting.images[empty],
        setting.target_class[empty],
        None if setting.target_map is None else setting.target_map[empty],
    )
    assert result.adv_images.shape == (0, 3, 16, 16)
    assert result.success.shape == (0,)
