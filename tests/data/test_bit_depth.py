"""16-bit files: how many bits their values have is said by the file or by the user, never guessed from the pixels."""

from __future__ import annotations

import struct
import warnings
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from data.files import SIDE, encoded, pixels, turned
from numpy.typing import NDArray
from PIL import Image

from lightning_adv2.data import ImageFolderDataModule, ImageFolderDataset, UnreadableImageError
from lightning_adv2.data.decode import decode_image
from lightning_adv2.runtime.training import _data

Array = NDArray[Any]


def ramp(bits: int, channels: int) -> Array:
    count = SIDE * SIDE * channels
    values = np.linspace(0, 2**bits - 1, count).round().astype(np.uint16)
    return np.random.default_rng(0).permutation(values).reshape(SIDE, SIDE, channels)


def png(values: Array, *chunks: tuple[bytes, bytes]) -> bytes:
    """A 16-bit PNG by hand, which Pillow writes of grey alone."""
    height, width, channels = values.shape
    colour = {1: 0, 2: 4, 3: 2, 4: 6}[channels]
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in values)
    parts = [(b"IHDR", struct.pack(">IIBBBBB", width, height, 16, colour, 0, 0, 0)), *chunks]
    parts += [(b"IDAT", zlib.compress(rows)), (b"IEND", b"")]
    whole = [
        struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data)) for kind, data in parts
    ]
    return b"\x89PNG\r\n\x1a\n" + b"".join(whole)


def tiff(data: bytes, bits: int, channels: int, order: str = "<") -> bytes:
    """An uncompressed TIFF by hand."""
    tags = {256: SIDE, 257: SIDE, 258: bits, 259: 1, 262: 2 if channels == 3 else 1, 273: 0, 277: channels, 278: SIDE,
            279: len(data)}  # fmt: skip
    start = 8 + 2 + 12 * len(tags) + 4
    body = b""
    for tag, value in tags.items():
        long = tag in (273, 279) or (tag == 258 and channels > 1)
        value = start + 6 if tag == 273 else start if tag == 258 and channels > 1 else value
        kind, count = (3 if tag == 258 or not long else 4), (channels if tag == 258 else 1)
        body += struct.pack(f"{order}HHI", tag, kind, count)
        body += struct.pack(f"{order}I", value) if long else struct.pack(f"{order}HH", value, 0)
    head = (b"II*\0" if order == "<" else b"MM\0*") + struct.pack(f"{order}IH", 8, len(tags))
    return head + body + struct.pack(f"{order}IHHH", 0, bits, bits, bits) + data


def packed12(values: Array) -> bytes:
    pairs = values.reshape(-1, 2).astype(np.uint32)
    whole = pairs[:, 0] << 12 | pairs[:, 1]
    return np.stack([whole >> 16 & 255, whole >> 8 & 255, whole & 255], 1).astype(np.uint8).tobytes()


def expected(values: Array, bits: int) -> Array:
    """To the nearest of 255 levels, in floating point; grey three times."""
    colour = values[..., :1] if values.shape[2] < 3 else values[..., :3]
    levels = np.floor(255 * colour.astype(np.float64) / (2**bits - 1) + 0.5).astype(np.uint8)
    return np.broadcast_to(levels, (SIDE, SIDE, 3))


def decoded(data: bytes, **kwargs: Any) -> tuple[Array, Sequence[str]]:
    said: list[str] = []
    return np.asarray(decode_image(data, "val/a/x", on_dim=said.append, **kwargs)), said


def deep_files(bits: int) -> dict[str, tuple[bytes, Array]]:
    grey, colour, both = ramp(bits, 1), ramp(bits, 3), ramp(bits, 4)
    both[..., 3] = 65535
    return {
        "grey.png": (png(grey), grey),
        "rgb.png": (png(colour), colour),
        "rgba.png": (png(both), both),
        "grey.tif": (tiff(grey.astype("<u2").tobytes(), 16, 1), grey),
        "rgb.tif": (tiff(colour.astype("<u2").tobytes(), 16, 3), colour),
        "rgb, big-endian.tif": (tiff(colour.astype(">u2").tobytes(), 16, 3, ">"), colour),
        "lzw.tif": (encoded(Image.fromarray(grey[..., 0]), "TIFF", compression="tiff_lzw"), grey),
        "grey.pgm": (b"P5 %d %d 65535\n" % (SIDE, SIDE) + grey.astype(">u2").tobytes(), grey),
    }


@pytest.mark.parametrize("name", list(deep_files(16)))
def test_all_sixteen_bits_count(name: str) -> None:
    data, values = deep_files(16)[name]
    found, said = decoded(data)
    assert np.array_equal(found, expected(values, 16))
    assert (found.min(), found.max(), said) == (0, 255, [])
    assert np.array_equal(decoded(data, bit_depth=16)[0], found)


