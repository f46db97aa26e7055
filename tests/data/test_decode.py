from __future__ import annotations

import pickle
import warnings
from pathlib import Path

import numpy as np
import pytest
from data.conftest import draw
from data.files import REASONS, SIDE, bad_files, encoded, odd_files
from PIL import Image, ImageFile
from torchvision.datasets.folder import default_loader

from lightning_adv2.data import ImageFolderDataModule, ImageFolderDataset, UnreadableImageError
from lightning_adv2.data.decode import decode_image


@pytest.mark.parametrize("name", list(REASONS))
def test_promise_12_what_cannot_be_read_is_named(name: str) -> None:
    data = bad_files()[name]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", Image.DecompressionBombWarning)
        with pytest.raises(UnreadableImageError, match=rf"cannot read the image val/a/{name} \(.*replace or remove"):
            decode_image(data, f"val/a/{name}")
        with pytest.raises(UnreadableImageError) as raised:
            decode_image(data, f"val/a/{name}")
    assert raised.value.image_id == f"val/a/{name}"
    assert REASONS[name] in raised.value.reason
    assert "0x" not in raised.value.reason, "an address is another one in every run"
    copy = pickle.loads(pickle.dumps(raised.value))
    assert (copy.image_id, copy.reason, str(copy)) == (f"val/a/{name}", raised.value.reason, str(raised.value))


@pytest.mark.parametrize("name", list(odd_files()))
def test_promise_12_what_can_be_read_is_read_exactly(name: str, tmp_path: Path) -> None:
    data, expected, tolerance = odd_files()[name]
    found = np.asarray(decode_image(data, name))
    assert found.shape == (SIDE, SIDE, 3)
    assert np.abs(found.astype(float) - expected).max() <= tolerance
    if "16" not in name:  # which torchvision clips in some versions of Pillow
        (tmp_path / name).write_bytes(data)
        assert np.array_equal(found, np.asarray(default_loader(str(tmp_path / name))))


@pytest.mark.parametrize("form", ["BMP", "GIF", "JPEG", "PNG", "PPM", "TIFF", "WEBP"])
@pytest.mark.filterwarnings("ignore:.*Corrupt EXIF|.*Truncated File Read")
def test_promise_12_a_truncated_file_is_never_read_as_another_image(form: str) -> None:
    """Even where another library told Pillow to fill up what is missing."""
    whole = encoded(draw(1, SIDE, SIDE), form)
    expected = np.asarray(decode_image(whole, "whole"))
    refused = 0
    for fill_up in (False, True):
        ImageFile.LOAD_TRUNCATED_IMAGES = fill_up
        try:
            for length in range(0, len(whole), 7):
                try:
                    assert np.array_equal(np.asarray(decode_image(whole[:length], "part")), expected)
                except UnreadableImageError:
                    refused += 1
            assert fill_up == ImageFile.LOAD_TRUNCATED_IMAGES, "a setting of others"
        finally:
            ImageFile.LOAD_TRUNCATED_IMAGES = False
    assert refused > 2 * 0.9 * (len(whole) // 7)


def test_promise_12_bombs(monkeypatch: pytest.MonkeyPatch) -> None:
    image = encoded(draw(0, 10, 10), "PNG")
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 100)
    decode_image(image, "at the limit")
    for limit in (99, 10):  # where Pillow warns, and where it refuses
        monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", limit)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            with pytest.raises(UnreadableImageError, match=r"MAX_IMAGE_PIXELS|decompression bomb"):
                decode_image(image, "bomb")


def test_promise_12_a_line_of_pixels_does_not_become_a_bomb(tmp_path: Path) -> None:
    folder = tmp_path / "val" / "a"
    folder.mkdir(parents=True)
    draw(0, 1, 60000).save(folder / "line.png")
    with pytest.raises(UnreadableImageError, match=r"line\.png \(after resizing, 15360000 x 256 pixels"):
        ImageFolderDataset(tmp_path, "val", resize=256, crop=224).uint8(0)


@pytest.mark.parametrize("name", ["exif.png", "exif16.png"])
def test_promise_12_exif_rotation_is_a_choice(name: str, tmp_path: Path) -> None:
    folder = tmp_path / "val" / "a"
    folder.mkdir(parents=True)
    data, stored, _ = odd_files()[name]
    (folder / name).write_bytes(data)
    assert np.array_equal(ImageFolderDataset(tmp_path, "val").uint8(0), stored)
    upright = ImageFolderDataModule(tmp_path, exif_rotation=True).dataset("val").uint8(0)
    assert np.array_equal(upright, np.rot90(stored, -1)), "orientation 6: to be turned clockwise"
    assert not np.array_equal(upright, stored)
    (tmp_path / "boxes.csv").write_text(f"file,xmin,ymin,xmax,ymax\nval/a/{name},1,1,4,4\n")
    with pytest.raises(ValueError, match="exif_rotation=True: boxes refer to the pixels as they are stored"):
        ImageFolderDataset(tmp_path, "val", boxes=tmp_path / "boxes.csv", exif_rotation=True)
