"""Image folders and zips that would fill the memory, hang or go astray: harmless ones, made here."""

from __future__ import annotations

import os
import struct
import tracemalloc
import zipfile
from pathlib import Path

import pytest
from bounds import bounded, replace, sparse
from data.conftest import draw

from lightning_adv2.data import ImageFolderDataset, UnreadableImageError
from lightning_adv2.data.storage import ZipStorage

__all__ = ["bounded"]

pytestmark = pytest.mark.usefixtures("bounded")

MIB = 2**20


def declare(path: Path, size: int) -> None:
    """Let every member of a zip say that it has this size, in the directory and before its content."""
    content = bytearray(path.read_bytes())
    for mark, place in ((b"PK\x03\x04", 22), (b"PK\x01\x02", 24)):
        at = content.find(mark)
        while at >= 0:
            struct.pack_into("<I", content, at + place, size)
            at = content.find(mark, at + 4)
    path.write_bytes(content)


def packed(path: Path, size: int, method: int) -> Path:
    with zipfile.ZipFile(path, "w", method) as archive:
        archive.writestr("val/a/1.png", bytes(size))
    return path


def test_a_huge_file_in_a_folder_is_an_unreadable_image(tmp_path: Path) -> None:
    (tmp_path / "val" / "a").mkdir(parents=True)
    draw(0).save(tmp_path / "val" / "a" / "1.png")
    sparse(tmp_path / "val" / "a" / "0.png", 50 * 2**30)
    dataset = ImageFolderDataset(tmp_path, "val")
    with pytest.raises(UnreadableImageError, match=r"val/a/0\.png \(it has 53,687,091,200 bytes, more than") as raised:
        dataset.uint8(0)
    assert "if it has to be that large, raise PIL.Image.MAX_IMAGE_PIXELS" in raised.value.reason
    assert dataset.image_size == (20, 20), "the next image gives it"


@pytest.mark.parametrize("kind", ["pipe", "device", "folder"])
def test_what_takes_an_image_s_place_after_the_listing_is_an_unreadable_image(kind: str, tmp_path: Path) -> None:
    (tmp_path / "val" / "a").mkdir(parents=True)
    draw(0).save(tmp_path / "val" / "a" / "1.png")
    dataset = ImageFolderDataset(tmp_path, "val")
    replace(tmp_path / "val" / "a" / "1.png", kind)
    with pytest.raises(UnreadableImageError, match=rf"val/a/1\.png \(it is a {kind} and no regular file\)"):
        dataset.uint8(0)


def test_a_member_that_says_it_is_huge_is_not_inflated(tmp_path: Path) -> None:
    path = packed(tmp_path / "i.zip", 1000, zipfile.ZIP_DEFLATED)
    declare(path, 3 * 10**9)
    with pytest.raises(UnreadableImageError, match=r"it has 3,000,000,000 bytes, more than the .* are read; if it has"):
        ImageFolderDataset(path, "val").uint8(0)


def test_a_member_that_says_it_is_small_is_inflated_no_further(tmp_path: Path) -> None:
    path = packed(tmp_path / "i.zip", 64 * MIB, zipfile.ZIP_DEFLATED)
    declare(path, 100)
    storage = ZipStorage(path)
    storage.folders()
    tracemalloc.start()
    with pytest.raises(zipfile.BadZipFile, match="Bad CRC-32"):
        storage.read("val/a/1.png")
    peak = tracemalloc.get_traced_memory()[1] / MIB
    tracemalloc.stop()
    assert peak < 1, f"{peak:.1f} MiB of 64"


@pytest.mark.parametrize("method", [zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA])
def test_members_whose_size_cannot_be_bounded_are_not_inflated(method: int, tmp_path: Path) -> None:
    """A kilobyte of bzip2 can hold a gigabyte, and zipfile inflates it in one piece."""
    path = packed(tmp_path / "i.zip", 256 * MIB if method == zipfile.ZIP_BZIP2 else 64 * MIB, method)
    declare(path, 100)
    dataset = ImageFolderDataset(path, "val")
    tracemalloc.start()
    with pytest.raises(UnreadableImageError, match="by another method than deflate; pack the zip anew"):
        dataset.uint8(0)
    peak = tracemalloc.get_traced_memory()[1] / MIB
    tracemalloc.stop()
    assert peak < 1, f"{peak:.1f} MiB"


@pytest.mark.parametrize("method", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED])
def test_honest_members_are_read_whole(method: int, tmp_path: Path) -> None:
    content = os.urandom(300_000) + bytes(300_000)
    with zipfile.ZipFile(tmp_path / "i.zip", "w", method) as archive:
        archive.writestr("val/a/1.png", content)
        archive.writestr("val/a/2.png", b"")
    storage = ZipStorage(tmp_path / "i.zip")
    assert storage.read("val/a/1.png") == content
    assert storage.read("val/a/2.png") == b""
