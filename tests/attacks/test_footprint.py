"""The bytes of a step's graph, against a count by hand."""

from __future__ import annotations

import pytest
import torch
from cases import BY_NAME, lattice_images, small_classifier
from torch import nn

from lightning_adv2.attacks import (
    AcceleratedCopy,
    Acceleration,
    adv2_cam,
    adv2_grad,
    adv2_rts,
    make_accelerated_copy,
    pgd,
)
from lightning_adv2.attacks.footprint import GraphMeter, step_bytes
from lightning_adv2.interpreters import CAM


def test_each_kept_tensor_counts_once_and_until_its_graph_is_gone():
    x = torch.rand(1000, requires_grad=True)
    meter = GraphMeter()
    with meter.open():
        y = x.exp()  # keeps its result
        z = y.square()  # keeps its input, the same tensor
        assert meter.peak == 4000
        w = z.exp()
        assert meter.peak == 8000
        torch.autograd.grad(w.sum(), x)
        del y, z, w
        x.exp().square().sum().backward()
    assert meter.peak == 8000


def test_weights_do_not_count():
    layer = nn.Linear(100, 10, bias=False)
    x = torch.rand(5, 100, requires_grad=True)
    meter = GraphMeter({layer.weight.untyped_storage().data_ptr()})
    layer.weight.requires_grad_(False)
    with meter.open():
        layer(x).sum().backward()
    assert meter.peak == 0, "with frozen weights a linear layer needs nothing but them"


def test_by_hand_for_a_plain_chain():
    """Of convolution, ReLU, pooling and a linear layer with frozen weights ReLU keeps its output, and that is all."""
    classifier = small_classifier()
    image = lattice_images(1)[0]
    accelerated = make_accelerated_copy(classifier, None, image[None])
    # The stem and the two of each of three blocks: 8 x 16 x 16 three times, 12 x 8 x 8 twice, 16 x 4 x 4 twice.
    relus = 4 * (3 * 8 * 16 * 16 + 2 * 12 * 8 * 8 + 2 * 16 * 4 * 4)
    found = step_bytes(pgd(), accelerated, image)
    assert relus <= found <= 1.4 * relus  # convolutions keep their input too, and the first one's is the image


@pytest.mark.parametrize(("name", "attack"), [("cam", adv2_cam), ("rts", adv2_rts), ("grad", adv2_grad)])
def test_order_of_interpreters_and_folding_saves(name, attack):
    classifier, image = small_classifier(), lattice_images(1)[0]
    interpreter = BY_NAME[name].build(classifier)
    plain = step_bytes(attack(), AcceleratedCopy(classifier, interpreter), image)
    folded = step_bytes(attack(), make_accelerated_copy(classifier, interpreter, image[None], Acceleration()), image)
    assert folded < 0.9 * plain
    alone = step_bytes(pgd(), AcceleratedCopy(classifier, None), image)
    assert plain >= alone
    assert (plain > 1.5 * alone) is (name != "cam")


def test_nothing_is_changed_in_the_victim():
    classifier, image = small_classifier(), lattice_images(1)[0]
    before = torch.get_rng_state()
    step_bytes(adv2_cam(), AcceleratedCopy(classifier, CAM()), image)
    assert torch.equal(torch.get_rng_state(), before)
    assert all(p.grad is None for p in classifier.parameters())
