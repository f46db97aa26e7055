from __future__ import annotations

import math
import weakref

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from captum.attr import IntegratedGradients, NoiseTunnel, Saliency
from cases import lattice_images, small_classifier
from torch import Tensor

from lightning_adv2.functional.attribution import (
    class_activation,
    grad_cam,
    gradient_map,
    input_gradient,
    integrated_gradients,
    mean_gradient,
    minmax,
    smooth_gradient,
)
from lightning_adv2.functional.masking import resize_map
from lightning_adv2.models import PaperReLU, Softplus


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


def test_input_gradient_of_a_broken_image_is_nan_and_no_others():
    classifier, images = small_classifier(), lattice_images(3)
    target_class = torch.tensor([0, 1, 2])
    clean = input_gradient(classifier(leaf := images.clone().requires_grad_()), leaf, target_class, create_graph=False)
    images[1, 0, 3, 3] = float("nan")
    broken = input_gradient(classifier(leaf := images.requires_grad_()), leaf, target_class, create_graph=False)
    assert broken[1].isnan().all()
    torch.testing.assert_close(broken[[0, 2]], clean[[0, 2]])


@pytest.mark.parametrize("steps", [1, 2, 7, 50])
@pytest.mark.parametrize("baseline", [0.0, 0.4])
def test_integrated_gradients_equal_captum(steps, baseline):
    classifier, images = small_classifier(dtype=torch.float64), lattice_images(3, dtype=torch.float64)
    target_class = torch.tensor([3, 0, 2])
    ours = integrated_gradients(classifier, images, target_class, steps=steps, baseline=baseline)
    theirs = IntegratedGradients(classifier).attribute(images, baselines=baseline, target=target_class, n_steps=steps)
    torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-7)  # captum rounds its weights to single precision


def test_two_integration_steps_are_exact_for_a_cubic_score():
    """A rule of n points integrates polynomials up to degree 2 n - 1; the gradient of a cube is a square."""
    generator = torch.Generator().manual_seed(0)
    images = torch.rand(4, 3, 2, 2, generator=generator, dtype=torch.float64)
    weight = torch.randn(5, 3 * 2 * 2, generator=generator, dtype=torch.float64)
    target_class = torch.tensor([4, 0, 1, 1])

    def classify(x: Tensor) -> Tensor:
        return x.flatten(1).pow(3) @ weight.T

    expected = weight[target_class].view_as(images) * (images**3 - 0.3**3)
    exact = integrated_gradients(classify, images, target_class, steps=2, baseline=0.3)
    torch.testing.assert_close(exact, expected, rtol=1e-12, atol=1e-14)
    coarse = integrated_gradients(classify, images, target_class, steps=1, baseline=0.3)
    assert (coarse - expected).abs().max() > 1e-3


@pytest.mark.parametrize("baseline", [0.0, 1.0])
def test_integrated_gradients_sum_to_the_scores_difference(baseline):
    classifier, images = small_classifier(dtype=torch.float64), lattice_images(4, dtype=torch.float64)
    target_class = torch.tensor([0, 1, 2, 3])
    errors = []
    with Softplus(10.0, relative=False):  # one function along the whole path
        ends = [classifier(at).gather(1, target_class[:, None])[:, 0] for at in (images, images * 0 + baseline)]
        for steps in (4, 16, 64):
            sums = integrated_gradients(classifier, images, target_class, steps=steps, baseline=baseline).sum((1, 2, 3))
            errors.append(((sums - (ends[0] - ends[1])).abs().max() / (ends[0] - ends[1]).abs().max()).item())
    assert errors[0] > errors[1] > errors[2]
    assert errors[-1] < 1e-3


def test_smooth_gradient_is_the_mean_of_captums_saliency():
    classifier, images = small_classifier(dtype=torch.float64), lattice_images(3, dtype=torch.float64)
    target_class = torch.tensor([0, 1, 2])
    noise = list(0.1 * torch.randn(6, *images.shape[1:], generator=torch.Generator().manual_seed(0)).double())
    saliency = Saliency(classifier)
    terms = [saliency.attribute((images + n).requires_grad_(), target=target_class, abs=False) for n in noise]
    ours = smooth_gradient(classifier, images, target_class, noise)
    torch.testing.assert_close(ours, torch.stack(terms).mean(0), rtol=0, atol=1e-10)


def test_smooth_gradient_is_captums_noise_tunnel_with_its_draws_replaced(monkeypatch):
    classifier, images = small_classifier(dtype=torch.float64), lattice_images(2, dtype=torch.float64)
    target_class, count = torch.tensor([1, 3]), 5
    noise = 0.1 * torch.randn(count, *images.shape[1:], generator=torch.Generator().manual_seed(0)).double()
    # captum repeats every image ``count`` times in a row and draws for all of them at once.
    monkeypatch.setattr(torch, "normal", lambda mean, std: mean + noise.repeat(len(images), 1, 1, 1))
    theirs = NoiseTunnel(Saliency(classifier)).attribute(
        images, nt_type="smoothgrad", nt_samples=count, stdevs=0.1, target=target_class, abs=False
    )
    ours = smooth_gradient(classifier, images, target_class, list(noise))
    torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-10)


