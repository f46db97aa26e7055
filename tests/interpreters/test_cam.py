from __future__ import annotations

import numpy as np
import pytest
import torch
from captum.attr import LayerGradCam
from cases import lattice_images, small_classifier
from pytorch_grad_cam import GradCAM
from pytorch_grad_cam.utils.model_targets import ClassifierOutputTarget
from torch import nn

from lightning_adv2.interpreters import CAM
from lightning_adv2.models import TorchvisionClassifier

TARGET = torch.tensor([0, 1, 2, 3])


def victims() -> list[tuple[str, nn.Module, nn.Module]]:
    small = small_classifier()
    torch.manual_seed(0)
    resnet = TorchvisionClassifier("resnet18", num_classes=4)
    return [("small", small, small.layer3), ("resnet18", resnet, resnet.features[-1])]


@pytest.mark.parametrize(("name", "classifier", "layer"), victims(), ids=["small", "resnet18"])
def test_the_map_is_grad_cam_of_the_last_layer(name, classifier, layer):
    """With global average pooling and one linear layer, Grad-CAM before its ReLU is CAM divided by h w."""
    images = lattice_images(4, side=64 if name == "resnet18" else 16)
    with GradCAM(model=classifier, target_layers=[layer]) as oracle:
        targets = [ClassifierOutputTarget(int(c)) for c in TARGET]
        oracle(input_tensor=images.clone(), targets=targets)
        activations = oracle.activations_and_grads.activations[0].numpy()
        gradients = oracle.activations_and_grads.gradients[0].numpy()
        raw = oracle.get_cam_image(images, layer, targets, activations, gradients, False)
    low, high = raw.min((1, 2), keepdims=True), raw.max((1, 2), keepdims=True)
    ours = CAM().explain(classifier, images, TARGET).attribution_map[:, 0]
    np.testing.assert_allclose(ours.numpy(), (raw - low) / (high - low), atol=1e-4)


def test_the_map_is_captums_layer_grad_cam_as_well():
    classifier, images = small_classifier(), lattice_images(4)
    raw = LayerGradCam(classifier, classifier.layer3).attribute(images, target=TARGET, relu_attributions=False).detach()
    low, high = raw.amin((1, 2, 3), keepdim=True), raw.amax((1, 2, 3), keepdim=True)
    ours = CAM().explain(classifier, images, TARGET).attribution_map
    torch.testing.assert_close(ours, (raw - low) / (high - low), atol=1e-4, rtol=1e-4)


def test_promise_13_a_constant_map_is_zero_not_nan():
    classifier = small_classifier()
    with torch.no_grad():
        classifier.linear.weight.zero_()
    leaf = lattice_images(4).requires_grad_()
    attribution_map = CAM()(classifier, leaf, TARGET).attribution_map
    assert torch.equal(attribution_map, torch.zeros_like(attribution_map))
    (gradient,) = torch.autograd.grad(attribution_map.sum(), leaf)
    assert torch.equal(gradient, torch.zeros_like(gradient))


def test_a_head_that_cam_cannot_read_is_refused():
    classifier = TorchvisionClassifier("alexnet", num_classes=4)
    with pytest.raises(TypeError, match="CAM needs a head"):
        CAM().explain(classifier, lattice_images(1, side=64), TARGET[:1])


def test_squeezenets_convolutional_head():
    torch.manual_seed(0)
    classifier = TorchvisionClassifier("squeezenet1_0", num_classes=4)
    images = lattice_images(2, side=64)
    weight = next(m for m in classifier.head.modules() if isinstance(m, nn.Conv2d)).weight[:, :, 0, 0]
    with torch.no_grad():
        raw = torch.einsum("bdhw,bd->bhw", classifier.forward_features(images), weight[TARGET[:2]])
    low, high = raw.amin((1, 2), keepdim=True), raw.amax((1, 2), keepdim=True)
    ours = CAM().explain(classifier, images, TARGET[:2]).attribution_map[:, 0]
    torch.testing.assert_close(ours, (raw - low) / (high - low))
