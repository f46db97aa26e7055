"""Grey images stay grey, and colour images do not notice."""

from __future__ import annotations

import pytest
import torch
from cases import ATTACKS, BY_NAME, AttackCase, lattice_images, other_class, small_classifier
from torch import Tensor

from lightning_adv2.attacks import ADV2, Attack, PixelDelta, Pixels, adv2_attack, pgd, run_attack
from lightning_adv2.attacks.perturbation import FlowField, is_grey
from lightning_adv2.functional.random import image_generators
from lightning_adv2.runtime.describe import describe, differences

EPSILON = 8 / 255


def grey_images(count: int, seed: int = 0, dtype: torch.dtype = torch.float32) -> Tensor:
    return lattice_images(count, seed, dtype=dtype)[:, 1:2].repeat(1, 3, 1, 1)


def mixed_images(dtype: torch.dtype = torch.float32) -> Tensor:
    """Grey, colour, grey, colour."""
    return torch.stack([grey_images(2, 1, dtype), lattice_images(2, 2, dtype=dtype)], 1).flatten(0, 1)


def attacked(case: AttackCase, images: Tensor, names: list[str], restarts: int = 2, **options: bool):
    classifier = small_classifier(dtype=images.dtype)
    interpreter = None if case.interpreter is None else BY_NAME[case.interpreter].build(classifier)
    target_class = other_class(classifier, images)
    target_map = None
    if interpreter is not None:
        target_map = interpreter.explain(classifier, images, (target_class - 1) % 4).attribution_map
    short = case.short(3, EPSILON)
    perturbation = PixelDelta(EPSILON, **options) if options else short.perturbation
    attack = Attack(short.name, short.schedule, perturbation, short.stages, restarts=restarts)
    generators = image_generators(0, names, "attack")
    return run_attack(attack, classifier, interpreter, images, target_class, target_map, generators=generators)


def test_which_images_are_grey():
    images = mixed_images()
    images[0, 2, 5, 5] += 1 / 255
    assert is_grey(images).flatten().tolist() == [False, False, True, False]
    assert is_grey(images[:, :1]).all()
    assert is_grey(images[:0]).shape == (0, 1, 1, 1)


@pytest.mark.parametrize("case", ATTACKS, ids=lambda case: case.name)
def test_every_attack_keeps_grey_images_grey_and_legal(case):
    images = mixed_images()
    result = attacked(case, images, list("abcd"))
    for shown in (result.adv_images, result.last_images):
        assert is_grey(shown).flatten().tolist() == [True, False, True, False]
        assert torch.equal(shown, (shown * 255).round() / 255)
        assert shown.min() >= 0
        assert shown.max() <= 1
    assert (result.adv_images != images).flatten(1).any(1).all(), "all of them must have moved"
    if not case.spatial:
        assert (result.adv_images - images).abs().max() <= EPSILON + 1e-6


@pytest.mark.parametrize("name", ["pgd-fast", "pgd-paper", "adv2_cam-fast", "adv2_grad-paper", "adv2_mask-paper"])
def test_colour_images_are_attacked_as_without_the_option_to_the_bit(name):
    case = next(case for case in ATTACKS if case.name == name)
    images = lattice_images(3, seed=4)
    on, off = (attacked(case, images, list("abc"), keep_grey=keep) for keep in (True, False))
    assert torch.equal(on.adv_images, off.adv_images)
    assert torch.equal(on.last_images, off.last_images)
    assert torch.equal(on.norm, off.norm)


@pytest.mark.parametrize("name", ["pgd-fast", "adv2_cam-fast", "adv2_mask-paper"])
def test_promise_3_a_mixed_batch_equals_its_images(name):
    case = next(case for case in ATTACKS if case.name == name)
    images = mixed_images(torch.float64)
    together = attacked(case, images, list("abcd"))
    for i, image_id in enumerate("abcd"):
        alone = attacked(case, images[i : i + 1], [image_id])
        assert torch.equal(alone.adv_images[0], together.adv_images[i])


def test_without_the_option_a_grey_image_is_coloured():
    case, images = ATTACKS[0], grey_images(3)
    assert not is_grey(attacked(case, images, list("abc"), keep_grey=False).adv_images).any()
    attack, classifier = pgd(steps=3, keep_grey=False), small_classifier()
    assert not is_grey(run_attack(attack, classifier, None, images, other_class(classifier, images)).adv_images).any()
    for threat_model in (Pixels(keep_grey=False), Pixels(0.031, False)):
        assert not adv2_attack(BY_NAME["cam"].build(classifier), threat_model=threat_model).perturbation.keep_grey


def test_a_random_start_is_uniform_over_the_brightness():
    images = torch.full((1, 3, 40, 40), 0.5)
    drawn = PixelDelta(EPSILON).restart(images, image_generators(0, ["a"]))
    assert torch.equal(drawn[:, 0], drawn[:, 1])
    assert torch.equal(drawn[:, 0], drawn[:, 2])
    # A mean of three draws would have a third of this variance.
    torch.testing.assert_close(drawn[:, 0].std(), torch.tensor(EPSILON / 3**0.5), rtol=0.05, atol=0)


def test_the_gradient_is_the_mean_over_the_channels():
    images, weight = grey_images(2), torch.randn(2, 3, 16, 16, generator=torch.Generator().manual_seed(0))
    leaf = torch.zeros_like(images, requires_grad=True)
    (gradient,) = torch.autograd.grad((PixelDelta(EPSILON).apply(images, leaf) * weight).sum(), leaf)
    torch.testing.assert_close(gradient, weight.mean(1, keepdim=True).expand_as(weight))


def test_an_attack_on_grey_images_still_succeeds():
    classifier, images = small_classifier(), grey_images(8, seed=3)
    target_class = other_class(classifier, images)
    result = run_attack(pgd(epsilon=0.2), classifier, None, images, target_class)
    assert result.success.float().mean() >= 0.75
    assert is_grey(result.adv_images).all()


def test_a_start_is_made_grey():
    classifier, images = small_classifier(), grey_images(2)
    start = EPSILON * (2 * torch.rand(images.shape, generator=torch.Generator().manual_seed(0)) - 1)
    target_class = other_class(classifier, images)
    result = run_attack(pgd(steps=2, epsilon=EPSILON), classifier, None, images, target_class, start=start)
    assert is_grey(result.last_images).all()


@pytest.mark.parametrize("reach", [0.1, 1.0, 30.0])
def test_a_flow_keeps_grey_images_grey_by_itself(reach):
    images = grey_images(4)
    flow = 2 * reach * (torch.rand(4, 2, 16, 16, generator=torch.Generator().manual_seed(0)) - 0.5)
    moved = FlowField().apply(images, flow)
    assert is_grey(moved).all()
    assert not torch.equal(moved, images)


def test_promise_5_another_choice_is_another_experiment():
    cam = BY_NAME["cam"].build(small_classifier())
    with_it, without = (describe(ADV2(threat_model=Pixels(keep_grey=keep)).against(cam)) for keep in (True, False))
    assert differences(with_it, without) == ["perturbation.keep_grey: True before, False now"]
