from __future__ import annotations

import numpy as np
import pytest
import torch

from lightning_adv2.metrics import BalancedAccuracy
from lightning_adv2.metrics.classification import recall

oracle = pytest.importorskip("sklearn.metrics")


def drawn(seed: int, classes: int, images: int, absent: int | None = None) -> tuple[torch.Tensor, torch.Tensor]:
    """Logits ``(N, K)`` that are right about half of the time, and labels in which class 0 is common."""
    rng = np.random.default_rng(seed)
    label = np.minimum(rng.geometric(0.4, images) - 1, classes - 1)
    if absent is not None:
        label[label == absent] = 0
    logits = rng.normal(size=(images, classes)) + 1.5 * np.eye(classes)[label]
    return torch.tensor(logits), torch.tensor(label)


@pytest.mark.parametrize(("seed", "classes"), [(0, 7), (1, 2), (2, 3)])
def test_it_is_scikit_learns_over_batches_of_any_size(seed: int, classes: int) -> None:
    logits, label = drawn(seed, classes, 211)
    metric = BalancedAccuracy(classes)
    for part, truth in zip(logits.split(50), label.split(50), strict=True):
        metric.update(part, truth)
    expected = oracle.balanced_accuracy_score(label, logits.argmax(1))
    assert abs(expected - float((logits.argmax(1) == label).double().mean())) > 1e-4, "alike shows nothing"
    assert float(metric.compute()) == pytest.approx(expected, abs=1e-12)
    metric.reset()
    assert np.isnan(float(metric.compute()))


def test_a_class_without_images_does_not_count() -> None:
    logits, label = drawn(3, 5, 200, absent=2)
    assert (logits.argmax(1) == 2).any()
    metric = BalancedAccuracy(5)
    metric.update(logits, label)
    with pytest.warns(UserWarning, match="classes not in y_true"):
        expected = oracle.balanced_accuracy_score(label, logits.argmax(1))
    assert float(metric.compute()) == pytest.approx(expected, abs=1e-12)


def test_recall_of_each_class() -> None:
    logits, label = drawn(4, 6, 300)
    counts = torch.tensor(oracle.confusion_matrix(label, logits.argmax(1), labels=range(6)))
    expected = oracle.recall_score(label, logits.argmax(1), average=None)
    np.testing.assert_allclose(recall(counts).numpy(), expected, atol=1e-12)
