"""Image files as they lie in real folders: bad ones, and odd ones that must be read all the same."""

from __future__ import annotations

import io
from functools import cache
from typing import Any

import numpy as np
from data.conftest import draw
from numpy.typing import NDArray
from PIL import Image

SIDE = 24
Array = NDArray[Any]


def pixels(seed: int = 0, channels: int = 3) -> NDArray[np.uint8]:
    return np.random.default_rng(seed).integers(0, 256, (SIDE, SIDE, channels), dtype=np.uint8)


def encoded(image: Image.Image, form: str, **kwargs: Any) -> bytes:
    stream = io.BytesIO()
    image.save(stream, form, **kwargs)
    return stream.getvalue()


def turned(image: Image.Image, form: str = "PNG", orientation: int = 6) -> bytes:
    exif = Image.Exif()
    exif[0x0112] = orientation
    return encoded(image, form, exif=exif)


def grey16() -> NDArray[np.uint16]:
    return np.linspace(0, 65535, SIDE * SIDE).round().astype(np.uint16).reshape(SIDE, SIDE)


@cache
def bomb() -> bytes:
    """Real, and small on disk: Pillow itself would only warn."""
    return encoded(Image.new("1", (9500, 9500)), "PNG")


def bad_files() -> dict[str, bytes]:
    """Files that must be refused."""
    jpeg = encoded(draw(7, SIDE, SIDE), "JPEG")
    return {
        "truncated.jpg": jpeg[: len(jpeg) * 9 // 10],
        "empty.png": b"",
        "text.jpg": b"<html>404 not found</html>",
        "bomb.png": bomb(),
        "int32.tif": encoded(Image.fromarray(grey16().astype(np.int32)), "TIFF"),
        "float.tif": encoded(Image.fromarray(grey16().astype(np.float32)), "TIFF"),
    }


# What the reason must say.
REASONS = {
    "truncated.jpg": "truncated",
    "empty.png": "the file is empty",
    "text.jpg": "it is no image of a format that is read: AVIF, BMP, GIF, JPEG, JPEG2000, PNG, PPM, TIFF, WEBP",
    "bomb.png": "9500 x 9500 pixels are more than PIL.Image.MAX_IMAGE_PIXELS",
    "int32.tif": "mode I has no known black and white",
    "float.tif": "mode F has no known black and white",
}


def odd_files() -> dict[str, tuple[bytes, Array, int]]:
    """Files that must be read: bytes, the pixels to expect, and the rounding that the format allows."""
    rgb = pixels()
    grey = np.repeat(rgb[:, :, :1], 3, axis=2)
    wide = np.repeat(np.floor(grey16() / 257 + 0.5)[..., None], 3, axis=2)
    few = pixels(3) // 128 * 255  # eight colours
    cmyk = pixels(4, 4)
    ink = (255 - cmyk[:, :, :3].astype(float)) * (255 - cmyk[:, :, 3:].astype(float)) / 255
    palette = Image.fromarray(few).quantize(8)
    solid = np.full((SIDE, SIDE, 3), (200, 40, 90), np.uint8)
    return {
        "tiff.jpg": (encoded(Image.fromarray(rgb), "TIFF"), rgb, 0),
        "grey.png": (encoded(Image.fromarray(rgb[:, :, 0]), "PNG"), grey, 0),
        "grey_alpha.png": (encoded(Image.fromarray(rgb[:, :, :2], "LA"), "PNG"), grey, 0),
        "palette.png": (encoded(palette, "PNG"), few, 0),
        "palette_transparent.png": (encoded(palette, "PNG", transparency=3), few, 0),
        "rgba.png": (encoded(Image.fromarray(pixels(5, 4)), "PNG"), pixels(5, 4)[:, :, :3], 0),
        "cmyk.tif": (encoded(Image.fromarray(cmyk, "CMYK"), "TIFF"), ink, 1),
        "cmyk.jpg": (encoded(Image.fromarray(solid).convert("CMYK"), "JPEG", quality=100), solid, 3),
        "grey16.png": (encoded(Image.fromarray(grey16()), "PNG"), wide, 0),
        "grey16.tif": (encoded(Image.fromarray(grey16().astype(">u2")), "TIFF"), wide, 0),
        "exif.png": (turned(Image.fromarray(rgb)), rgb, 0),
        "exif16.png": (turned(Image.fromarray(grey16())), wide, 0),
    }