@pytest.mark.parametrize("bits", [10, 12])
@pytest.mark.parametrize("name", list(deep_files(12)))
def test_fewer_bits_are_said_to_be_suspected_and_read_when_they_are_given(name: str, bits: int) -> None:
    data, values = deep_files(bits)[name]
    found, said = decoded(data)
    assert np.array_equal(found, expected(values, 16))
    assert len(said) == 1
    assert all(word in said[0] for word in ("val/a/x", "below 4096", "nearly black", "bit_depth=12", "bit_depth=16"))
    assert decoded(data, bit_depth=16)[1] == []
    found, said = decoded(data, bit_depth=bits)
    assert np.array_equal(found, expected(values, bits))
    assert (found.min(), found.max(), said) == (0, 255, [])


def test_a_value_beyond_the_bit_depth_is_refused() -> None:
    for data, _ in (deep_files(13)["grey.png"], deep_files(13)["rgb.png"]):
        with pytest.raises(UnreadableImageError, match=r"the value 8191, more than the 4095 of bit_depth=12"):
            decode_image(data, "val/a/x", bit_depth=12)


def test_files_that_say_their_bits_need_no_argument() -> None:
    grey, colour = ramp(12, 1), ramp(12, 3)
    files = {
        "tif": (tiff(packed12(grey), 12, 1), grey),
        "pgm": (b"P5 %d %d 4095\n" % (SIDE, SIDE) + grey.astype(">u2").tobytes(), grey),
        "ppm": (b"P6 %d %d 4095\n" % (SIDE, SIDE) + colour.astype(">u2").tobytes(), colour),
        "jp2": (encoded(Image.fromarray(grey[..., 0] << 4), "JPEG2000", irreversible=False), grey),
    }
    for name, (data, values) in files.items():
        for depth in (None, 12):
            found, said = decoded(data, bit_depth=depth)
            assert np.abs(found.astype(int) - expected(values, 12)).max() <= (name == "jp2"), name
            assert said == []


def test_significant_bits_of_a_png_do_not_scale_it() -> None:
    """By the specification the values fill the 16 bits whatever sBIT says: 12 bits are stored times 16."""
    values = ramp(12, 1) << 4 | ramp(12, 1) >> 8
    found, said = decoded(png(values, (b"sBIT", b"\x0c")))
    assert np.array_equal(found, expected(ramp(12, 1), 12))
    assert said == []


def test_files_of_eight_bits_do_not_depend_on_it() -> None:
    rgb = pixels() // 64
    for form in ("PNG", "BMP", "TIFF"):
        found, said = decoded(encoded(Image.fromarray(rgb), form), bit_depth=12)
        assert np.array_equal(found, rgb)
        assert said == []


def test_a_black_image_is_black_without_a_word() -> None:
    assert decoded(png(np.zeros((SIDE, SIDE, 1), np.uint16)))[1] == []


def test_grey_with_alpha_is_read_by_its_upper_bytes_or_refused() -> None:
    values = ramp(16, 2)
    found, said = decoded(png(values))
    assert np.abs(found.astype(int) - expected(values, 16)).max() <= 1
    assert said == []
    assert len(decoded(png(ramp(12, 2)))[1]) == 1
    with pytest.raises(UnreadableImageError, match="only the upper bytes of this 16-bit file; save it as grey or RGB"):
        decode_image(png(values), "x", bit_depth=12)


def test_rotation_and_bit_depth_go_together() -> None:
    grey = ramp(12, 1)[..., 0]
    found, _ = decoded(turned(Image.fromarray(grey)), exif_rotation=True, bit_depth=12)
    assert np.array_equal(found, np.rot90(expected(ramp(12, 1), 12), -1))
    exif = Image.Exif()
    exif[0x0112] = 6
    colour = ramp(16, 3)
    found, _ = decoded(png(colour, (b"eXIf", exif.tobytes()[6:])), exif_rotation=True)
    assert np.array_equal(found, np.rot90(expected(colour, 16), -1))


def test_data_modules_take_it_and_name_the_first_dim_file_once(tmp_path: Path) -> None:
    values = ramp(12, 3)
    for number in range(3):
        (tmp_path / "val" / "a").mkdir(parents=True, exist_ok=True)
        (tmp_path / "val" / "a" / f"{number}.png").write_bytes(png(values))
    dataset = ImageFolderDataModule(tmp_path, bit_depth=12).dataset("val")
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        assert np.array_equal(dataset.uint8(1), expected(values, 12))
        assert not said
        unsaid = ImageFolderDataset(tmp_path, "val", cache=True)
        assert all(unsaid.uint8(i).max() < 17 for i in range(3))
    assert [str(one.message).split(":")[0] for one in said] == ["val/a/0.png"]
    for wrong in (8, 17):
        with pytest.raises(ValueError, match=rf"bit_depth={wrong}: .*9 to 16"):
            ImageFolderDataset(tmp_path, "val", bit_depth=wrong)


def test_it_belongs_to_the_experiment_where_it_is_given(tmp_path: Path) -> None:
    (tmp_path / "train" / "a").mkdir(parents=True)
    (tmp_path / "train" / "a" / "0.png").write_bytes(png(ramp(12, 1)))
    assert "bit_depth" not in _data(ImageFolderDataModule(tmp_path))
    assert _data(ImageFolderDataModule(tmp_path, bit_depth=12))["bit_depth"] == 12
