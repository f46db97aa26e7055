from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy import ndimage
from torch import Tensor
from torchvision.ops import box_iou, masks_to_boxes

from lightning_adv2.functional.localization import (
    RULES,
    Rule,
    best_iou,
    boxes_above,
    boxes_to_masks,
    central_box,
    energy_inside,
    mask_boxes,
    pointing_game,
    region_iou,
    thresholds,
)
from lightning_adv2.functional.masking import resize_map

SIZE = (20, 30)


def rectangle(left: int, top: int, right: int, bottom: int, size: tuple[int, int] = SIZE) -> Tensor:
    mask = torch.zeros(1, 1, *size, dtype=torch.bool)
    mask[:, :, top:bottom, left:right] = True
    return mask


def noise(count: int, size: tuple[int, int] = SIZE, seed: int = 0) -> Tensor:
    return torch.rand(count, 1, *size, generator=torch.Generator().manual_seed(seed))


def oracle(region: Tensor) -> list[int]:
    """The box of all True pixels by scipy."""
    rows, columns = ndimage.find_objects(region.numpy().astype(np.int32))[0]
    return [columns.start, rows.start, columns.stop, rows.stop]


def box(maps: Tensor, rule: Rule, alpha: float, size: tuple[int, int] = SIZE) -> list[list[int]]:
    """The box that each map makes by a rule, once it is enlarged to the image."""
    enlarged = resize_map(maps, size)
    return boxes_above(enlarged, thresholds(enlarged, rule, [alpha]))[:, 0].tolist()  # type: ignore[no-any-return]


corners = st.tuples(st.integers(0, 28), st.integers(0, 18), st.integers(1, 30), st.integers(1, 20)).map(
    lambda c: (c[0], c[1], min(c[0] + c[2], 30), min(c[1] + c[3], 20))
)


@given(corners, st.sampled_from([("value", 0.05), ("value", 0.95), ("energy", 0.05), ("energy", 0.95), ("mean", 0.99)]))
def test_a_rectangle_gives_itself(corner: tuple[int, int, int, int], how: tuple[Rule, float]) -> None:
    shown = rectangle(*corner).float()
    assert box(shown, *how) == [list(corner)]


def test_mean_thresholding_asks_for_more_than_a_rectangle_has() -> None:
    """A rectangle of a tenth of the image is ten times as bright as the mean: alpha 9.9 keeps it, 10.1 nothing."""
    shown = rectangle(4, 3, 14, 9).float()  # 60 of 600 pixels
    assert box(shown, "mean", 9.9) == [[4, 3, 14, 9]]
    assert box(shown, "mean", 10.1) == [[0, 0, 30, 20]]


@pytest.mark.parametrize("alpha", [0.05, 0.3, 0.7, 0.95])
def test_value_is_of_the_map_brought_to_0_and_1(alpha: float) -> None:
    for shown in noise(8) ** 6:
        scaled = (shown[0] - shown.min()) / (shown.max() - shown.min())
        expected = oracle(scaled.double() >= alpha)
        assert box(shown[None], "value", alpha) == [expected]
        moved = 0.2 + 0.7 * scaled[None, None]
        assert box(moved, "value", alpha + 1e-6) == [oracle(scaled.double() >= alpha + 1e-6)]


@pytest.mark.parametrize("alpha", [0.5, 1.0, 1.7, 1.95])
def test_mean(alpha: float) -> None:
    for shown in noise(8, seed=1):
        region = shown[0].double() >= alpha * shown.double().mean()
        assert box(shown[None], "mean", alpha) == [oracle(region)]


@given(st.integers(0, 10_000), st.floats(0.01, 0.99), st.sampled_from([1, 6]), st.booleans())
def test_energy_is_held_by_as_few_pixels_as_can(seed: int, alpha: float, power: int, coarse: bool) -> None:
    shown = noise(1, (9, 11), seed) ** power
    shown = (shown * 4).round() / 4 if coarse else shown  # many equal values
    if not shown.any():
        return
    (cut,) = thresholds(shown, "energy", [alpha])[0]
    values = shown.double().flatten()
    held, without_last = (float(values[keep].sum() / values.sum()) for keep in (values >= cut, values > cut))
    assert held >= alpha - 1e-12
    assert without_last < alpha + 1e-12
    assert box(shown, "energy", alpha, (9, 11)) == [oracle(shown[0, 0].double() >= cut)]


def test_several_maps_and_alphas_are_each_their_own() -> None:
    shown, alphas = noise(5) ** 8, [0.2, 0.6, 0.9]
    for rule in RULES:
        both = boxes_above(shown, thresholds(shown, rule, alphas))
        assert both.shape == (5, 3, 4)
        for i, one in enumerate(shown):
            assert both[i].tolist() == [box(one[None], rule, alpha)[0] for alpha in alphas]


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("level", [0.0, 0.3, 1.0])
def test_a_map_that_says_nothing_means_the_whole_image(rule: Rule, level: float) -> None:
    assert box(torch.full((1, 1, 5, 7), level), rule, 0.5) == [[0, 0, 30, 20]]


