"""Images that are not square, or that a map's cells do not divide."""

from __future__ import annotations

import pytest
import torch
from cases import BY_NAME, lattice_images, small_classifier
from torch import Tensor, nn

from lightning_adv2 import adv2
from lightning_adv2.functional.masking import resize_map
from lightning_adv2.interpreters import MASK, ConstantMap, Ensemble, Gradient, Interpreter, NoiseMap
from lightning_adv2.models import Classifier
from lightning_adv2.types import Interpretation


class Symmetric(Classifier):
    """A network to which an image and its transpose are the same: its kernels are symmetric."""

    def __init__(self) -> None:
        super().__init__((0.5,) * 3, (0.25,) * 3)
        self.num_classes, self.fc = 4, nn.Linear(8, 4)
        self.conv = nn.Conv2d(3, 8, 3, padding=1)
        generator = torch.Generator().manual_seed(3)
        with torch.no_grad():
            for parameter in self.parameters():
                parameter.copy_(torch.randn(parameter.shape, generator=generator))
            self.conv.weight.copy_(self.conv.weight + self.conv.weight.transpose(2, 3))
        self.double().eval()

    def stages(self):
        return [self.conv, nn.Softplus()]

    def forward_head(self, features: Tensor) -> Tensor:
        return self.fc(features.mean((2, 3)))

    def class_weight(self) -> Tensor:
        return self.fc.weight


@pytest.mark.parametrize("size", [None, 5])
@pytest.mark.parametrize("shape", [(32, 96), (64, 100), (20, 8), (16, 16)])
def test_masks_map_of_a_transposed_image_is_the_transposed_map(size, shape):
    images = torch.rand(2, 3, *shape, generator=torch.Generator().manual_seed(0)).double()
    mask, classifier, target = MASK("plain", iterations=4, size=size), Symmetric(), torch.tensor([1, 2])
    first = mask.explain(classifier, images, target).attribution_map
    second = mask.explain(classifier, images.transpose(2, 3), target).attribution_map
    torch.testing.assert_close(second, first.transpose(2, 3), rtol=0, atol=1e-9)
    assert first.std() > 1e-5
    short = size or (28 if min(shape) >= 64 else max(2, min(shape) // 4))
    assert first.shape[-2:] == tuple(round(short * side / min(shape)) for side in shape)


@pytest.mark.parametrize("shape", [(30, 50), (17, 23), (95, 66)])
@pytest.mark.parametrize("interpreter", [Gradient(), Gradient(pool=7)], ids=["usual", "7"])
def test_grads_map_of_a_transposed_image_is_the_transposed_map(interpreter, shape):
    images = torch.rand(2, 3, *shape, generator=torch.Generator().manual_seed(0)).double()
    first = interpreter.explain(Symmetric(), images, 1).attribution_map
    second = interpreter.explain(Symmetric(), images.transpose(2, 3), 1).attribution_map
    torch.testing.assert_close(second, first.transpose(2, 3), rtol=0, atol=1e-9)


def test_masks_shift_is_measured_by_the_shorter_side():
    images = torch.rand(1, 3, 56, 560, generator=torch.Generator().manual_seed(0))
    reach, mask = round(4 * 56 / 224), MASK("refined")
    moves = [(down, right) for down in range(-reach, reach + 1) for right in range(-reach, reach + 1)]
    inner = (..., slice(2, -2), slice(2, -2))
    for iteration in range(20):
        shifted = mask._shift(images, iteration)
        assert any(torch.equal(shifted[inner], images.roll(move, (2, 3))[inner]) for move in moves)


@pytest.mark.parametrize("shape", [(60, 1), (1, 60)])
def test_a_side_of_one_pixel(shape):
    images, classifier = torch.rand(2, 3, *shape), small_classifier()
    with pytest.raises(ValueError, match=rf"images: {shape[0]} x {shape[1]} pixels; MASK"):
        MASK(iterations=1).explain(classifier, images, 1)
    found = Gradient().explain(classifier, images, 1).attribution_map
    assert found.shape[-2:] == tuple(-(-side // 2) for side in shape)


class Sized(Interpreter):
    """A map of a given size."""

    def __init__(self, name: str, size: tuple[int, int]) -> None:
        super().__init__()
        self.name, self.size = name, size

    def forward(self, classifier, images, class_idx, state=()):
        return Interpretation(classifier(images), images.new_ones(len(images), 1, *self.size))


def test_an_ensembles_map_has_the_size_of_the_member_with_most_pixels_whichever_way_up():
    sizes, classifier, images = [(8, 30), (9, 20)], small_classifier(), lattice_images(2)
    for turned in (sizes, [size[::-1] for size in sizes]):
        members = [Sized(name, size) for name, size in zip("ab", turned, strict=True)]
        assert Ensemble(members).explain(classifier, images, 1).attribution_map.shape[-2:] == turned[0]


@pytest.mark.parametrize("control", [ConstantMap(), NoiseMap()], ids=lambda one: one.name)
@pytest.mark.parametrize(("side", "cells"), [(3, 1), (16, 4), (18, 4)])
def test_the_controls_have_a_map_at_any_size(control, side, cells):
    images = lattice_images(2, side=side)
    assert control.explain(small_classifier(), images, 1).attribution_map.shape == (2, 1, cells, cells)


@pytest.mark.parametrize("name", ["grad", "mask", "cam"])
def test_an_oblong_image_that_the_cells_do_not_divide_is_attacked(name):
    classifier = small_classifier()
    images = torch.rand(2, 3, 19, 30, generator=torch.Generator().manual_seed(0)).mul(255).round() / 255
    result = adv2(classifier, BY_NAME[name].build(classifier), images, 1, steps=4)
    assert result.valid.all()
    assert resize_map(result.attribution_map, (19, 30)).isfinite().all()
