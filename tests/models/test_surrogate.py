from __future__ import annotations

from contextlib import nullcontext

import pytest
import torch
import torch.nn.functional as F
from cases import lattice_images, small_classifier
from torch import nn

from lightning_adv2.interpreters import Gradient
from lightning_adv2.models import (
    Classifier,
    PaperReLU,
    PlainReLU,
    Softplus,
    Surrogate,
    TorchvisionClassifier,
    weights_hash,
)

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
@pytest.mark.parametrize("surrogate", [PaperReLU(0.1), Softplus(1.0), Softplus(1.0, relative=False)])
def test_every_way_to_call_relu_is_diverted_inside_and_none_outside(name, surrogate):
    relu = RELUS[name]
    with surrogate:
        inside = relu(points())
    torch.testing.assert_close(inside, surrogate.smooth(points()))
    assert (inside - points().clamp(min=0)).abs().max() > 0.1
    assert torch.equal(relu(points()), points().clamp(min=0))


@pytest.mark.parametrize("name", RELU6S)
@pytest.mark.parametrize("surrogate", [PaperReLU(0.1), Softplus(1.0), Softplus(1.0, relative=False)])
def test_every_way_to_call_relu6_is_diverted_inside_and_none_outside(name, surrogate):
    relu6 = RELU6S[name]
    with surrogate:
        inside = relu6(points())
    torch.testing.assert_close(inside, surrogate.smooth(points(), ceiling=6))
    assert torch.equal(relu6(points()), points().clamp(0, 6))


@pytest.mark.parametrize("surrogate", [PaperReLU(0.1, relative=False), Softplus(1.0, relative=False)])
def test_with_one_width_everywhere_the_activation_itself_is_used(surrogate):
    z = points()
    assert torch.equal(surrogate.smooth(z), surrogate.activation(z))
    assert torch.equal(surrogate.smooth(z, ceiling=6), surrogate.activation(z) - surrogate.activation(z - 6))


@pytest.mark.parametrize("surrogate", [PaperReLU(0.1), Softplus(5.0)])
@pytest.mark.parametrize("scale", [1e-3, 1.0, 300.0])
def test_a_relative_surrogate_scales_with_the_activations_as_relu_does(surrogate, scale):
    z = torch.randn(3, 4, 5, 5, generator=torch.Generator().manual_seed(0)).double()
    torch.testing.assert_close(surrogate.smooth(scale * z), scale * surrogate.smooth(z))
    torch.testing.assert_close(surrogate.smooth(scale * z, ceiling=6 * scale), scale * surrogate.smooth(z, ceiling=6))


def test_each_image_has_its_own_scale_and_derivatives_take_it_for_a_constant():
    z = torch.randn(3, 4, 5, 5, generator=torch.Generator().manual_seed(0)).double()
    z = (z * torch.tensor([0.1, 1.0, 100.0]).view(3, 1, 1, 1)).requires_grad_()
    surrogate = Softplus(20.0)
    (first,) = torch.autograd.grad(surrogate.smooth(z).sum(), z, create_graph=True)
    (second,) = torch.autograd.grad(first.sum(), z)
    for i in range(3):
        beta = 20.0 / z[i].detach().square().mean().sqrt()
        sigmoid = torch.sigmoid(beta * z[i].detach())
        torch.testing.assert_close(first[i].detach(), sigmoid, atol=3e-9, rtol=1e-7)
        torch.testing.assert_close(second[i], beta * sigmoid * (1 - sigmoid), atol=float(3e-9 * beta), rtol=1e-6)
        torch.testing.assert_close(surrogate.smooth(z[i : i + 1])[0], surrogate.smooth(z)[i], atol=0, rtol=1e-12)


@pytest.mark.parametrize("surrogate", [PaperReLU(), Softplus()])
def test_activations_of_nothing_but_zeros_have_finite_derivatives(surrogate):
    z = torch.zeros(2, 3, 4, 4, requires_grad=True)
    (first,) = torch.autograd.grad(surrogate.smooth(z, ceiling=6).sum(), z, create_graph=True)
    (second,) = torch.autograd.grad(first.sum(), z)
    assert first.isfinite().all()
    assert second.isfinite().all()


class Chain(Classifier):
    """Convolutions without bias: an input ``scale`` times as large makes every activation as much larger."""

    def __init__(self, scale: float) -> None:
        super().__init__((0.0,) * 3, (1 / scale,) * 3)
        self.num_classes, self.scale = 5, scale
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            layers = [nn.Conv2d(3, 8, 3, bias=False), nn.ReLU(), nn.Conv2d(8, 8, 3, bias=False), nn.ReLU()]
            self.body, self.fc = nn.Sequential(*layers), nn.Linear(8, 5, bias=False)
        self.double().eval()

    def stages(self):
        return [self.body]

    def forward_head(self, features):
        return self.fc(features.mean((2, 3))) / self.scale


def slope_of_the_map(scale: float, surrogate: Surrogate) -> torch.Tensor:
    images = lattice_images(4, dtype=torch.float64).requires_grad_()
    with surrogate:
        shown = Gradient(pool=2)(Chain(scale), images, torch.tensor([0, 1, 2, 3])).attribution_map
        weight = torch.rand(shown.shape[1:], generator=torch.Generator().manual_seed(0)).double()
        return torch.autograd.grad((shown * weight).sum(), images)[0]


