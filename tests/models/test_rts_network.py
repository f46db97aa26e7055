from __future__ import annotations

import pytest
import torch
from cases import NUM_CLASSES, SIDE, build_rts, lattice_images, small_classifier

from lightning_adv2.models import RTSNetwork, TorchvisionClassifier, weights_hash


def network(map_stride: int = 2) -> RTSNetwork:
    torch.manual_seed(0)
    return RTSNetwork(small_classifier(seed=7), map_stride=map_stride, width=4)


@pytest.mark.parametrize("map_stride", [1, 2, 4])
@pytest.mark.parametrize("side", [SIDE, 24])
def test_shapes_and_range(map_stride, side):
    images = lattice_images(3, side=side)
    mask, presence, logits = network(map_stride)(images, torch.tensor([0, 1, 3]))
    assert mask.shape == (3, 1, side // map_stride, side // map_stride)
    assert presence.shape == (3,)
    assert logits.shape == (3, NUM_CLASSES)
    assert ((mask >= 0) & (mask <= 1)).all()
    torch.testing.assert_close(logits, small_classifier(seed=7)(images))


@pytest.mark.parametrize(("map_stride", "remedy"), [(3, r"\[1, 2, 4\]"), (8, r"\[1, 2, 4\]"), (16, r"\[1, 2, 4\]")])
def test_a_stride_that_the_encoder_lacks_is_refused_with_those_it_has(map_stride, remedy):
    with pytest.raises(ValueError, match=f"map_stride={map_stride}.*{remedy}"):
        network(map_stride)


def test_the_mask_is_a_over_a_plus_b():
    outputs = torch.randn(2, 2, 3, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    expected = outputs[:, :1].abs() / outputs.abs().sum(1, keepdim=True)
    torch.testing.assert_close(RTSNetwork._mask(outputs), expected, atol=1e-4, rtol=0)


def test_promise_14_an_output_layer_of_zeros_gives_one_half_and_a_finite_gradient():
    net = network()
    torch.nn.init.zeros_(net.output.weight)
    torch.nn.init.zeros_(net.output.bias)
    images = lattice_images(2).requires_grad_()
    mask, _, _ = net(images, torch.tensor([0, 1]))
    torch.testing.assert_close(mask, torch.full_like(mask, 0.5))
    weight = torch.randn(mask.shape, generator=torch.Generator().manual_seed(0))
    gradients = torch.autograd.grad((mask * weight).sum(), [images, net.output.weight, net.reduce.weight])
    assert all(g.isfinite().all() for g in gradients)


def test_the_encoder_is_frozen_and_stays_in_eval_mode():
    net = network()
    before = weights_hash(net.encoder)
    net.train()
    assert net.reduce.training
    assert net.upsample.training
    assert not any(m.training for m in net.encoder.modules())
    assert not any(p.requires_grad for p in net.encoder.parameters())
    optimizer = torch.optim.SGD([p for p in net.parameters() if p.requires_grad], lr=0.1)
    mask, presence, _ = net(lattice_images(4), torch.tensor([0, 1, 2, 3]))
    (mask.sum() + presence.sum()).backward()
    optimizer.step()
    assert weights_hash(net.encoder) == before
    net.eval()
    assert not any(m.training for m in net.modules())


def test_trainable_state_holds_all_but_the_encoder():
    net = network()
    state = net.trainable_state()
    assert state
    assert not any(name.startswith("encoder") for name in state)
    trainable = {name for name, p in net.named_parameters() if p.requires_grad}
    assert trainable <= state.keys()
    assert {n for n in net.state_dict() if not n.startswith("encoder.")} == state.keys()


def test_the_selector_alone_agrees_with_the_whole_network():
    net, images, target_class = network().eval(), lattice_images(3), torch.tensor([2, 0, 1])
    torch.testing.assert_close(net.presence(images, target_class), net(images, target_class)[1])


def test_presence_is_the_log_mean_exp_of_the_evidence():
    evidence = torch.randn(3, 1, 4, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    torch.testing.assert_close(RTSNetwork._presence(evidence), evidence.exp().mean((1, 2, 3)).log())


def test_the_map_depends_on_class_and_confidence():
    net, images = build_rts(small_classifier()).network, lattice_images(2)
    base = net(images, torch.tensor([0, 0]))[0]
    assert (net(images, torch.tensor([1, 1]))[0] - base).abs().amax() > 1e-3
    assert (net(images, torch.tensor([0, 0]), 3.0)[0] - base).abs().amax() > 1e-3


@pytest.mark.parametrize(("name", "map_stride"), [("resnet18", 4), ("squeezenet1_0", 4), ("resnet18", 8)])
def test_torchvision_encoders(name, map_stride):
    torch.manual_seed(0)
    encoder = TorchvisionClassifier(name, num_classes=5)
    net = RTSNetwork(encoder, map_stride, width=8).eval()
    images = torch.rand(2, 3, 64, 64, generator=torch.Generator().manual_seed(0)).requires_grad_()
    mask, presence, logits = net(images, torch.tensor([0, 4]))
    # SqueezeNet pads nothing in its first layer: its scales are up to two pixels smaller than image / stride.
    scale = encoder.forward_pyramid(images)[net.first]
    assert mask.shape == (2, 1, *scale.shape[-2:])
    assert abs(mask.shape[-1] - 64 // map_stride) <= 2
    assert ((mask >= 0) & (mask <= 1)).all()
    assert presence.shape == (2,)
    assert logits.shape == (2, 5)
    (gradient,) = torch.autograd.grad(mask.sum(), images)
    assert gradient.isfinite().all()
    assert gradient.any()


def test_an_empty_batch_gives_empty_results():
    mask, presence, logits = network().eval()(torch.rand(0, 3, SIDE, SIDE), torch.empty(0, dtype=torch.int64))
    assert mask.shape == (0, 1, SIDE // 2, SIDE // 2)
    assert presence.shape == (0,)
    assert logits.shape == (0, NUM_CLASSES)
