from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
from cases import lattice_images
from scipy import optimize, spatial
from torch import Tensor

from lightning_adv2.attacks import adv2_cam, pgd, run_attack
from lightning_adv2.detectors import LID
from lightning_adv2.detectors.lid import activations, fit_logistic, local_intrinsic_dimensionality
from lightning_adv2.functional.random import draw_target_class, image_generators
from lightning_adv2.interpreters import CAM
from lightning_adv2.models import Classifier


def test_the_formula() -> None:
    generator = np.random.default_rng(0)
    distances = generator.uniform(0.1, 3, (7, 30))
    for k in (2, 5, 30):
        nearest = np.sort(distances, 1)[:, :k]
        expected = -1 / np.mean(np.log(nearest / nearest[:, -1:]), 1)
        estimate = local_intrinsic_dimensionality(torch.from_numpy(distances), k)
        np.testing.assert_allclose(estimate, expected, rtol=1e-12)
    by_hand = torch.tensor([[4.0, 1.0, 2.0, 99.0, float("inf")]])
    assert float(local_intrinsic_dimensionality(by_hand, 3)) == pytest.approx(3 / (np.log(4) + np.log(2)))


@pytest.mark.parametrize("dimension", [1, 2, 5, 10])
def test_uniform_points_in_a_ball(dimension: int) -> None:
    """Seen from the centre, log(r_k / r_i) is exponential with rate d, so 1 / LID has the mean (k - 1) / (k d)."""
    generator, k, trials = np.random.default_rng(dimension), 20, 400
    direction = generator.normal(size=(trials, 200, dimension))
    direction /= np.linalg.norm(direction, axis=2, keepdims=True)
    ball = direction * generator.uniform(size=(trials, 200, 1)) ** (1 / dimension)
    embedding = np.linalg.qr(generator.normal(size=(30, dimension)))[0]  # a ball within 30 dimensions
    distances = torch.from_numpy(np.linalg.norm(ball @ embedding.T, axis=2))
    inverse = 1 / local_intrinsic_dimensionality(distances, k)
    assert float(inverse.mean()) == pytest.approx((k - 1) / (k * dimension), rel=4 / np.sqrt(trials * k))


def test_degenerate_distances() -> None:
    estimate = local_intrinsic_dimensionality(torch.tensor([[1.0, 1.0, 1.0], [0.0, 0.0, 0.0], [0.0, 1.0, 2.0]]), 3)
    assert estimate.isfinite().all()
    assert (estimate > 0).all()
    for k in (1, 4):
        with pytest.raises(ValueError, match=f"k={k}: from 2 to the number of reference points, 3"):
            local_intrinsic_dimensionality(torch.ones(1, 3), k)


def test_logistic_regression_is_scipys() -> None:
    generator = np.random.default_rng(0)
    x = generator.normal(size=(60, 4))
    y = x[:, 0] - 0.5 * x[:, 2] + generator.normal(size=60) > 0.3

    def loss(w: np.ndarray) -> float:
        return float(np.logaddexp(0, -(x @ w[:4] + w[4]) * (2 * y - 1)).mean() + 0.005 * (w[:4] ** 2).sum())

    best = optimize.minimize(loss, np.zeros(5), tol=1e-12).x
    weight, bias = fit_logistic(torch.from_numpy(x), torch.from_numpy(y), l2=0.01)
    np.testing.assert_allclose([*weight, bias], best, atol=1e-4)
    with torch.no_grad():
        weight, _ = fit_logistic(torch.tensor([[-1.0], [1.0]]), torch.tensor([False, True]))
    assert weight.isfinite().all(), "separable, yet bounded"


@pytest.fixture
def fitted(classifier64: Classifier) -> tuple[LID, Tensor, Tensor]:
    """A detector with its calibration images and their labels."""
    images = lattice_images(60, seed=5, dtype=torch.float64)
    with torch.no_grad():
        label = classifier64(images).argmax(1)
    detector = LID(k=5, attack=pgd(steps=8), seed=1)
    detector.fit(classifier64, CAM(), images, label)
    return detector, images, label


