"""From the bytes of an image file to RGB, exactly or not at all, and to the size that a classifier takes."""

from __future__ import annotations

import io
import re
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageFile, ImageOps

from lightning_adv2.data.images import UnreadableImageError

# What Pillow converts to RGB without guessing a range of values, as it does for I and F (32-bit integers and floats).
_MODES = ("1", "CMYK", "L", "LA", "LAB", "P", "PA", "RGB", "RGBA", "RGBX", "RGBa", "YCbCr")


def decode_image(data: bytes, image_id: str, exif_rotation: bool = False) -> Image.Image:
    """The file's first frame as an RGB image of 8 bits.

    The bytes decide, not the file's name: a TIFF named ``.jpg`` is read as the TIFF that it is. Grey repeats its
    channel; a palette is looked up; an alpha channel is dropped and not blended, as torchvision does; CMYK goes by
    Pillow's plain formula, without a colour profile; 16-bit grey ``v`` becomes ``round(v / 257)``: white stays white.

    Args:
        data: the file's bytes.
        image_id: its name, for errors.
        exif_rotation: turn the image as its EXIF tag asks for. False leaves the pixels as they are stored, which is
            what torchvision does and what the published ImageNet figures, and boxes, refer to. (A TIFF comes turned
            either way: Pillow does that by itself.)

    Returns:
        The image, mode ``RGB``, decoded.

    Raises:
        UnreadableImageError: the file is empty, truncated, damaged or no image; it has more pixels than
            ``PIL.Image.MAX_IMAGE_PIXELS`` (a decompression bomb); it holds 32-bit whole numbers or floats, whose black
            and white are unknown.
    """
    if not data:
        raise UnreadableImageError(image_id, "the file is empty")
    try:
        with _whole_files_only(), Image.open(io.BytesIO(data)) as file:
            _check(file)
            image = ImageOps.exif_transpose(file) if exif_rotation else file
            return _eight_bits(image).convert("RGB")
    except Exception as error:  # decoders of damaged files raise all kinds
        raise UnreadableImageError(image_id, reason_of(error)) from error


def reason_of(error: Exception) -> str:
    """An error in words that are the same in every run: without a path or an object's address."""
    words = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
    return re.sub(r" <[^<>]* at 0x[0-9a-f]+>", "", words) or type(error).__name__


def resize_and_crop(
    image: Image.Image, boxes: NDArray[np.float64] | None, resize: int | None, crop: int | None, image_id: str
) -> tuple[Image.Image, NDArray[np.float64] | None]:
    """Bring the shorter side to ``resize`` (bicubic, antialiased) and keep the central square of side ``crop``.

    Args:
        image: of any size.
        boxes: ``(n, 4)`` xmin, ymin, xmax, ymax, or None; they follow the image.
        resize: in pixels, or None.
        crop: in pixels, or None.
        image_id: its name, for errors.

    Raises:
        ValueError: ``crop`` larger than the image.
        UnreadableImageError: more pixels than ``PIL.Image.MAX_IMAGE_PIXELS`` after resizing.
    """
    if resize is not None:
        original = np.array(image.size)
        size = original * resize // original.min()
        width, height = map(int, size)
        try:
            _check_size(width, height)  # a line of pixels becomes a wide band
        except ValueError as error:
            raise UnreadableImageError(image_id, f"after resizing, {error}") from error
        image = image.resize((width, height), Image.Resampling.BICUBIC)
        boxes = None if boxes is None else boxes * np.tile(size / original, 2)
    if crop is not None:
        if min(image.size) < crop:
            raise ValueError(
                f"crop={crop}: {image_id} is only {image.height} x {image.width} pixels; set resize to {crop} or more"
            )
        left, top = (round((side - crop) / 2) for side in image.size)
        image = image.crop((left, top, left + crop, top + crop))
        boxes = None if boxes is None else boxes - (left, top, left, top)
    return image, boxes


def _check_size(width: int, height: int) -> None:
    limit = Image.MAX_IMAGE_PIXELS
    if limit is not None and width * height > limit:  # Pillow only warns, up to twice as many
        raise ValueError(f"{width} x {height} pixels are more than PIL.Image.MAX_IMAGE_PIXELS={limit}")


def _check(file: Image.Image) -> None:
    _check_size(file.width, file.height)
    if file.mode not in _MODES and not file.mode.startswith("I;16"):
        raise ValueError(f"mode {file.mode} has no known black and white; save it with 8 or 16 bits per channel")


def _eight_bits(image: Image.Image) -> Image.Image:
    """Some versions of Pillow clip 16-bit grey at 255."""
    if not image.mode.startswith("I;16"):
        return image
    return Image.fromarray(((np.asarray(image).astype(np.uint32) + 128) // 257).astype(np.uint8))


@contextmanager
def _whole_files_only() -> Iterator[None]:
    """Another library may have asked Pillow to fill up truncated files with grey."""
    before = ImageFile.LOAD_TRUNCATED_IMAGES
    ImageFile.LOAD_TRUNCATED_IMAGES = False
    try:
        yield
    finally:
        ImageFile.LOAD_TRUNCATED_IMAGES = before