@pytest.mark.parametrize("kind", [Softplus, PaperReLU])
def test_the_slope_of_grads_map_does_not_depend_on_the_networks_scale(kind):
    """A standard deviation of 1/255 makes activations of order 100, to which softplus 50 is ReLU, without a slope."""
    expected, found = (slope_of_the_map(scale, kind()) for scale in (1.0, 300.0))
    assert expected.flatten(1).norm(dim=1).min() > 1e-3
    torch.testing.assert_close(found, expected)
    sharp = slope_of_the_map(300.0, kind(relative=False))
    assert (sharp - expected).norm() > 0.9 * expected.norm()


MADE_OF_RELUS = {
    "leaky_relu": (F.leaky_relu, lambda z, r: 0.01 * z + 0.99 * r(z)),
    "leaky_relu(0.2)": (nn.LeakyReLU(0.2), lambda z, r: 0.2 * z + 0.8 * r(z)),
    "leaky_relu(inplace)": (nn.LeakyReLU(0.2, inplace=True), lambda z, r: 0.2 * z + 0.8 * r(z)),
    "prelu": (nn.PReLU(init=0.3), lambda z, r: 0.3 * z + 0.7 * r(z)),
    "hardsigmoid": (F.hardsigmoid, lambda z, r: r(z + 3, 6) / 6),
    "hardsigmoid(inplace)": (nn.Hardsigmoid(inplace=True), lambda z, r: r(z + 3, 6) / 6),
    "hardtanh": (F.hardtanh, lambda z, r: r(z + 1, 2) - 1),
    "hardtanh_": (lambda z: F.hardtanh_(z, -0.5, 2.0), lambda z, r: r(z + 0.5, 2.5) - 0.5),
}


@pytest.mark.parametrize("name", MADE_OF_RELUS)
@pytest.mark.parametrize("surrogate", [PaperReLU(0.1), Softplus(3.0)])
def test_activations_made_of_relus_are_smoothed_too(name, surrogate):
    activation, expected = MADE_OF_RELUS[name]
    plain = activation(points())
    torch.testing.assert_close(plain, expected(points(), lambda z, ceiling=None: z.clamp(0, ceiling)))
    with surrogate, torch.no_grad():
        inside = activation(points())
    torch.testing.assert_close(inside, expected(points(), surrogate.smooth))
    assert (inside - plain).abs().max() > 1e-3


def test_a_parametric_relu_has_a_slope_for_each_channel():
    prelu, z = nn.PReLU(3), torch.randn(2, 3, 4, 4, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        prelu.weight.copy_(torch.tensor([0.1, 0.5, 1.0]))
        with PlainReLU():
            torch.testing.assert_close(prelu(z), F.prelu(z, prelu.weight))


def test_other_activations_stay():
    z = points()
    with Softplus(1.0):
        inside = [F.elu(z), F.gelu(z), F.hardswish(z), z.clamp(min=0.5)]
    for a, b in zip(inside, [F.elu(z), F.gelu(z), F.hardswish(z), z.clamp(min=0.5)], strict=True):
        assert torch.equal(a, b)


class Statement(nn.Module):
    """Activations written as statements or as expressions: one function."""

    def __init__(self, inplace: bool) -> None:
        super().__init__()
        self.inplace, self.relu, self.leaky = inplace, nn.ReLU(inplace=True), nn.LeakyReLU(0.1, inplace=True)

    def forward(self, x):
        y = 2 * x
        if not self.inplace:
            y = F.relu6(F.relu(y) - 1)
            z = F.leaky_relu(y - 1.5, 0.1)
            return z + F.relu(-x) + y
        self.relu(y)
        y = y - 1
        F.hardtanh_(y, 0.0, 6.0)
        z = y - 1.5
        self.leaky(z)
        w = -x
        w.relu_()
        total = z + w
        total += y
        return total


@pytest.mark.parametrize("surrogate", [None, PaperReLU(0.1), Softplus(3.0), Softplus(3.0, relative=False)])
def test_in_place_statements_are_followed_with_both_derivatives(surrogate):
    seen = []
    for inplace in (False, True):
        x = torch.randn(3, 4, 5, generator=torch.Generator().manual_seed(0)).double().requires_grad_()
        with surrogate or nullcontext():
            value = Statement(inplace)(x)
        (first,) = torch.autograd.grad((value**2).sum(), x, create_graph=True)
        (second,) = torch.autograd.grad((first**2).sum(), x)
        seen.append((value.detach(), first.detach(), second))
    for expected, found in zip(*seen, strict=True):
        torch.testing.assert_close(found, expected)


def test_relu_is_restored_after_an_exception():
    def fail() -> None:
        with Softplus(1.0):
            assert F.relu(torch.zeros(1)) > 0.5
            raise KeyError("inside")

    with pytest.raises(KeyError):
        fail()
    assert F.relu(torch.zeros(1)) == 0


def test_one_surrogate_can_be_entered_again_and_nested():
    outer, inner, zero = Softplus(1.0), PaperReLU(0.25), torch.zeros(1)  # whose scale is taken for 1
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
