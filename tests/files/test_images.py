"""Only the formats that image datasets come in are read, whatever else Pillow opens."""

from __future__ import annotations

import io
import warnings
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from lightning_adv2.attacks.targets import _read_image
from lightning_adv2.data import ImageFolderDataset, UnreadableImageError
from lightning_adv2.data.decode import decode_image
from lightning_adv2.files.images import EXTENSIONS, FORMATS, formats, image_limit, opened_png

PIXELS = np.random.default_rng(0).integers(0, 256, (16, 16, 3), dtype=np.uint8)
LOSSLESS = {"BMP", "GIF", "PNG", "PPM", "TIFF"}  # of an image of one colour, as these are


def encoded(form: str) -> bytes:
    stream = io.BytesIO()
    Image.new("RGB", (16, 16), (200, 40, 90)).save(stream, form)
    return stream.getvalue()


def others() -> dict[str, bytes]:
    """An image in each format that this Pillow writes and reads by itself, and that no dataset comes in."""
    Image.init()
    found = {}
    for form in sorted((set(Image.SAVE) & set(Image.OPEN)) - set(FORMATS)):
        for mode in ("RGB", "P", "1", "F"):
            stream = io.BytesIO()
            with suppress(OSError, ValueError, KeyError), warnings.catch_warnings(action="ignore"):
                Image.new(mode, (16, 16)).save(stream, form)
                found.setdefault(form, stream.getvalue())
    return found


def test_the_endings_are_those_of_the_formats_and_no_others() -> None:
    known = Image.registered_extensions()
    own = {ending: form for form, endings in FORMATS.items() for ending in endings}
    assert sorted(own) == list(EXTENSIONS)
    for form in formats():
        theirs = {ending for ending, name in known.items() if name in (form, *(["MPO"] if form == "JPEG" else []))}
        assert set(FORMATS[form]) == theirs, form


@pytest.mark.parametrize("form", sorted(FORMATS))
def test_each_format_that_is_named_is_read(form: str) -> None:
    if form not in formats():
        pytest.skip(f"this Pillow has no {form}")
    read = np.asarray(decode_image(encoded(form), "a"))
    assert np.abs(read.astype(int) - (200, 40, 90)).max() <= (0 if form in LOSSLESS else 6)


def test_several_pictures_in_a_jpeg_are_its_first(tmp_path: Path) -> None:
    first, second = (Image.new("RGB", (16, 16), (level, level, level)) for level in (200, 40))
    first.save(tmp_path / "a.mpo", "MPO", save_all=True, append_images=[second])
    assert np.asarray(decode_image((tmp_path / "a.mpo").read_bytes(), "a"))[0, 0, 0] == 200


@pytest.mark.parametrize("form", others())
def test_no_other_format_is_read_whatever_the_name_says(form: str, tmp_path: Path) -> None:
    folder = tmp_path / "val" / "a"
    folder.mkdir(parents=True)
    (folder / "1.jpg").write_bytes(others()[form])
    dataset = ImageFolderDataset(tmp_path, "val")
    with pytest.raises(UnreadableImageError, match=r"val/a/1\.jpg \(it is no image of a format that is read: AVIF"):
        dataset.uint8(0)


def test_eps_never_starts_its_interpreter(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Ghostscript's stand-in would leave a file."""
    command = tmp_path / "gs"
    command.write_text(f"#!/bin/sh\ntouch {tmp_path}/started\n")
    command.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=":")
    with pytest.raises(UnreadableImageError, match="of a format that is read"):
        decode_image(encoded("EPS"), "a")
    assert not (tmp_path / "started").exists()


def test_a_map_and_an_exported_picture_are_png_or_refused(tmp_path: Path) -> None:
    grey = Image.fromarray(PIXELS[:, :, 0])
    grey.save(tmp_path / "good.png")
    assert np.array_equal(_read_image(tmp_path / "good.png"), PIXELS[:, :, 0] / 255)
    grey.save(tmp_path / "other.png", "TIFF")
    with pytest.raises(OSError, match="it is no PNG image"):
        _read_image(tmp_path / "other.png")
    with pytest.raises(OSError, match="it is no PNG image"), opened_png(tmp_path / "other.png"):
        pass


def test_the_limit_follows_pillows(monkeypatch: pytest.MonkeyPatch) -> None:
    found = image_limit()
    assert found is not None
    assert Image.MAX_IMAGE_PIXELS is not None
    assert found.size == 8 * Image.MAX_IMAGE_PIXELS + 2**24
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", None)
    assert image_limit() is None


def test_a_pillow_without_a_format_reads_the_others(monkeypatch: pytest.MonkeyPatch) -> None:
    """Pillow raises a KeyError for a name that it does not know."""
    Image.init()
    monkeypatch.delitem(Image.OPEN, "AVIF", raising=False)
    assert np.asarray(decode_image(encoded("PNG"), "a"))[0, 0].tolist() == [200, 40, 90]
    with pytest.raises(UnreadableImageError, match="of a format that is read"):
        decode_image(b"no image at all", "a")
