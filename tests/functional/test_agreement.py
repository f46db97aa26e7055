from __future__ import annotations

import numpy as np
import pytest
import torch
from torchmetrics.classification import BinaryJaccardIndex

from lightning_adv2.functional import agreement


def maps(seed: int, count: int = 20) -> torch.Tensor:
    return torch.rand(count, 1, 6, 5, generator=torch.Generator().manual_seed(seed))


def test_two_empty_maps_have_no_iou_and_an_empty_one_never_agrees_with_another():
    empty, some = torch.zeros(1, 1, 4, 4), torch.zeros(1, 1, 4, 4)
    some[0, 0, 1, 2] = 1
    assert agreement.map_iou(empty, empty).isnan().item()
    assert agreement.map_iou(empty, some).item() == 0
    assert agreement.map_iou(some, empty).item() == 0
    assert agreement.map_iou(some, some).item() == 1


def test_a_value_at_the_threshold_belongs_to_the_region():
    at, below = torch.full((1, 1, 2, 2), 0.5), torch.full((1, 1, 2, 2), 0.499)
    assert agreement.map_iou(at, torch.ones_like(at)).item() == 1
    assert agreement.map_iou(below, torch.ones_like(at)).item() == 0


@pytest.mark.parametrize("threshold", [0.3, 0.5, 0.9])
def test_iou_equals_torchmetrics_on_each_single_image(threshold):
    first, second = maps(0), maps(1)
    ours = agreement.map_iou(first, second, threshold)
    for a, b, value in zip(first, second, ours, strict=True):
        # zero_division: torchmetrics' own rule for empty pairs is 0; no pair here is empty
        theirs = BinaryJaccardIndex()((a >= threshold).int(), (b >= threshold).int())
        torch.testing.assert_close(value, theirs)


@pytest.mark.parametrize("distance", [agreement.map_iou, agreement.map_l1, agreement.map_l2])
def test_symmetric_and_within_zero_one(distance):
    first, second = maps(2), maps(3)
    value = distance(first, second)
    torch.testing.assert_close(value, distance(second, first))
    assert value.shape == (20,)
    assert ((value >= 0) & (value <= 1)).all()


def test_distances_equal_numpy():
    first, second = maps(4), maps(5)
    difference = (first - second).numpy().reshape(20, -1)
    np.testing.assert_allclose(agreement.map_l1(first, second), np.abs(difference).mean(1), rtol=1e-5)
    np.testing.assert_allclose(
        agreement.map_l2(first, second), np.linalg.norm(difference, axis=1) / np.sqrt(30), rtol=1e-5
    )


def test_perturbation_size_is_the_largest_change_of_each_image():
    images = torch.zeros(2, 3, 4, 4)
    adv_images = images.clone()
    adv_images[0, 1, 2, 3], adv_images[1, 0, 0, 0] = -0.2, 0.1
    torch.testing.assert_close(agreement.perturbation_norm(adv_images, images), torch.tensor([0.2, 0.1]))
