from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from cases import lattice_images, small_classifier
from torch import nn

from lightning_adv2.models import PaperReLU, Softplus, TorchvisionClassifier, weights_hash

Z = torch.cat([torch.linspace(-3, 3, 2001), torch.tensor([0.0, -1e-3, 1e-3, -50.0, 50.0])]).double()


@pytest.mark.parametrize("tau", [1e-4, 1e-2, 1.0])
def test_the_papers_activation_is_within_sqrt_tau_of_relu(tau):
    difference = (PaperReLU(tau).activation(Z) - Z.relu()).abs()
    assert difference.max() <= tau**0.5 * (1 + 1e-12)
    assert difference.max() > 0.9 * tau**0.5  # tight at 0


@pytest.mark.parametrize("tau", [1e-4, 1e-2])
def test_the_papers_derivative_is_h(tau):
    z = Z.clone().requires_grad_()
    (first,) = torch.autograd.grad(PaperReLU(tau).activation(z).sum(), z, create_graph=True)
    root = (Z**2 + tau).sqrt()
    h = torch.where(Z < 0, 1 + Z / root, Z / root)  # as printed in section 3.2
    torch.testing.assert_close(first.detach(), h)
    (second,) = torch.autograd.grad(first.sum(), z)
    torch.testing.assert_close(second, tau / (Z**2 + tau) ** 1.5)
    assert (second > 0).all()


@pytest.mark.parametrize("beta", [1.0, 20.0, 50.0])
def test_softplus_has_the_sigmoid_as_derivative(beta):
    z = Z.clone().requires_grad_()
    value = Softplus(beta).activation(z)
    assert (value - Z.relu()).abs().max() <= 0.6932 / beta  # log(2) / beta, reached at 0
    (first,) = torch.autograd.grad(value.sum(), z, create_graph=True)
    # cut off where both are below 2.1e-9
    torch.testing.assert_close(first.detach(), torch.sigmoid(beta * Z), atol=3e-9, rtol=1e-7)
    (second,) = torch.autograd.grad(first.sum(), z)
    s = torch.sigmoid(beta * Z)
    torch.testing.assert_close(second, beta * s * (1 - s), atol=3e-9 * beta, rtol=1e-6)


@pytest.mark.parametrize("surrogate", [PaperReLU, Softplus])
@pytest.mark.parametrize("value", [0.0, -1.0])
def test_a_parameter_that_is_not_positive_is_refused(surrogate, value):
    with pytest.raises(ValueError, match="must be positive"):
        surrogate(value)


RELUS = {
    "F.relu": F.relu,
    "F.relu(inplace)": lambda z: F.relu(z, inplace=True),
    "F.relu_": F.relu_,
    "torch.relu": torch.relu,
    "torch.relu(input=)": lambda z: torch.relu(input=z),
    "torch.relu_": torch.relu_,
    "Tensor.relu": lambda z: z.relu(),
    "Tensor.relu_": lambda z: z.relu_(),
    "nn.ReLU": nn.ReLU(),
    "nn.ReLU(inplace)": nn.ReLU(inplace=True),
}
RELU6S = {
    "F.relu6": F.relu6,
    "F.relu6(inplace)": lambda z: F.relu6(z, inplace=True),
    "nn.ReLU6": nn.ReLU6(),
    "nn.ReLU6(inplace)": nn.ReLU6(inplace=True),
}


def points() -> torch.Tensor:
    return torch.linspace(-2, 8, 41)


@pytest.mark.parametrize("name", RELUS)
@pytest.mark.parametrize("surrogate", [PaperReLU(0.1), Softplus(1.0)])
def test_every_way_to_call_relu_is_diverted_inside_and_none_outside(name, surrogate):
    relu = RELUS[name]
    with surrogate:
        inside = relu(points())
    torch.testing.assert_close(inside, surrogate.activation(points()))
    assert (inside - points().clamp(min=0)).abs().max() > 0.1
    assert torch.equal(relu(points()), points().clamp(min=0))


@pytest.mark.parametrize("name", RELU6S)
@pytest.mark.parametrize("surrogate", [PaperReLU(0.1), Softplus(1.0)])
def test_every_way_to_call_relu6_is_diverted_inside_and_none_outside(name, surrogate):
    relu6 = RELU6S[name]
    with surrogate:
        inside = relu6(points())
    torch.testing.assert_close(inside, surrogate.activation(points()) - surrogate.activation(points() - 6))
    assert torch.equal(relu6(points()), points().clamp(0, 6))


def test_other_activations_stay():
    z = points()
    with Softplus(1.0):
        inside = [F.leaky_relu(z), F.hardtanh(z), F.gelu(z), z.clamp(min=0.5)]
    for a, b in zip(inside, [F.leaky_relu(z), F.hardtanh(z), F.gelu(z), z.clamp(min=0.5)], strict=True):
        assert torch.equal(a, b)


def test_relu_is_restored_after_an_exception():
    def fail() -> None:
        with Softplus(1.0):
            assert F.relu(torch.zeros(1)) > 0.5
            raise KeyError("inside")

    with pytest.raises(KeyError):
        fail()
    assert F.relu(torch.zeros(1)) == 0


def test_one_surrogate_can_be_entered_again_and_nested():
    outer, inner, zero = Softplus(1.0), PaperReLU(0.25), torch.zeros(1)
    for _ in range(2):
        with outer:
            with inner:
                torch.testing.assert_close(F.relu(zero), torch.tensor([0.5]))
            torch.testing.assert_close(F.relu(zero), torch.tensor([0.6931]), atol=1e-4, rtol=0)
    assert F.relu(zero) == 0


@pytest.mark.parametrize("surrogate", [PaperReLU(), Softplus()])
def test_promise_23_the_victim_is_unchanged_and_close_inside(surrogate):
    classifier, images = small_classifier(), lattice_images(4)
    before, plain = weights_hash(classifier), classifier(images)
    hooks = hook_count(classifier)
    with surrogate:
        smooth = classifier(images)
    assert not torch.equal(smooth, plain)
    assert (smooth - plain).abs().max() < 0.3 * plain.std() + 0.3
    assert torch.equal(classifier(images), plain)
    assert weights_hash(classifier) == before
    assert hook_count(classifier) == hooks == 0


@pytest.mark.parametrize("name", ["resnet18", "mobilenet_v2"])
def test_the_second_derivative_appears_only_inside(name):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        classifier = TorchvisionClassifier(name, num_classes=3)
    images = torch.rand(1, 3, 32, 32, generator=torch.Generator().manual_seed(0)).requires_grad_()

    def curvature() -> float:
        (first,) = torch.autograd.grad(classifier(images)[0, 0], images, create_graph=True)
        (second,) = torch.autograd.grad(first.abs().sum(), images)
        return second.abs().amax().item()

    assert curvature() == 0
    with Softplus(5.0):
        inside = curvature()
    assert inside > 0


def hook_count(module: nn.Module) -> int:
    return sum(
        len(getattr(m, kind))
        for m in module.modules()
        for kind in ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")
    )
