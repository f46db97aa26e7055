"""The image formats that are read: those of image datasets, and no other of the many that Pillow can open.

Datasets hold photographs (JPEG, also with several pictures in one file; WebP, AVIF), drawings and masks (PNG, GIF),
scans and microscopy (TIFF, BMP), older benchmarks (PPM, PGM), medical and satellite images (JPEG 2000). The other
formats of Pillow are those of single programs and games, and some that start another program (EPS).
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from PIL import Image, UnidentifiedImageError

from lightning_adv2.files.regular import Limit, open_regular

FORMATS: dict[str, tuple[str, ...]] = {
    "AVIF": (".avif", ".avifs"),
    "BMP": (".bmp",),
    "GIF": (".gif",),
    "JPEG": (".jfif", ".jpe", ".jpeg", ".jpg", ".mpo"),
    "JPEG2000": (".j2c", ".j2k", ".jp2", ".jpc", ".jpf", ".jpx"),
    "PNG": (".apng", ".png"),
    "PPM": (".pbm", ".pfm", ".pgm", ".pnm", ".ppm"),
    "TIFF": (".tif", ".tiff"),
    "WEBP": (".webp",),
}
"""Pillow's name of each format, and what the names of its files end in."""

EXTENSIONS = tuple(sorted(ending for endings in FORMATS.values() for ending in endings))
"""The endings of image names, in lower or upper case: the same on every machine, whatever Pillow opens there."""

# Four channels of 16 bits without compression, and room for profiles; only PPM written as text may take more.
_BYTES_PER_PIXEL, _BESIDE = 8, 2**24


def formats() -> list[str]:
    """Return the names in :data:`FORMATS` that the installed Pillow reads, for ``Image.open(..., formats=...)``."""
    Image.init()
    return [name for name in FORMATS if name in Image.OPEN]


def image_limit() -> Limit | None:
    """Return the largest size of an image file: 8 bytes per pixel of ``PIL.Image.MAX_IMAGE_PIXELS``, and 16 MiB.

    With Pillow's default that is 700 MiB. None, for no limit, where ``MAX_IMAGE_PIXELS`` is None.
    """
    pixels = Image.MAX_IMAGE_PIXELS
    if pixels is None:
        return None
    return Limit(_BYTES_PER_PIXEL * pixels + _BESIDE, "if it has to be that large, raise PIL.Image.MAX_IMAGE_PIXELS")


@contextmanager
def opened_png(path: Path) -> Iterator[Image.Image]:
    """Yield the image in a PNG file, not yet decoded, and close the file at the end of the block.

    Args:
        path: the file; its content decides, not its name.

    Raises:
        OSError: the file is no regular file, is larger than :func:`image_limit`, or holds no PNG image.
    """
    with open_regular(path, image_limit()) as stream:
        try:
            opened = Image.open(stream, formats=["PNG"])
        except UnidentifiedImageError as error:
            raise UnidentifiedImageError("it is no PNG image") from error
        with opened as image:
            yield image