def test_small_maps_are_enlarged() -> None:
    shown = torch.zeros(1, 1, 4, 6)
    shown[0, 0, 1, 2] = 1.0  # between its neighbours, at 0, bilinear interpolation falls off linearly
    # The pixel covers 5 x 5 of 20 x 30, centre (12, 7); at 0.5 its level set is |dx| <= 2.5, |dy| <= 2.5 or less.
    left, top, right, bottom = box(shown, "value", 0.5)[0]
    assert (left + right) / 2 == pytest.approx(12.5)
    assert (top + bottom) / 2 == pytest.approx(7.5)
    assert right - left == bottom - top == 5
    # The same rule finds less at a higher alpha.
    assert box(shown, "value", 0.95)[0] == [12, 7, 13, 8]


def test_an_unknown_rule() -> None:
    with pytest.raises(ValueError, match=r"rule='median'.*value, energy, mean"):
        thresholds(noise(1), "median", [0.5])  # type: ignore[arg-type]


def test_mask_boxes_against_torchvision() -> None:
    masks = noise(20, seed=2) > 0.995
    masks[0] = rectangle(3, 4, 5, 6)
    present = masks.flatten(1).any(1)
    assert 2 < present.sum() < 20
    expected = masks_to_boxes(masks[present][:, 0]) + torch.tensor([0, 0, 1, 1])  # whose edges are inclusive
    assert mask_boxes(masks)[present].tolist() == expected.long().tolist()
    assert mask_boxes(masks)[~present].tolist() == [[0, 0, 30, 20]] * int((~present).sum())


def test_iou_of_the_box_that_fits_best() -> None:
    found = torch.tensor([[[0, 0, 10, 10], [5, 5, 10, 10]], [[2, 2, 4, 4], [0, 0, 30, 20]]])
    true = torch.tensor([[[0.0, 0, 10, 5], [5, 5, 12, 10]], [[2, 2, 4, 4], [0, 0, 0, 0]]])
    # 50 / 100 against 25 / 110; 0 against 25 / 35; itself; 4 / 600
    assert best_iou(found, true).tolist() == [pytest.approx([0.5, 25 / 35]), pytest.approx([1.0, 4 / 600])]
    for i in range(2):
        assert best_iou(found, true)[i].tolist() == box_iou(found[i].double(), true[i].double()).amax(1).tolist()


def test_region_iou_pixel_by_pixel() -> None:
    shown, mask, levels = noise(3, seed=4), noise(3, seed=5) > 0.4, [0.1, 0.5, 0.8, 2.0]
    found = region_iou(shown, torch.tensor([levels] * 3), mask)
    for i in range(3):
        inside = mask[i, 0].numpy()
        for j, level in enumerate(levels):
            region = shown[i, 0].numpy() >= level if level < 1 else np.ones(SIZE, bool)
            assert found[i, j] == pytest.approx((region & inside).sum() / (region | inside).sum())


def test_pointing_and_energy() -> None:
    shown = torch.zeros(4, 1, *SIZE)
    mask = rectangle(5, 5, 10, 10).expand(4, -1, -1, -1)
    shown[0, 0, 7, 7], shown[0, 0, 0, 0] = 0.6, 0.2  # on it, three quarters inside
    shown[1, 0, 10, 10], shown[1, 0, 9, 9] = 0.5, 0.3  # just off it
    shown[2] = 0.4  # nowhere
    assert pointing_game(shown, mask).tolist() == [True, False, False, False]
    assert energy_inside(shown, mask).tolist() == pytest.approx([0.75, 0.375, 25 / 600, 0.0])


def test_boxes_to_masks_takes_pixels_whose_centre_is_inside() -> None:
    boxes = torch.tensor([[[1.5, 2.0, 3.6, 4.4], [6, 6, 8, 8]], [[0, 0, 0, 0], [0, 0, 30, 1]]])
    first, second = boxes_to_masks(boxes, SIZE)
    assert torch.equal(first, (rectangle(1, 2, 4, 4) | rectangle(6, 6, 8, 8))[0])
    assert torch.equal(second, rectangle(0, 0, 30, 1)[0])


def test_the_central_box_takes_its_share() -> None:
    left, top, right, bottom = central_box((100, 200))
    assert (right - left) * (bottom - top) == pytest.approx(100 * 200 / 2)
    assert (left + right, top + bottom) == pytest.approx((200, 100))
    assert (right - left) / (bottom - top) == pytest.approx(2)
