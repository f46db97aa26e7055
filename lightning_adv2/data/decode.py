"""From the bytes of an image file to RGB, exactly or not at all."""

from __future__ import annotations

import io
import re
import sys
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageFile, ImageOps, UnidentifiedImageError

from lightning_adv2.data.images import UnreadableImageError
from lightning_adv2.files.images import FORMATS, formats

# What Pillow converts to RGB without guessing a range of values, as it does for I and F (32-bit integers and floats).
_MODES = ("1", "CMYK", "L", "LA", "LAB", "P", "PA", "RGB", "RGBA", "RGBX", "RGBa", "YCbCr")
_DIM = 4096  # a 16-bit image all of whose values lie below holds 12 bits, or is darker than any photograph


def decode_image(
    data: bytes,
    image_id: str,
    exif_rotation: bool = False,
    bit_depth: int | None = None,
    on_dim: Callable[[str], None] = warnings.warn,
) -> Image.Image:
    """Return a file's first frame as an RGB image of 8 bits.

    The bytes decide, not the file's name: a TIFF named ``.jpg`` is read as a TIFF. The formats are AVIF (where Pillow
    has it), BMP, GIF, JPEG, JPEG 2000, PNG, PBM/PGM/PPM, TIFF and WebP, as :data:`~lightning_adv2.files.images.FORMATS`
    lists them, and no other. Grey repeats its channel; a palette is looked up; an alpha channel is dropped and not
    blended, as in torchvision; CMYK is converted by Pillow's plain formula, without a colour profile; 16-bit values
    ``v``, grey or colour, become ``round(255 * v / (2**bits - 1))``, so that white stays white.

    The number of bits of a 16-bit value is never guessed from the pixels. TIFF with fewer than 16 bits per sample, PGM
    with a maximum below 65535, PPM and JPEG 2000 state it. In PNG values fill the 16 bits, by its specification also
    where a chunk sBIT names fewer; for files that break this rule, and for other TIFF and PGM files, ``bit_depth``
    states it.

    Args:
        data: the file's bytes.
        image_id: the image's name, for errors.
        exif_rotation: turn the image as its EXIF tag asks for. False leaves the pixels as they are stored, as
            torchvision does; the published ImageNet figures, and boxes, refer to these. (Pillow itself turns a TIFF in
            either case.)
        bit_depth: how many bits the values of such 16-bit files have, 9 to 16; None for 16. Files of 8 bits do not
            depend on it.
        on_dim: with ``bit_depth=None``, called with a sentence about an image all of whose 16-bit values lie below
            4096, but not all at 0: read as 16 bits, it is nearly black.

    Returns:
        The decoded image, mode ``RGB``.

    Raises:
        UnreadableImageError: the file is empty, truncated, damaged, no image or one of another format; it has more
            pixels than ``PIL.Image.MAX_IMAGE_PIXELS`` (a decompression bomb); it holds 32-bit whole numbers or floats,
            whose black and white are unknown; a value does not fit into ``bit_depth``.
    """
    if not data:
        raise UnreadableImageError(image_id, "the file is empty")
    try:
        with _whole_files_only(), _opened(data) as file:
            _check(file)
            declared, low_bytes, half = _declared_bits(file), _low_bytes(file), _raw_modes(file).count(";16") > 0
            image = ImageOps.exif_transpose(file) if exif_rotation else file
            values = _sixteen_bits(image)
            if low_bytes:
                with _opened(data) as again:
                    again.tile = low_bytes
                    low = ImageOps.exif_transpose(again) if exif_rotation else again
                    values = np.asarray(image).astype(np.uint32)[..., :3] * 256 + np.asarray(low)[..., :3]
            if values is None:
                rgb = image.convert("RGB")
                if not half:
                    return rgb
                if bit_depth not in (None, 16):
                    raise ValueError(
                        f"bit_depth={bit_depth}, but Pillow reads only the upper bytes of this 16-bit file; save it as "
                        "grey or RGB"
                    )
                values = np.asarray(rgb).astype(np.uint32) * 257
        if declared is None and bit_depth is None and 0 < values.max() < _DIM:
            on_dim(
                f"{image_id}: all values of this 16-bit image lie below {_DIM}; read as 16 bits, it is nearly black. "
                "If its values have fewer bits, set bit_depth (bit_depth=12) in the data module; if it is that dark, "
                "set bit_depth=16"
            )
        return Image.fromarray(_eight_bits(values, declared or bit_depth or 16)).convert("RGB")
    except Exception as error:  # decoders of damaged files raise all kinds
        raise UnreadableImageError(image_id, reason_of(error)) from error