def test_each_image_by_itself(classifier64: Classifier, fitted: tuple[LID, Tensor, Tensor]) -> None:
    detector, calibration, _ = fitted
    images = torch.cat([lattice_images(4, seed=9, dtype=torch.float64), calibration[:4]])
    together = detector.score(classifier64, CAM(), images)
    assert together.shape == (8,)
    singles = torch.cat([detector.score(classifier64, CAM(), image[None]) for image in images])
    torch.testing.assert_close(together, singles, rtol=0, atol=1e-9)


def test_a_reference_image_is_not_its_own_neighbour(
    classifier64: Classifier, fitted: tuple[LID, Tensor, Tensor]
) -> None:
    """The estimates of calibration images, against scipy's distances without the image itself."""
    detector, calibration, _ = fitted
    order = torch.randperm(60, generator=torch.Generator().manual_seed(1))
    reference = calibration[order[:30]]
    found = detector._measure(classifier64, calibration)
    for depth, (ours, all_features) in enumerate(
        zip(activations(classifier64, reference), activations(classifier64, calibration), strict=True)
    ):
        apart = spatial.distance.cdist(all_features.numpy(), ours.numpy())
        apart[order[:30], np.arange(30)] = np.inf
        nearest = np.sort(apart, 1)[:, :5]
        expected = -1 / np.mean(np.log(nearest / nearest[:, -1:]), 1)
        np.testing.assert_allclose(found[:, depth].exp(), expected, rtol=1e-6)


def test_the_same_again(classifier64: Classifier, fitted: tuple[LID, Tensor, Tensor]) -> None:
    detector, calibration, label = fitted
    other = LID(k=5, attack=pgd(steps=8), seed=1)
    torch.manual_seed(123)
    before = torch.get_rng_state()
    other.fit(classifier64, CAM(), calibration, label)
    assert torch.equal(torch.get_rng_state(), before)
    images = lattice_images(3, seed=9, dtype=torch.float64)
    assert torch.equal(other.score(classifier64, CAM(), images), detector.score(classifier64, CAM(), images))


def test_adversarial_images_score_higher(classifier64: Classifier, fitted: tuple[LID, Tensor, Tensor]) -> None:
    detector, _, _ = fitted
    images = lattice_images(40, seed=77, dtype=torch.float64)
    with torch.no_grad():
        label = classifier64(images).argmax(1)
    target = draw_target_class(label, 4, image_generators(0, [str(i) for i in range(40)]))
    result = run_attack(pgd(steps=8), classifier64, None, images, target)
    assert result.success.any()
    benign = detector.score(classifier64, CAM(), images)
    adversarial = detector.score(classifier64, CAM(), result.adv_images[result.success])
    assert (adversarial[:, None] > benign[None]).double().mean() > 0.5


def test_the_classifier_is_left_as_it_was(classifier64: Classifier, fitted: tuple[LID, Tensor, Tensor]) -> None:
    assert all(p.grad is None and p.requires_grad for p in classifier64.parameters())
    assert not fitted[0]._weight.requires_grad


def test_errors(classifier: Classifier, make_images: Callable[..., Tensor]) -> None:
    images, label = make_images(12), torch.zeros(12, dtype=torch.int64)
    with pytest.raises(RuntimeError, match="call fit first"):
        LID().score(classifier, CAM(), images)
    with pytest.raises(ValueError, match=r"12 images, .* too few for k=6; give at least 14"):
        LID(k=6).fit(classifier, CAM(), images, label)
    with pytest.raises(ValueError, match="k=1: at least 2"):
        LID(k=1)
    with pytest.raises(ValueError, match="attack 'adv2' aims at a map"):
        LID(attack=adv2_cam())
    with torch.no_grad():
        classifier.linear.weight.zero_()
    with pytest.raises(RuntimeError, match="never reached its target class on 6 calibration images"):
        LID(k=5, attack=pgd(steps=1)).fit(classifier, CAM(), images, classifier(images).argmax(1))