def test_a_mean_gradient_without_points_is_refused():
    with pytest.raises(ValueError, match="points is empty"):
        mean_gradient(small_classifier(), [], torch.tensor([0]), create_graph=False)


@pytest.mark.parametrize("create_graph", [False, True])
def test_a_mean_gradient_holds_one_graph_at_a_time_unless_it_is_to_be_differentiated(create_graph):
    class Saved:
        def __init__(self, tensor: Tensor) -> None:
            self.tensor = tensor

    classifier, images = small_classifier(), lattice_images(2)
    alive: weakref.WeakSet[Saved] = weakref.WeakSet()
    counts = []

    def pack(tensor: Tensor) -> Saved:
        saved = Saved(tensor)
        alive.add(saved)
        return saved

    def classify(x: Tensor) -> Tensor:
        counts.append(len(alive))
        return classifier(x)

    leaf = images.requires_grad_(create_graph)
    with torch.autograd.graph.saved_tensors_hooks(pack, lambda saved: saved.tensor):
        points = [(1.0, leaf + 0.01 * i) for i in range(4)]
        gradient = mean_gradient(classify, points, torch.tensor([0, 1]), create_graph=create_graph)
    assert gradient.requires_grad is create_graph
    assert counts == sorted(counts)
    assert (counts[-1] > 3 * counts[1] // 2) if create_graph else not any(counts)


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


def test_grad_cam_is_the_rectified_sum_of_features_weighted_by_their_mean_gradient():
    generator = torch.Generator().manual_seed(0)
    features, gradient = (torch.randn(3, 5, 2, 4, generator=generator) for _ in range(2))
    expected = np.zeros((3, 1, 2, 4))
    for b in range(3):
        for d in range(5):
            expected[b, 0] += gradient[b, d].numpy().mean() * features[b, d].numpy()
    assert expected.min() < 0
    np.testing.assert_allclose(grad_cam(features, gradient).numpy(), expected.clip(0), atol=1e-6)
    with PaperReLU(tau=1.0):  # smooths the network's ReLUs; this one is the map's own
        np.testing.assert_allclose(grad_cam(features, gradient).numpy(), expected.clip(0), atol=1e-6)


@pytest.mark.parametrize(
    ("height", "width", "pool"), [(6, 8, 2), (95, 95, 16), (97, 64, 16), (7, 10, 3), (60, 1, 2), (3, 3, 4)]
)
def test_gradient_map_covers_the_whole_image_evenly(height, width, pool):
    """Against the integral of the image over cells of equal size, by cumulated sums."""
    gradient = torch.randn(2, 3, height, width, generator=torch.Generator().manual_seed(0)).double()
    saliency = np.abs(gradient.numpy()).max(1)

    def means(values: np.ndarray, axis: int) -> np.ndarray:
        side = values.shape[axis]
        cells = math.ceil(side / pool)
        total = np.insert(np.cumsum(np.moveaxis(values, axis, -1), -1), 0, 0, -1)
        edges = np.linspace(0, side, cells + 1)
        at = np.apply_along_axis(lambda row: np.interp(edges, np.arange(side + 1), row), -1, total)
        return np.moveaxis(np.diff(at) * cells / side, -1, axis)

    found = gradient_map(gradient, pool)
    assert found.shape == (2, 1, math.ceil(height / pool), math.ceil(width / pool))
    np.testing.assert_allclose(found[:, 0].numpy(), means(means(saliency, 1), 2), atol=1e-12)
    # No pixel is lost, and none counts more than another.
    np.testing.assert_allclose(found.mean((1, 2, 3)).numpy(), saliency.mean((1, 2)), atol=1e-12)


@pytest.mark.parametrize(("side", "pool"), [(95, 16), (97, 16), (33, 4), (17, 2)])
def test_what_is_enlarged_again_lies_where_it_was(side, pool):
    for row in range(0, side, 3):
        gradient = torch.zeros(1, 1, side, side)
        gradient[..., row, :] = 1.0
        shown = resize_map(gradient_map(gradient, pool), (side, side))[0, 0].mean(1)
        centre = float((shown * torch.arange(side)).sum() / shown.sum())
        assert abs(centre - row) <= pool, "the brightest place is within a cell of the line"


def test_pooling_that_divides_the_size_is_the_plain_average_to_the_bit():
    gradient = torch.randn(3, 3, 32, 48, generator=torch.Generator().manual_seed(1))
    assert torch.equal(gradient_map(gradient, 4), F.avg_pool2d(gradient.abs().amax(1, keepdim=True), 4))


def test_the_gradient_of_an_uneven_pooling_is_exact():
    values = torch.randn(2, 2, 5, 7, generator=torch.Generator().manual_seed(2)).double().requires_grad_()
    assert torch.autograd.gradcheck(lambda x: gradient_map(x, 2), (values,))
