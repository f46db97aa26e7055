"""Bring a decoded image to the size that a classifier takes, and its object's boxes or mask with it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple, TypeAlias

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torchvision.transforms import v2
from torchvision.tv_tensors import BoundingBoxes

from lightning_adv2.data.boxes import boxes_to_mask
from lightning_adv2.data.decode import check_pixels
from lightning_adv2.data.images import Mask, Pixels, UnreadableImageError

Transform: TypeAlias = Callable[..., Any]
"""Takes and returns an image and its object, as those of ``torchvision.transforms.v2`` do."""

Where: TypeAlias = BoundingBoxes | Image.Image | None
"""The place of the object in an image: boxes, a picture of its size that is white on the object, or None."""

_GRID = 2**14  # per pixel: torchvision resizes boxes in single precision, and an edge may lie on a pixel's centre


class Fitted(NamedTuple):
    """An image as the classifier gets it.

    Attributes:
        pixels: ``(H, W, 3)`` uint8.
        mask: the object's pixels, ``(H, W)`` bool, or None where nobody knows.
        boxes: ``(M, 4)`` float32 xmin, ymin, xmax, ymax in pixels, or None; boxes wholly outside the image are at the
            end, as zeros.
    """

    pixels: Pixels
    mask: Mask | None = None
    boxes: Tensor | None = None


class ResizeAndCrop:
    """Resize the shorter side to ``resize`` (bicubic, antialiased), and keep the central square of side ``crop``.

    Args:
        resize: in pixels, or None.
        crop: in pixels, or None.
        transform: is applied after these, or None. It must do the same at each call.

    Raises:
        ValueError: ``resize`` or ``crop`` is below 1.
    """

    def __init__(self, resize: int | None, crop: int | None, transform: Transform | None) -> None:
        for name, value in (("resize", resize), ("crop", crop)):
            if value is not None and value < 1:
                raise ValueError(f"{name}={value}: give at least 1 pixel, or None to leave it out")
        self.resize, self.crop, self.transform = resize, crop, transform
        self._resize = None if resize is None else v2.Resize(resize, v2.InterpolationMode.BICUBIC, antialias=True)
        self._crop = None if crop is None else v2.CenterCrop(crop)

    def __call__(self, image: Image.Image, where: Where, image_id: str) -> Fitted:
        """Fit one image.

        Args:
            image: RGB, of any size.
            where: its object; see :func:`boxes_in`.
            image_id: its name, for errors.

        Raises:
            TypeError: ``transform`` returns no 8-bit image.
            ValueError: ``crop`` is larger than the image.
            UnreadableImageError: more pixels than ``PIL.Image.MAX_IMAGE_PIXELS`` after resizing.
        """
        if self.resize is not None and self._resize is not None:
            try:
                check_pixels(*(side * self.resize // min(image.size) for side in image.size))  # of a line, a wide band
            except ValueError as error:
                raise UnreadableImageError(image_id, f"after resizing, {error}") from error
            image, where = self._resize(image, where)
        if self.crop is not None and self._crop is not None:
            if min(image.size) < self.crop:
                raise ValueError(
                    f"crop={self.crop}: {image_id} is only {image.height} x {image.width} pixels; set resize to "
                    f"{self.crop} or more"
                )
            image, where = self._crop(image, where)
        found: Any = image
        if self.transform is not None:
            found, where = self.transform(image, where)
        if isinstance(found, Tensor) and found.dtype == torch.uint8:
            found = v2.functional.to_pil_image(found)
        if not isinstance(found, Image.Image):
            kind = getattr(found, "dtype", type(found).__name__)
            raise TypeError(
                f"transform={type(self.transform).__name__} makes {kind} of {image_id}; it must return an 8-bit image: "
                "leave out ToDtype and Normalize, which are the classifier's"
            )
        pixels = np.asarray(found.convert("RGB"))
        if not isinstance(where, BoundingBoxes):
            return Fitted(pixels, None if where is None else np.asarray(where.convert("RGB"))[..., 0] >= 128)
        boxes = _left(where)
        return Fitted(pixels, boxes_to_mask(boxes.numpy(), found.height, found.width), boxes.float())


def boxes_in(boxes: Any, image: Image.Image) -> BoundingBoxes:
    """Return boxes of an image, cut off at its edges, that any transform takes along.

    Args:
        boxes: ``(M, 4)`` xmin, ymin, xmax, ymax in pixels, 0-based and half-open.
        image: the image that they are of.
    """
    given = torch.tensor(boxes, dtype=torch.float64).reshape(-1, 4)
    whole = BoundingBoxes(given, format="XYXY", canvas_size=(image.height, image.width))
    clamped: BoundingBoxes = v2.functional.clamp_bounding_boxes(whole)
    return clamped


def _left(boxes: BoundingBoxes) -> Tensor:
    """The boxes ``(M, 4)`` with an area, then zeros for those that a crop has cut off."""
    found = (boxes.as_subclass(Tensor) * _GRID).round() / _GRID
    has_area = (found[:, 0] < found[:, 2]) & (found[:, 1] < found[:, 3])
    left = torch.zeros_like(found)
    left[: int(has_area.sum())] = found[has_area]
    return left
