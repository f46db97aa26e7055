"""MASK against its own definition: torch.optim.Adam as the oracle of the optimisation, finite differences."""

from __future__ import annotations

import pytest
import torch
from cases import SIDE, lattice_images, small_classifier
from torch import Tensor

from lightning_adv2.functional.faithfulness import class_probability
from lightning_adv2.functional.masking import blend
from lightning_adv2.interpreters import MASK

TARGET = torch.tensor([0, 1, 2])


def by_torch(mask: MASK, classifier, images: Tensor, steps: int) -> Tensor:
    """The same optimisation, written with torch's own optimiser and schedule, for one image at a time."""
    maps = []
    for image, target in zip(images.split(1), TARGET.split(1), strict=True):
        m = mask.init_state(classifier, image, target)[0].clone().requires_grad_()
        adam = torch.optim.Adam([m], lr=mask.lr)
        for k in range(steps):
            adam.param_groups[0]["lr"] = mask.lr * max(mask.lr_end, 1 - k / mask.iterations)
            adam.zero_grad()
            shown = blend(image, mask.background(image), m)
            differences = (m.diff(dim=2).abs() ** 3).mean() + (m.diff(dim=3).abs() ** 3).mean()
            loss = classifier(shown).softmax(1)[0, target] + mask.l1 * (1 - m).mean() + mask.tv * differences
            loss.sum().backward()
            adam.step()
            with torch.no_grad():
                m.clamp_(0, 1)
        maps.append(1 - m.detach())
    return torch.cat(maps)


@pytest.mark.parametrize("lr_end", [0.1, 1.0])
def test_the_optimisation_is_torchs_adam_projected_onto_the_box(classifier64, lr_end):
    images = lattice_images(3, dtype=torch.float64)
    mask = MASK("plain", iterations=12, lr=0.04, lr_end=lr_end, start=0.4)
    expected = by_torch(mask, classifier64.requires_grad_(False), images, 12)
    found = mask.explain(classifier64, images, TARGET).attribution_map
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-9)
    assert found.std() > 0.05


def test_one_step_on_from_a_state_is_the_next_iteration(classifier64):
    images, mask = lattice_images(3, dtype=torch.float64), MASK(iterations=5)
    state = mask.init_state(classifier64, images, TARGET)
    for _ in range(5):
        result = mask(classifier64, images, TARGET, state)
        state = result.state
    torch.testing.assert_close(result.attribution_map, mask.explain(classifier64, images, TARGET).attribution_map)
    torch.testing.assert_close(result.attribution_map, mask.map_of(state))
    assert all(len(leaf) == 3 for leaf in (state[0], *state[1]))
    assert (state[1][2] == 5).all()


def test_the_unrolled_steps_pass_gradcheck(classifier64):
    """Through f_c's own gradient, Adam's moments, its bias correction and its root; with respect to image and mask."""
    classifier64.requires_grad_(False)
    mask = MASK(iterations=8, start=0.5, lr=0.02, size=3)
    image, target = lattice_images(1, dtype=torch.float64), TARGET[:1]
    generator = torch.Generator().manual_seed(2)
    direction = torch.randn(image.shape, generator=generator).double()
    start = mask.advance(classifier64, image, target, mask.init_state(classifier64, image, target))

    def unrolled(along: Tensor, m: Tensor) -> Tensor:
        state = m, start[1]
        for _ in range(3):
            state = mask.advance(classifier64, image + along * direction, target, state)
        return state[0]

    point = torch.zeros((), dtype=torch.float64, requires_grad=True), start[0].clone().requires_grad_()
    assert torch.autograd.gradcheck(unrolled, point, eps=1e-7, atol=1e-4, rtol=1e-3)


def test_advance_keeps_a_graph_only_where_asked(classifier64):
    images, mask = lattice_images(3, dtype=torch.float64), MASK(iterations=3)
    state = mask.init_state(classifier64, images, TARGET)
    assert not mask.advance(classifier64, images, TARGET, state)[0].requires_grad
    with torch.no_grad():
        assert not mask.advance(classifier64, images.clone().requires_grad_(), TARGET, state)[0].requires_grad
    assert mask.advance(classifier64, images.clone().requires_grad_(), TARGET, state)[0].requires_grad


class Corner(torch.nn.Module):
    """Sees class 1 where the upper left quarter of the image is rough, and nothing else."""

    num_classes = 2

    def forward(self, images: Tensor) -> Tensor:
        corner = images[..., : images.shape[-2] // 2, : images.shape[-1] // 2]
        roughness = corner.diff(dim=3).square().flatten(1).mean(1)
        return torch.stack([torch.full_like(roughness, 5.0), 10 * roughness / 0.1], 1)


@pytest.mark.parametrize("side", [32, 64])
def test_it_finds_the_place_of_the_evidence(side):
    images = torch.rand(2, 3, side, side, generator=torch.Generator().manual_seed(5)).double()
    target, mask, network = torch.tensor([1, 1]), MASK(iterations=60), Corner().eval()
    found = mask.explain(network, images, target).attribution_map
    half = found.shape[-1] // 2
    inside, outside = found[..., :half, :half].mean(), found.mean() * 4 - found[..., :half, :half].mean()
    assert inside > 0.3
    assert outside / 3 < 0.25 * inside
    before = class_probability(network, images, target)
    after = class_probability(network, blend(images, mask.background(images), 1 - found), target)
    assert (before > 0.8).all()
    assert (after < 0.2).all()


@pytest.mark.parametrize(("side", "cells"), [(16, 4), (32, 8), (64, 28), (224, 28)])
def test_the_mask_scales_with_the_image(classifier, side, cells):
    images = torch.zeros(1, 3, side, side)
    assert MASK().init_state(classifier, images, TARGET[:1])[0].shape == (1, 1, cells, cells)
    assert MASK(size=5).init_state(classifier, images, TARGET[:1])[0].shape == (1, 1, 5, 5)


def test_jitter_moves_the_image_and_depends_on_the_iteration_alone(classifier64):
    images, state = lattice_images(3, dtype=torch.float64), torch.full((3, 1, 4, 4), 0.5).double()
    refined = MASK(jitter=2)
    values = torch.stack([refined.objective(classifier64, images, TARGET, state, k) for k in range(8)])
    assert values.std(0).min() > 0
    again = torch.stack([MASK(jitter=2).objective(classifier64, images, TARGET, state, k) for k in range(8)])
    assert torch.equal(values, again)
    plain = torch.stack([MASK("plain").objective(classifier64, images, TARGET, state, k) for k in range(8)])
    assert plain.std(0).max() == 0


@pytest.mark.parametrize(
    "wrong",
    [
        {"form": "crude"},
        {"iterations": 0},
        {"size": 1},
        {"jitter": -1},
        {"l1": -0.1},
        {"tv": float("nan")},
        {"lr": 0.0},
        {"sigma": 0.0},
        {"lr_end": 1.5},
        {"start": -0.1},
    ],
)
def test_arguments_out_of_range_are_named(wrong):
    with pytest.raises(ValueError, match=next(iter(wrong))):
        MASK(**wrong)


def test_inference_mode_is_refused_with_a_remedy():
    classifier = small_classifier()
    with torch.inference_mode(), pytest.raises(RuntimeError, match="no_grad"):
        MASK(iterations=2).explain(classifier, torch.rand(1, 3, SIDE, SIDE), TARGET[:1])
