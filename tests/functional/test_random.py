from __future__ import annotations

import pytest
import torch
from scipy.stats import chisquare

from lightning_adv2.functional.random import draw_target_class, image_generators, per_image


def first_draw(seed: int = 0, name: str = "a", purpose: str = "") -> float:
    return torch.rand((), generator=image_generators(seed, [name], purpose)[0]).item()


def test_a_generator_depends_on_seed_purpose_and_id():
    assert first_draw() == first_draw()
    different = {first_draw(), first_draw(seed=1), first_draw(name="b"), first_draw(purpose="attack")}
    assert len(different) == 4


def test_a_generator_depends_on_nothing_else():
    torch.manual_seed(5)
    before = torch.get_rng_state()
    names = [f"image {i}" for i in range(20)]
    all_draws = [torch.rand(3, generator=g) for g in image_generators(3, names, "attack")]
    for i in (19, 0, 7):
        again = torch.rand(3, generator=image_generators(3, [names[i]], "attack")[0])
        assert torch.equal(again, all_draws[i])
    assert torch.equal(torch.get_rng_state(), before)


def test_per_image_takes_dtype_and_device_of_like():
    like = torch.zeros(2, dtype=torch.float64)
    drawn = per_image(lambda g: torch.rand(3, generator=g), image_generators(0, ["a", "b"]), like)
    assert drawn.shape == (2, 3)
    assert drawn.dtype == torch.float64
    whole = per_image(lambda g: torch.randint(9, (), generator=g), image_generators(0, ["a", "b"]), like)
    assert whole.dtype == torch.int64


@pytest.mark.parametrize("num_classes", [2, 3, 10])
def test_a_target_class_is_never_the_label_and_otherwise_uniform(num_classes):
    count = 4000
    label = torch.arange(count) % num_classes
    target = draw_target_class(label, num_classes, image_generators(0, [str(i) for i in range(count)]))
    assert ((target >= 0) & (target < num_classes)).all()
    assert (target != label).all()
    shift = torch.bincount((target - label) % num_classes, minlength=num_classes)[1:]
    if num_classes > 2:
        # seeds are fixed, so this is no gamble; a modulo bias or a fixed shift gives p < 1e-10
        assert chisquare(shift.numpy()).pvalue > 0.01


def test_a_target_class_does_not_depend_on_the_batch():
    label, names = torch.tensor([0, 1, 2, 3, 4]), list("abcde")
    together = draw_target_class(label, 10, image_generators(0, names))
    order = [3, 1, 4, 0, 2]
    permuted = draw_target_class(label[order], 10, image_generators(0, [names[i] for i in order]))
    assert torch.equal(permuted, together[order])
    for i in range(5):
        assert draw_target_class(label[i : i + 1], 10, image_generators(0, names[i : i + 1])) == together[i]


def test_a_target_class_needs_two_classes():
    with pytest.raises(ValueError, match="num_classes=1"):
        draw_target_class(torch.tensor([0]), 1, image_generators(0, ["a"]))


def test_an_empty_batch_draws_nothing():
    assert draw_target_class(torch.empty(0, dtype=torch.int64), 10, []).shape == (0,)
    assert per_image(lambda g: torch.rand(3, 2, generator=g), [], torch.empty(0)).shape == (0, 3, 2)
