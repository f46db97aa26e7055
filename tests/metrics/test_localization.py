from __future__ import annotations

import math
import random
from hashlib import sha256

import pytest
import torch
from torch import Tensor

from lightning_adv2.functional.localization import boxes_above, thresholds
from lightning_adv2.functional.masking import resize_map
from lightning_adv2.metrics.localization import (
    ALPHAS,
    CANDIDATES,
    Located,
    Object,
    baselines,
    calibrates,
    choose,
    evaluate,
    images_of,
    locate,
)

SIZE = (24, 24)


def scene(count: int, seed: int = 0) -> tuple[Tensor, list[str]]:
    """Rectangles of 9 to 30% of the image, anywhere."""
    rng, masks = random.Random(seed), torch.zeros(count, 1, *SIZE, dtype=torch.bool)
    for mask in masks:
        width, height = rng.randint(7, 13), rng.randint(7, 13)
        left, top = rng.randint(0, 24 - width), rng.randint(0, 24 - height)
        mask[0, top : top + height, left : left + width] = True
    return masks, [f"image-{seed}/{i}" for i in range(count)]


def located(maps: Tensor, masks: Tensor, names: list[str], batch_size: int = 16) -> list[Located]:
    parts = []
    for index, start in enumerate(range(0, len(maps), batch_size)):
        rows = slice(start, start + batch_size)
        parts.append(locate(maps[rows], Object.of(masks[rows], None, SIZE), names[rows], index))
    return parts


def test_a_perfect_interpreter_misses_nothing_and_a_random_one_much() -> None:
    masks, names = scene(160)
    row, _ = evaluate(images_of(located(masks.float(), masks, names)))
    assert (row["error"], row["iou"], row["mask_iou"], row["pointing"], row["energy_inside"]) == (0, 1, 1, 1, 1)
    assert 0 == row["error_low"] < row["error_high"] < 0.1, "some width, even so"
    chance = torch.rand(160, 1, 6, 6, generator=torch.Generator().manual_seed(0))
    row, _ = evaluate(images_of(located(chance, masks, names)))
    assert row["error"] > 0.8
    assert row["error_low"] <= row["error"] <= row["error_high"]
    assert row["energy_inside"] == pytest.approx(float(masks.float().mean()), abs=0.04)


def test_the_error_is_that_of_the_boxes_which_the_functions_make() -> None:
    masks, names = scene(48, seed=3)
    maps = torch.rand(48, 1, 24, 24, generator=torch.Generator().manual_seed(1)) * (1.0 + 0.12 * masks.float())
    images = images_of(located(maps, masks, names))
    row, best = evaluate(images)
    assert best is not None
    rule, alpha = CANDIDATES[best]
    enlarged = resize_map(maps, SIZE)
    boxes = boxes_above(enlarged, thresholds(enlarged, rule, [alpha]))[:, 0]
    assert [image.boxes[best].tolist() for image in images] == boxes.tolist()
    missed = []
    for mask, (left, top, right, bottom), name in zip(masks[:, 0], boxes.tolist(), names, strict=True):
        found = torch.zeros(SIZE, dtype=torch.bool)
        found[top:bottom, left:right] = True
        if not calibrates(name):  # the masks are rectangles, so that counting pixels is the IoU of the boxes
            missed.append(float((found & mask).sum() / (found | mask).sum()) <= 0.5)
    assert 0 < sum(missed) < len(missed)
    assert row["error"] == pytest.approx(sum(missed) / len(missed))
    assert row["n"] == len(missed)


def test_alpha_is_not_chosen_on_what_is_reported() -> None:
    """Calibration images want a high alpha, the reported ones a low one: the high one is taken, and misses them all."""
    masks, names = scene(80, seed=4)
    maps = torch.zeros(masks.shape)
    for shown, mask, name in zip(maps, masks, names, strict=True):
        if calibrates(name):  # bright everywhere, but for a corner
            shown.copy_(torch.where(mask, 1.0, 0.8))
            shown.view(-1)[0 if not mask.view(-1)[0] else -1] = 0
        else:  # one bright point on a dim object
            shown[mask] = 0.5
            shown[tuple(mask.nonzero()[0].tolist())] = 3
    images = images_of(located(maps, masks, names))
    row, _ = evaluate(images)
    assert (row["rule"], row["alpha"], row["calibration_error"], row["error"]) == ("value", 0.85, 0, 1)
    tuned = choose([image for image in images if not calibrates(image.image_id)])
    assert tuned is not None
    assert tuned.errors[tuned.best] == 0, "what choosing on the reported images would have given"