def reason_of(error: Exception) -> str:
    """Return an error in words that are the same in every run: without a path or an object's address."""
    words = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
    return re.sub(r" <[^<>]* at 0x[0-9a-f]+>", "", words) or type(error).__name__


def check_pixels(width: int, height: int) -> None:
    """Check an image's size in pixels against ``PIL.Image.MAX_IMAGE_PIXELS``, of which None allows any size.

    Raises:
        ValueError: the image has more pixels.
    """
    limit = Image.MAX_IMAGE_PIXELS
    if limit is not None and width * height > limit:  # Pillow only warns, up to twice as many
        raise ValueError(f"{width} x {height} pixels are more than PIL.Image.MAX_IMAGE_PIXELS={limit}")


def _opened(data: bytes) -> ImageFile.ImageFile:
    try:
        return Image.open(io.BytesIO(data), formats=formats())
    except UnidentifiedImageError as error:
        raise ValueError(f"it is no image of a format that is read: {', '.join(FORMATS)}") from error


def _check(file: Image.Image) -> None:
    check_pixels(file.width, file.height)
    if file.mode not in _MODES and not file.mode.startswith("I;16") and not _is_deep_pgm(file):
        raise ValueError(f"mode {file.mode} has no known black and white; save it with 8 or 16 bits per channel")


def _is_deep_pgm(file: Image.Image) -> bool:
    """Pillow brings its values to 16 bits, in a mode of 32."""
    return file.format == "PPM" and file.mode == "I"


def _declared_bits(file: Image.Image) -> int | None:
    """The number of bits of a 16-bit file's decoded values, where its format states it."""
    if file.format == "TIFF":  # Pillow does not scale 12 bits
        bits = int(file.tag_v2.get(258, (16,))[0])  # type: ignore[attr-defined]
        return bits if bits < 16 else None
    if file.format == "JPEG2000" or (file.format == "PPM" and _tiles(file)[0][0] == "ppm"):
        return 16  # Pillow scales
    return None


def _tiles(file: Image.Image) -> Sequence[tuple[Any, ...]]:
    """Codec, box, offset and arguments of each part of the file, before it is decoded."""
    return getattr(file, "tile", ())


def _raw_modes(file: Image.Image) -> str:
    """The stored form of the parts' samples, such as ``RGB;16B``."""
    return " ".join(str(tile[3]) for tile in _tiles(file))


def _low_bytes(file: Image.Image) -> list[Any]:
    """The tiles that decode the lower bytes of a file of 16-bit colour; Pillow decodes the upper bytes. Or none."""
    tiles = []
    for tile in _tiles(file):
        codec, box, offset, args = tile[:4]
        raw, *others = args if isinstance(args, tuple) else (args,)
        if not isinstance(raw, str) or not re.fullmatch(r"RGB[AX]?;16[BLN]", raw):
            return []
        swapped = raw[:-1] + ("L" if raw[-1] == "B" or (raw[-1] == "N" and sys.byteorder == "big") else "B")
        tiles.append((codec, box, offset, (swapped, *others) if isinstance(args, tuple) else swapped))
    return tiles


def _sixteen_bits(image: Image.Image) -> NDArray[Any] | None:
    """The values ``(H, W)`` of 16-bit grey; some versions of Pillow would clip them at 255."""
    return np.asarray(image).astype(np.uint32) if image.mode.startswith("I") else None


def _eight_bits(values: NDArray[Any], bits: int) -> NDArray[np.uint8]:
    """Whole numbers of ``bits`` bits, to the nearest level of 255."""
    white = 2**bits - 1
    if values.max() > white:
        raise ValueError(f"it holds the value {values.max()}, more than the {white} of bit_depth={bits}")
    levels: NDArray[np.uint8] = ((values.astype(np.uint32) * 510 + white) // (2 * white)).astype(np.uint8)
    return levels


@contextmanager
def _whole_files_only() -> Iterator[None]:
    """Another library may have asked Pillow to fill up truncated files with grey."""
    before = ImageFile.LOAD_TRUNCATED_IMAGES
    ImageFile.LOAD_TRUNCATED_IMAGES = False
    try:
        yield
    finally:
        ImageFile.LOAD_TRUNCATED_IMAGES = before
