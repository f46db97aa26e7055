"""Images and their objects through resize, crop, and whatever transform a user brings."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from jsonargparse import ArgumentParser
from PIL import Image
from torchvision.transforms import v2

from lightning_adv2.data import ImageFolderDataModule, ImageFolderDataset
from lightning_adv2.data.fitting import ResizeAndCrop, boxes_in
from lightning_adv2.runtime.describe import describe, differences

IMAGE = Image.fromarray(np.random.default_rng(0).integers(256, size=(20, 40, 3), dtype=np.uint8))
BOXES = [(2, 1, 10, 8), (30, 12, 45, 20), (50, 0, 60, 5)]


def fitted(transform: Any = None, resize: int | None = None, crop: int | None = None) -> Any:
    return ResizeAndCrop(resize, crop, transform)(IMAGE, boxes_in(BOXES, IMAGE), "an image")


def test_boxes_are_cut_off_at_the_edges_and_what_lies_outside_is_last() -> None:
    outside_first = [BOXES[2], *BOXES[:2]]
    found = ResizeAndCrop(None, None, None)(IMAGE, boxes_in(outside_first, IMAGE), "an image")
    assert found.boxes is not None
    assert found.boxes.dtype == torch.float32
    assert found.boxes.tolist() == [[2, 1, 10, 8], [30, 12, 40, 20], [0, 0, 0, 0]]
    assert np.array_equal(found.pixels, np.asarray(IMAGE))


def padded(pixels: Any) -> Any:
    return np.pad(pixels, ((4, 4), (4, 4), (0, 0))[: pixels.ndim])


FLIP = v2.RandomHorizontalFlip(1)


@pytest.mark.parametrize(
    ("transform", "turn", "boxes"),
    [
        (FLIP, lambda a: a[:, ::-1], [[30, 1, 38, 8], [0, 12, 10, 20]]),
        (v2.RandomVerticalFlip(1), lambda a: a[::-1], [[2, 12, 10, 19], [30, 0, 40, 8]]),
        (v2.Pad(4), padded, [[6, 5, 14, 12], [34, 16, 44, 24]]),
        (v2.Compose([v2.ToImage(), FLIP]), lambda a: a[:, ::-1], [[30, 1, 38, 8], [0, 12, 10, 20]]),
    ],
    ids=["flip", "upside down", "pad", "tensor"],
)
def test_any_transform_takes_boxes_and_mask_along(transform: Any, turn: Any, boxes: list[list[float]]) -> None:
    found, plain = fitted(transform), fitted()
    assert np.array_equal(found.pixels, turn(np.asarray(IMAGE)))
    assert found.boxes.tolist() == [*boxes, [0, 0, 0, 0]]
    assert np.array_equal(found.mask, turn(plain.mask))


def test_grey_stays_three_channels_and_comes_after_resize_and_crop() -> None:
    found = fitted(v2.Grayscale(), resize=10, crop=8)
    assert found.pixels.shape == (8, 8, 3)
    assert (found.pixels == found.pixels[..., :1]).all()
    assert found.boxes.tolist() == fitted(resize=10, crop=8).boxes.tolist()


@pytest.mark.parametrize(
    ("steps", "kind"),
    [
        ([v2.ToImage(), v2.ToDtype(torch.float32, scale=True)], "torch.float32"),
        ([v2.PILToTensor(), lambda image, boxes: (None, boxes)], "NoneType"),
    ],
)
def test_what_is_no_8_bit_image_is_refused(steps: list[Any], kind: str) -> None:
    with pytest.raises(TypeError, match=rf"transform=Compose makes {kind} of an image; .*leave out ToDtype"):
        fitted(v2.Compose(steps))


@pytest.mark.parametrize("side", [7, 16, 20, 31, 64])
def test_an_edge_on_a_pixels_centre_decides_as_in_exact_arithmetic(side: int) -> None:
    """In single precision 5 * 0.1 lies beyond the centre 0.5."""
    sides = range(20, 120, 7)
    for height in sides:
        image = Image.new("RGB", (height, height))
        boxes = [(a, 0, a + 3, height) for a in range(0, height - 3)]
        found = ResizeAndCrop(side, None, None)(image, boxes_in(boxes, image), "a")
        assert found.boxes is not None
        assert found.boxes[:, 0].numpy() == pytest.approx([a * side / height for a in range(height - 3)], abs=1e-4)
        for a in range(height - 3):
            one = ResizeAndCrop(side, None, None)(image, boxes_in(boxes[a : a + 1], image), "a").mask
            assert one is not None
            centres = [2 * a * side <= (2 * x + 1) * height < 2 * (a + 3) * side for x in range(side)]
            assert one[0].tolist() == centres, (height, a)


def test_a_configuration_names_the_transform(tmp_path: Path, write_images: Any) -> None:
    write_images(tmp_path, {"cat": 1})
    parser = ArgumentParser()
    parser.add_argument("--data", type=ImageFolderDataModule)
    flip = {"class_path": "torchvision.transforms.v2.RandomHorizontalFlip", "init_args": {"p": 1.0}}
    steps = {"class_path": "torchvision.transforms.v2.Compose", "init_args": {"transforms": [flip]}}
    plain = ImageFolderDataset(tmp_path, "val").uint8(0)
    for transform in (flip, steps):
        given = {"class_path": "ImageFolderDataModule", "init_args": {"root": str(tmp_path), "transform": transform}}
        data = parser.instantiate(parser.parse_object({"data": given})).data
        assert np.array_equal(data.dataset("val").uint8(0), plain[:, ::-1])
        assert data.dataset("val").image_size == plain.shape[:2]


def test_another_transform_is_another_experiment() -> None:
    one, other = (describe(v2.Compose([v2.RandomHorizontalFlip(p)])) for p in (0.0, 1.0))
    assert differences(one, other)
    assert not differences(one, describe(v2.Compose([v2.RandomHorizontalFlip(0.0)])))