def test_the_parts_are_of_the_names_alone() -> None:
    names = [f"n{i}" for i in range(4000)]
    first = [name for name in names if calibrates(name, 0.25)]
    assert len(first) / 4000 == pytest.approx(0.25, abs=0.03)
    assert set(first) < {name for name in names if calibrates(name, 0.5)}
    for name in names[:50]:
        assert calibrates(name) == (sha256(f"localization/{name}".encode()).digest()[0] < 128)


def test_any_order_of_the_batches_and_an_image_that_comes_twice() -> None:
    masks, names = scene(40, seed=5)
    maps = torch.rand(40, 1, 6, 6, generator=torch.Generator().manual_seed(2))
    parts = located(maps, masks, names, 8)
    twice = locate(maps[:4].flip(-1), Object.of(masks[:4], None, SIZE), names[:4], 9)  # padding, with another result
    assert evaluate(images_of([twice, *parts[::-1]])) == evaluate(images_of(parts))
    assert [image.image_id for image in images_of([twice, *parts[::-1]])] == names


def test_equals_go_to_the_higher_iou_then_to_the_first() -> None:
    masks, names = scene(30, seed=6)
    blur = torch.nn.functional.avg_pool2d(masks.float(), 5, 1, 2)
    choice = choose(images_of(located(blur, masks, names)))
    assert choice is not None
    iou = torch.stack([image.iou for image in images_of(located(blur, masks, names))])
    assert choice.errors == pytest.approx((iou <= 0.5).double().mean(0).tolist())
    best = [i for i, error in enumerate(choice.errors) if error == min(choice.errors)]
    assert len(best) > 1
    assert choice.best == max(best, key=lambda i: (float(iou[:, i].mean()), -i))


def test_several_boxes_and_those_that_fill_up() -> None:
    boxes = torch.tensor([[[2.0, 2, 10, 10], [14, 14, 20, 20]], [[4.0, 4, 22, 12], [0, 0, 0, 0]], [[0.0] * 4] * 2])
    found = Object.of(None, boxes, SIZE)
    assert not found.exact
    assert found.largest.tolist() == pytest.approx([64 / 576, 144 / 576, 0])
    shown = torch.zeros(2, 1, *SIZE)
    shown[0, 0, 14:20, 14:20] = 1  # the second object
    shown[1, 0, 4:12, 4:22] = 1
    part = locate(shown, found.only(torch.tensor([0, 1])), ["a", "b"], 0)
    assert part.mask_iou is None
    assert part.pointing.tolist() == [True, True]
    images = images_of([part])
    assert [image.iou[0].item() for image in images] == [1, 1]
    assert [len(image.true_boxes) for image in images] == [2, 1]
    by_name = baselines(images, SIZE, share=1e-9)
    assert by_name["whole image"]["iou"] == pytest.approx((64 + 144) / 2 / 576)
    assert by_name["whole image"]["error"] == 1
    assert by_name["central box"]["n"] == 2


def test_maps_that_are_not_finite_count_nowhere() -> None:
    masks, names = scene(40, seed=7)
    maps = masks.float()
    maps[::4] = math.nan
    row, _ = evaluate(images_of(located(maps, masks, names)))
    assert row["invalid"] == 10
    assert row["n"] + row["calibration_n"] == 30
    assert row["error"] == 0


def test_too_few_images_give_no_figure() -> None:
    masks, _ = scene(1)
    only = next(name for name in "abcdef" if calibrates(name))
    row, best = evaluate(images_of(located(masks.float(), masks, [only])))
    assert (row["n"], row["calibration_n"], row["error"]) == (0, 1, None)
    other = next(name for name in "abcdef" if not calibrates(name))
    row, best = evaluate(images_of(located(masks.float(), masks, [other])))
    assert (row["n"], row["error"], row["rule"], best) == (1, None, None, None)
    assert evaluate([])[0]["error"] is None


def test_candidates_are_those_published() -> None:
    assert len(CANDIDATES) == sum(map(len, ALPHAS.values())) == 58
    assert ALPHAS["value"] == pytest.approx([0.05 * i for i in range(1, 20)])
    assert ALPHAS["mean"][-1] == 10
