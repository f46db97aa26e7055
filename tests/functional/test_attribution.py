from __future__ import annotations

import numpy as np
import pytest
import torch
from captum.attr import Saliency
from cases import lattice_images, small_classifier

from lightning_adv2.functional.attribution import class_activation, gradient_map, input_gradient, minmax


def test_minmax_is_the_affine_map_onto_zero_one():
    values = torch.tensor([[[[-2.0, 0.0], [2.0, 6.0]]], [[[5.0, 5.5], [6.0, 5.25]]]])
    expected = torch.tensor([[[[0.0, 0.25], [0.5, 1.0]]], [[[0.0, 0.5], [1.0, 0.25]]]])
    torch.testing.assert_close(minmax(values), expected)


def test_minmax_ignores_scale_and_offset_of_each_image():
    values = torch.randn(3, 1, 5, 5, dtype=torch.float64)
    scale, offset = torch.tensor([0.1, 7.0, 300.0]).view(3, 1, 1, 1), torch.tensor([-4.0, 0.0, 9.0]).view(3, 1, 1, 1)
    torch.testing.assert_close(minmax(values * scale + offset), minmax(values))


@pytest.mark.parametrize("constant", [0.0, 0.4, -3.0, 1e30])
def test_minmax_of_a_constant_map_is_zero_with_zero_gradient(constant):
    values = torch.full((2, 1, 4, 4), constant, requires_grad=True)
    scaled = minmax(values)
    assert torch.equal(scaled, torch.zeros_like(scaled))
    # Uneven weights: under an even one a non-zero Jacobian could still sum to zero.
    weight = torch.randn(scaled.shape, generator=torch.Generator().manual_seed(0))
    (gradient,) = torch.autograd.grad((scaled * weight).sum(), values)
    assert torch.equal(gradient, torch.zeros_like(gradient))


def test_minmax_keeps_a_nan_visible():
    values = torch.rand(2, 1, 3, 3)
    values[0, 0, 1, 1] = float("nan")
    scaled = minmax(values)
    assert scaled[0].isnan().any()
    assert scaled[1].isfinite().all()


def test_minmax_gradient_is_exact():
    values = torch.randn(2, 1, 3, 4, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(minmax, (values,))


def test_input_gradient_equals_captum():
    classifier, images = small_classifier(), lattice_images(5).requires_grad_()
    target_class = torch.tensor([0, 1, 2, 3, 0])
    ours = input_gradient(classifier(images), images, target_class, create_graph=False)
    theirs = Saliency(classifier).attribute(images, target=target_class, abs=False)
    torch.testing.assert_close(ours, theirs)


def test_input_gradient_keeps_a_graph_only_on_request():
    classifier, images = small_classifier(), lattice_images(2).requires_grad_()
    for create_graph in (False, True):
        gradient = input_gradient(classifier(images), images, torch.tensor([0, 1]), create_graph=create_graph)
        assert gradient.requires_grad is create_graph


def test_gradient_map_takes_the_largest_channel_and_averages_squares():
    gradient = torch.randn(2, 3, 6, 8, generator=torch.Generator().manual_seed(0))
    expected = np.abs(gradient.numpy()).max(1).reshape(2, 3, 2, 4, 2).mean((2, 4))[:, None]
    np.testing.assert_allclose(gradient_map(gradient, pool=2).numpy(), expected, rtol=1e-6)
    np.testing.assert_array_equal(gradient_map(gradient).numpy(), np.abs(gradient.numpy()).max(1, keepdims=True))


def test_class_activation_is_the_weighted_sum_of_features():
    generator = torch.Generator().manual_seed(0)
    features, weight = torch.randn(3, 5, 2, 4, generator=generator), torch.randn(7, 5, generator=generator)
    target_class = torch.tensor([6, 0, 3])
    expected = np.zeros((3, 1, 2, 4))
    for b in range(3):
        for d in range(5):
            expected[b, 0] += weight[target_class[b], d].item() * features[b, d].numpy()
    np.testing.assert_allclose(class_activation(features, weight, target_class).numpy(), expected, atol=1e-5)


def test_class_activation_averages_to_the_logit_without_bias():
    classifier, images = small_classifier(dtype=torch.float64), lattice_images(4, dtype=torch.float64)
    target_class = torch.tensor([3, 2, 1, 0])
    with torch.no_grad():
        features = classifier.forward_features(images)
        logit = classifier(images).gather(1, target_class[:, None])[:, 0] - classifier.linear.bias[target_class]
        activation = class_activation(features, classifier.class_weight(), target_class)
    torch.testing.assert_close(activation.mean((1, 2, 3)), logit)
