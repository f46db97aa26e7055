"""Image folders and zips that would fill the memory, hang or go astray: harmless ones, made here."""

from __future__ import annotations

import csv
import io
import os
import struct
import tracemalloc
import zipfile
from pathlib import Path

import numpy as np
import pytest
from bounds import bounded, replace, sparse
from data.conftest import draw
from lab import idls, shapes, trainer
from PIL import Image

from lightning_adv2.attacks import MapFile, pgd
from lightning_adv2.audit.verify import verify
from lightning_adv2.data import AttackDataModule, ImageFolderDataModule, ImageFolderDataset, UnreadableImageError
from lightning_adv2.data.storage import ZipStorage
from lightning_adv2.evaluation import AttackEvaluation

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


LATIN = b"caf\xe9"
"""As an old file system, or a zip from one, has it."""


def named(folder: Path, name: bytes) -> Path:
    return Path(os.fsdecode(os.fsencode(folder) + b"/" + name))


def test_names_that_are_not_utf8_are_left_out_and_named(tmp_path: Path) -> None:
    root = tmp_path / "i"
    (root / "val" / "a").mkdir(parents=True)
    draw(0).save(root / "val" / "a" / "1.png")
    draw(1).save(named(root / "val" / "a", LATIN + b".png"))
    named(root / "val" / "a", LATIN).mkdir()
    draw(2).save(named(root / "val" / "a", LATIN) / "2.png")
    draw(3).save(named(root / "val", b"\xff.png"))
    with pytest.warns(UserWarning, match=r"3 files beside the 1 images not read: .*caf\\xe9\.png \(its name is not U"):
        dataset = ImageFolderDataset(root, "val")
    why = "its name is not UTF-8"
    assert dataset.left_out == {r"val/\xff.png": why, r"val/a/caf\xe9": why, r"val/a/caf\xe9.png": why}
    assert dataset.paths == ["val/a/1.png"]


def test_a_class_folder_whose_name_is_not_utf8_is_refused(tmp_path: Path) -> None:
    """Left out, it would move the classes after it up."""
    for name in (b"a", LATIN, b"d"):
        folder = named(tmp_path, b"val/" + name)
        folder.mkdir(parents=True)
        draw(0).save(folder / "1.png")
    for classes in (None, ["a", "d"]):
        with pytest.raises(ValueError, match=r"the class folder val/caf\\xe9 is not UTF-8; rename it"):
            ImageFolderDataset(tmp_path, "val", classes)
    named(tmp_path, LATIN).mkdir()
    with pytest.raises(FileNotFoundError, match=r"root has: caf\\xe9, val") as raised:
        ImageFolderDataset(tmp_path, "train")
    assert str(raised.value).isprintable()


@pytest.mark.filterwarnings("ignore:.*not read")
def test_a_run_over_such_names_comes_to_its_end(tmp_path: Path) -> None:
    """JSON, CSV, the page and W&B's files all take the names of what was left out."""
    drawn = shapes().dataset("test")
    for i in range(len(drawn)):
        folder = tmp_path / "i" / "val" / drawn.classes[drawn.label(i)]
        folder.mkdir(parents=True, exist_ok=True)
        Image.fromarray(drawn.uint8(i)).save(folder / f"{i}.png")
    Image.fromarray(drawn.uint8(0)).save(named(folder, LATIN + b".png"))
    source = ImageFolderDataModule(tmp_path / "i", classes=drawn.classes, name="odd")
    attacked = AttackDataModule(source, num_images=2, batch_size=2)
    trainer(tmp_path / "run", AttackEvaluation([pgd(steps=1)])).test(idls("cam"), attacked, verbose=False)
    with (tmp_path / "run" / "status.csv").open(newline="", encoding="utf-8") as stream:
        status = {row["image_id"]: (row["status"], row["reason"]) for row in csv.DictReader(stream)}
    assert status[rf"val/{folder.name}/caf\xe9.png"] == ("skipped", "its name is not UTF-8")
    assert r"caf\\xe9" in (tmp_path / "run" / "manifest.json").read_text(encoding="utf-8")
    assert (tmp_path / "run" / "report.html").exists()
    assert verify(tmp_path / "run")[0] == []


def test_names_in_zips_that_are_not_utf8(tmp_path: Path) -> None:
    """Those that do not say what they are, are read as the format has it; one that lies is named, and at once."""
    stream = io.BytesIO()
    draw(0, 8, 8).save(stream, "PNG")
    path = tmp_path / "i.zip"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("val/a/caf\u00e9.png", stream.getvalue())
    honest = path.read_bytes()
    lying = honest.replace("caf\u00e9".encode(), LATIN + b"x")
    path.write_bytes(lying)
    with pytest.raises(ValueError, match=r"the name b'val/a/caf\\xe9x.png' in it says that it is UTF-8 and is not"):
        ImageFolderDataset(path, "val")
    unsaid = bytearray(lying)
    for mark, place in ((b"PK\x03\x04", 7), (b"PK\x01\x02", 9)):
        unsaid[unsaid.index(mark) + place] &= ~0x08
    path.write_bytes(unsaid)
    dataset = ImageFolderDataset(path, "val")
    assert dataset.uint8(0).shape == (8, 8, 3)
    assert dataset.image_id(0).encode() == "val/a/caf\u0398x.png".encode()


def test_a_folder_of_maps_with_such_names_is_described(tmp_path: Path) -> None:
    for name in (LATIN + b".npy", b"good.npy"):
        with named(tmp_path, name).open("wb") as stream:
            np.save(stream, np.zeros((2, 2)))
    assert len(MapFile(tmp_path).description()["maps"]) == 64
