from __future__ import annotations

from collections.abc import Callable

import captum.attr
import numpy as np
import pytest
import pytorch_grad_cam
import torch
from cases import lattice_images, small_classifier
from pytorch_grad_cam.utils.model_targets import ClassifierOutputTarget
from torch import Tensor, nn

from lightning_adv2.functional.attribution import class_activation
from lightning_adv2.interpreters import GradCAM
from lightning_adv2.models import Classifier, Softplus, TorchvisionClassifier

TARGET = torch.tensor([0, 1, 2, 3])


class DeepHead(Classifier):
    """A head with a ReLU of its own, so that the channels' weights depend on the image."""

    num_classes = 4

    def __init__(self) -> None:
        super().__init__()
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            self.body = nn.Sequential(nn.Conv2d(3, 8, 3, stride=2, padding=1), nn.ReLU())
            self.head = nn.Sequential(nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(32, 12), nn.ReLU())
            self.last = nn.Linear(12, 4)
        self.grad_enabled: list[bool] = []
        self.eval()

    def stages(self) -> list[Callable[[Tensor], Tensor]]:
        self.grad_enabled.append(torch.is_grad_enabled())
        return [self.body]

    def forward_head(self, features: Tensor) -> Tensor:
        return self.last(self.head(features))


def victim(name: str) -> tuple[Classifier, nn.Module, Tensor]:
    """A classifier, the layer whose output its head reads, and images."""
    if name == "small":
        small = small_classifier()
        return small, small.layer3, lattice_images(4)
    if name == "deep":
        deep = DeepHead()
        return deep, deep.body, lattice_images(4)
    torch.manual_seed(0)
    network = TorchvisionClassifier(name, num_classes=4).requires_grad_(False)  # VGG has 100 million weights
    return network, network.features[-1], lattice_images(4, side=64)


def scaled(values: np.ndarray) -> np.ndarray:
    low, high = values.min((1, 2), keepdims=True), values.max((1, 2), keepdims=True)
    assert (high > low).all()
    return (values - low) / (high - low)


@pytest.mark.parametrize("name", ["small", "deep", "resnet18", "vgg11"])
def test_the_map_is_pytorch_grad_cams(name):
    classifier, layer, images = victim(name)
    with pytorch_grad_cam.GradCAM(model=classifier, target_layers=[layer]) as oracle:
        targets = [ClassifierOutputTarget(int(c)) for c in TARGET]
        oracle(input_tensor=images.clone().requires_grad_(), targets=targets)
        activations = oracle.activations_and_grads.activations[0].numpy()
        gradients = oracle.activations_and_grads.gradients[0].numpy()
        # Its own scaling enlarges the map to the image first.
        raw = oracle.get_cam_image(images, layer, targets, activations, gradients, False)
    assert raw.min() < 0, "without a negative value the ReLU would go untested"
    ours = GradCAM().explain(classifier, images, TARGET)
    np.testing.assert_allclose(ours.attribution_map[:, 0].numpy(), scaled(np.maximum(raw, 0)), atol=1e-4)
    torch.testing.assert_close(ours.logits, classifier(images))


@pytest.mark.parametrize("name", ["small", "deep"])
def test_the_map_is_captums_layer_grad_cam_as_well(name):
    classifier, layer, images = victim(name)
    oracle = captum.attr.LayerGradCam(classifier, layer)
    raw = oracle.attribute(images, target=TARGET, relu_attributions=True).detach()[:, 0].numpy()
    ours = GradCAM().explain(classifier, images, TARGET).attribution_map[:, 0]
    np.testing.assert_allclose(ours.numpy(), scaled(raw), atol=1e-4)


def test_behind_global_average_pooling_and_one_linear_layer_it_is_the_rectified_cam():
    classifier, images = small_classifier(dtype=torch.float64), lattice_images(4, dtype=torch.float64)
    with torch.no_grad():
        cam = class_activation(classifier.forward_features(images), classifier.class_weight(), TARGET)[:, 0]
    ours = GradCAM().explain(classifier, images, TARGET).attribution_map[:, 0]
    np.testing.assert_allclose(ours.numpy(), scaled(cam.numpy().clip(0)), atol=1e-12)


@pytest.mark.parametrize("surrogate", [None, Softplus(20.0, relative=False)], ids=["plain", "softplus"])
def test_the_maps_gradient_counts_the_change_of_the_weights(surrogate):
    """Finite differences through a head that is not linear: the contract test's network has a linear one."""
    classifier, images = DeepHead().double(), lattice_images(4, seed=3, dtype=torch.float64)
    generator = torch.Generator().manual_seed(1)
    weight = torch.randn(1, 1, 8, 8, generator=generator, dtype=torch.float64)

    def value(x: Tensor) -> Tensor:
        if surrogate is None:
            return (GradCAM()(classifier, x, TARGET).attribution_map * weight).sum((1, 2, 3))
        with surrogate:
            return (GradCAM()(classifier, x, TARGET).attribution_map * weight).sum((1, 2, 3))

    leaf = images.clone().requires_grad_()
    (gradient,) = torch.autograd.grad(value(leaf).sum(), leaf)
    close = []
    for _ in range(10):
        direction = torch.randn(images.shape, generator=generator, dtype=torch.float64)
        numerical = (value(images + 1e-6 * direction) - value(images - 1e-6 * direction)).detach() / 2e-6
        analytical = (gradient * direction).flatten(1).sum(1)
        close.append((numerical - analytical).abs() <= 1e-3 * gradient.flatten(1).norm(dim=1))
    assert torch.stack(close).double().mean() >= 0.9  # the rest may have met a kink


def test_only_the_head_is_differentiated_when_nothing_else_needs_it():
    classifier, images = DeepHead(), lattice_images(4)
    GradCAM().explain(classifier, images, TARGET)
    GradCAM()(classifier, images, TARGET)
    assert classifier.grad_enabled == [False, False]  # one pass over the features each, without a graph
    GradCAM()(classifier, images.requires_grad_(), TARGET)
    assert classifier.grad_enabled == [False, False, True]


def test_promise_13_a_map_without_support_is_zero_not_nan():
    classifier = small_classifier()
    with torch.no_grad():
        classifier.linear.weight.fill_(-1.0)  # features are not negative: every channel speaks against every class
    leaf = lattice_images(4).requires_grad_()
    attribution_map = GradCAM()(classifier, leaf, TARGET).attribution_map
    assert torch.equal(attribution_map, torch.zeros(4, 1, 4, 4))
    (gradient,) = torch.autograd.grad(attribution_map.sum(), leaf)
    assert torch.equal(gradient, torch.zeros_like(gradient))


def test_promise_23_inference_mode_gives_a_clear_error():
    with torch.inference_mode(), pytest.raises(RuntimeError, match=r"GradCAM.*inference_mode=False"):
        GradCAM().explain(small_classifier(), lattice_images(4), TARGET)
