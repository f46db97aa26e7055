from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from cases import NUM_CLASSES, SIDE, build_student, lattice_images, small_classifier
from torch import nn

from lightning_adv2.models import RTSNetwork, StudentNetwork, TorchvisionClassifier, weights_hash
from lightning_adv2.models.map_network import scales_from


def network(map_stride: int = 2) -> StudentNetwork:
    torch.manual_seed(0)
    return StudentNetwork(small_classifier(seed=7), map_stride=map_stride, width=4)


@pytest.mark.parametrize("map_stride", [1, 2, 4])
@pytest.mark.parametrize("side", [SIDE, 24])
def test_shapes_and_range(map_stride, side):
    images = lattice_images(3, side=side)
    mask, logits = network(map_stride)(images, torch.tensor([0, 1, 3]))
    assert mask.shape == (3, 1, side // map_stride, side // map_stride)
    assert ((mask >= 0) & (mask <= 1)).all()
    torch.testing.assert_close(logits, small_classifier(seed=7)(images))


@pytest.mark.parametrize("kind", [StudentNetwork, RTSNetwork])
@pytest.mark.parametrize("map_stride", [3, 8, 16])
def test_a_stride_that_the_encoder_lacks_is_refused_with_those_it_has(kind, map_stride):
    with pytest.raises(ValueError, match=rf"map_stride={map_stride}.*\[1, 2, 4\]"):
        kind(small_classifier(seed=7), map_stride=map_stride, width=4)


@pytest.mark.parametrize(("map_stride", "first", "channels"), [(1, 0, [8, 12, 16]), (2, 1, [12, 16]), (4, 2, [16])])
def test_scales_from_the_maps_own_on(map_stride, first, channels):
    assert scales_from(small_classifier(), map_stride) == (first, channels)


def test_a_map_by_hand():
    """One image, every step in plain loops over channels and pixels."""
    net, image, asked = network(2).double(), lattice_images(1, dtype=torch.float64), 2
    found = net(image, torch.tensor([asked]))[0][0, 0]
    fine, coarse = net.encoder.forward_pyramid(image)[1:]
    coarse = F.interpolate(coarse, scale_factor=2, mode="bilinear", align_corners=False)  # commutes with 1x1 layers
    reduced = torch.zeros(4, SIDE // 2, SIDE // 2, dtype=torch.float64)
    for layer, features in zip(net.reduce, (fine, coarse), strict=True):
        for out in range(4):
            reduced[out] += layer.bias[out]
            for channel in range(features.shape[1]):
                reduced[out] += layer.weight[out, channel, 0, 0] * features[0, channel]
    film = net.film.weight[asked]
    h = torch.stack([(1 + film[k]) * reduced[k] + film[4 + k] for k in range(4)])
    summary = torch.stack([*(c.mean() for c in h), *(c.max() for c in h), *(c.min() for c in h)])
    everywhere = net.context.weight @ summary + net.context.bias
    padded = F.pad(h, (1, 1, 1, 1))
    expected = torch.zeros_like(found)
    for y in range(SIDE // 2):
        for x in range(SIDE // 2):
            window = padded[:, y : y + 3, x : x + 3]
            mixed = [(net.mix.weight[k] * window).sum() + net.mix.bias[k] + everywhere[k] for k in range(4)]
            total = sum(net.output.weight[0, k, 0, 0] * mixed[k].clamp(min=0) for k in range(4)) + net.output.bias[0]
            expected[y, x] = 1 / (1 + (-total).exp())
    torch.testing.assert_close(found, expected)


def test_the_encoder_is_frozen_and_stays_in_eval_mode():
    net = network()
    before = weights_hash(net.encoder)
    net.train()
    assert net.mix.training
    assert not any(m.training for m in net.encoder.modules())
    optimizer = torch.optim.SGD([p for p in net.parameters() if p.requires_grad], lr=0.1)
    net(lattice_images(4), torch.tensor([0, 1, 2, 3]))[0].sum().backward()
    optimizer.step()
    assert weights_hash(net.encoder) == before


def test_train_and_eval_mode_agree():
    net, images, target_class = network(), lattice_images(4), torch.tensor([0, 1, 2, 3])
    assert not [m for n, m in net.named_modules() if isinstance(m, nn.BatchNorm2d) and not n.startswith("encoder.")]
    assert torch.equal(net.train()(images, target_class)[0], net.eval()(images, target_class)[0])


def test_gradients_reach_every_parameter_of_the_head_and_a_trained_encoder():
    net = network()
    net.train_encoder()
    mask, logits = net(lattice_images(4), torch.tensor([0, 1, 2, 3]))
    weight = torch.randn(mask.shape, generator=torch.Generator().manual_seed(0))
    ((mask * weight).sum() + logits.square().sum()).backward()
    for name, parameter in net.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.isfinite().all(), name
        assert parameter.grad.any(), name


def test_trainable_state_holds_all_but_a_frozen_encoder():
    net = network()
    assert {n for n in net.state_dict() if not n.startswith("encoder.")} == net.trainable_state().keys()
    net.train_encoder()
    assert net.trainable_state().keys() == net.state_dict().keys()


def test_the_map_depends_on_the_class():
    net, images = build_student(small_classifier()).network, lattice_images(2)
    base = net(images, torch.tensor([0, 0]))[0]
    assert (net(images, torch.tensor([1, 1]))[0] - base).abs().amax() > 1e-3


@pytest.mark.parametrize(("name", "map_stride"), [("resnet18", 4), ("squeezenet1_0", 4), ("resnet18", 32)])
def test_torchvision_encoders(name, map_stride):
    torch.manual_seed(0)
    encoder = TorchvisionClassifier(name, num_classes=5)
    net = StudentNetwork(encoder, map_stride, width=8)
    images = torch.rand(2, 3, 64, 64, generator=torch.Generator().manual_seed(0)).requires_grad_()
    mask, logits = net(images, torch.tensor([0, 4]))
    # SqueezeNet pads nothing in its first layer: its scales are up to two pixels smaller than image / stride.
    assert mask.shape == (2, 1, *encoder.forward_pyramid(images)[net.first].shape[-2:])
    assert abs(mask.shape[-1] - 64 // map_stride) <= 2
    assert logits.shape == (2, 5)
    (gradient,) = torch.autograd.grad(mask.sum(), images)
    assert gradient.isfinite().all()
    assert gradient.any()


def test_promise_14_saturated_outputs_stay_finite():
    for bias in (-1e4, 0.0, 1e4):
        net, images = network(), lattice_images(2).requires_grad_()
        nn.init.constant_(net.output.bias, bias)
        mask, _ = net(images, torch.tensor([0, 1]))
        gradients = torch.autograd.grad(mask.sum(), [images, net.output.weight, net.film.weight])
        assert mask.isfinite().all()
        assert all(g.isfinite().all() for g in gradients)


def test_an_empty_batch_gives_empty_results():
    mask, logits = network()(torch.rand(0, 3, SIDE, SIDE), torch.empty(0, dtype=torch.int64))
    assert mask.shape == (0, 1, SIDE // 2, SIDE // 2)
    assert logits.shape == (0, NUM_CLASSES)
