"""Which folder is which class: the same labels on every machine, or a refusal."""

from __future__ import annotations

import os
import pickle
import random
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from data.conftest import draw
from PIL import Image
from torchvision.datasets import CIFAR10

from lightning_adv2.data import (
    CIFAR10DataModule,
    ImageDataset,
    ImageFolderDataModule,
    ImageFolderDataset,
    ImageNetDataModule,
)
from lightning_adv2.data.cifar10 import CLASSES, OfficialCIFAR10

Write = Callable[..., None]
Zip = Callable[[Path, Path], Path]


def labels(dataset: ImageDataset) -> dict[str, int]:
    return {dataset.image_id(i): dataset.label(i) for i in range(len(dataset))}


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_promise_18_the_order_of_creation_does_not_matter(tmp_path: Path, seed: int) -> None:
    files = [f"val/{name}/{number}.png" for name in ("bee", "Ant", "cat", "10", "9") for number in range(12)]
    expected = {file: ["10", "9", "Ant", "bee", "cat"].index(file.split("/")[1]) for file in files}
    random.Random(seed).shuffle(files)
    for file in files:
        (tmp_path / file).parent.mkdir(parents=True, exist_ok=True)
        draw(0, 4, 4).save(tmp_path / file)
    with zipfile.ZipFile(tmp_path / "all.zip", "w") as archive:
        for file in files:
            archive.write(tmp_path / file, file)
    for root in (tmp_path, tmp_path / "all.zip"):
        dataset = ImageFolderDataset(root, "val")
        assert labels(dataset) == expected
        assert [dataset.image_id(i) for i in range(60)] == sorted(files)


def test_promise_18_a_gap_does_not_move_the_labels(tmp_path: Path, write_images: Write, zip_folder: Zip) -> None:
    write_images(tmp_path / "i", {"ant": 1, "bee": 1, "cat": 1})
    names = ["ant", "bee", "cat", "dog"]
    roots = tmp_path / "i", zip_folder(tmp_path / "i", tmp_path / "i.zip")
    for root in roots:
        assert labels(ImageFolderDataset(root, "val", names)) == {f"val/{n}/0.png": i for i, n in enumerate(names[:3])}
    # An empty folder, and a folder that is not there.
    (tmp_path / "i" / "val" / "bee" / "0.png").unlink()
    assert labels(ImageFolderDataset(roots[0], "val", names)) == {"val/ant/0.png": 0, "val/cat/0.png": 2}
    with pytest.raises(ValueError, match="no images for class bee; remove the folder, or give classes"):
        ImageFolderDataset(roots[0], "val")
    (tmp_path / "i" / "val" / "bee").rmdir()
    assert labels(ImageFolderDataset(roots[0], "val", names)) == {"val/ant/0.png": 0, "val/cat/0.png": 2}
    with zipfile.ZipFile(tmp_path / "gap.zip", "w") as archive:
        archive.mkdir("val/bee")
        for name in ("ant", "cat"):
            archive.write(tmp_path / "i" / "val" / name / "0.png", f"val/{name}/0.png")
    assert labels(ImageFolderDataset(tmp_path / "gap.zip", "val", names)) == {"val/ant/0.png": 0, "val/cat/0.png": 2}
    with pytest.raises(ValueError, match="no images for class bee"):
        ImageFolderDataset(tmp_path / "gap.zip", "val")


def test_promise_18_a_gap_in_one_split_does_not_move_its_labels(tmp_path: Path, write_images: Write) -> None:
    write_images(tmp_path, {"ant": 1, "bee": 1, "cat": 1}, "train")
    write_images(tmp_path, {"cat": 1}, "val")
    assert labels(ImageFolderDataModule(tmp_path).dataset("val")) == {"val/cat/0.png": 2}


def test_promise_18_an_extra_folder_is_refused(tmp_path: Path, write_images: Write, zip_folder: Zip) -> None:
    write_images(tmp_path / "i", {"ant": 1, "bee": 1}, "train")
    write_images(tmp_path / "i", {"aardvark": 1, "ant": 1}, "val")
    for root in (tmp_path / "i", zip_folder(tmp_path / "i", tmp_path / "i.zip")):
        with pytest.raises(ValueError, match="val: folder aardvark is not among the 2 given classes; add it"):
            ImageFolderDataModule(root).dataset("val")
        with pytest.raises(ValueError, match="train: folder bee is not among the 2 given classes"):
            ImageFolderDataModule(root, classes=["aardvark", "ant"]).dataset("train")


@pytest.mark.parametrize("hidden", [".cache", "__MACOSX"])
def test_promise_18_a_folder_of_the_system_is_no_class(
    tmp_path: Path, write_images: Write, zip_folder: Zip, hidden: str
) -> None:
    write_images(tmp_path / "i", {hidden: 1, "ant": 1})
    for root in (tmp_path / "i", zip_folder(tmp_path / "i", tmp_path / "i.zip")):
        assert ImageFolderDataset(root, "val").classes == ("ant",)


def test_promise_18_names_that_differ_in_case_only_are_refused(tmp_path: Path, write_images: Write) -> None:
    write_images(tmp_path, {"Cat": 1, "ant": 1, "cat": 1})
    if len(os.listdir(tmp_path / "val")) < 3:  # noqa: PTH208
        pytest.skip("this file system takes Cat and cat for one")
    with pytest.raises(ValueError, match="the classes Cat, cat differ in case only; rename or join them"):
        ImageFolderDataset(tmp_path, "val")
    with pytest.raises(ValueError, match="the classes Cat, cat differ in case only"):
        ImageFolderDataset(tmp_path, "val", classes=["Cat", "ant", "cat"])
    (tmp_path / "other").mkdir()
    write_images(tmp_path / "other", {"Cat": 1})
    with pytest.raises(ValueError, match="folder Cat is not among the 2 given classes"):
        ImageFolderDataset(tmp_path / "other", "val", classes=["ant", "cat"])


@pytest.mark.filterwarnings("ignore:Duplicate name")
def test_promise_18_a_name_that_a_zip_holds_twice_is_one_image(tmp_path: Path, write_images: Write) -> None:
    write_images(tmp_path, {"ant": 2})
    with zipfile.ZipFile(tmp_path / "i.zip", "w") as archive:
        for number in (0, 1, 0):
            archive.write(tmp_path / "val" / "ant" / f"{number}.png", f"val/ant/{number}.png")
    assert ImageFolderDataset(tmp_path / "i.zip", "val").paths == ["val/ant/0.png", "val/ant/1.png"]


def test_promise_18_imagenet_needs_all_classes_or_a_list(tmp_path: Path) -> None:
    """One class folder less moves all labels behind it."""
    whole = [f"n{number:08d}" for number in range(1000)]
    for name in whole:
        (tmp_path / "val" / name).mkdir(parents=True)
        draw(0, 2, 2).save(tmp_path / "val" / name / "0.png")
    assert ImageNetDataModule(tmp_path).dataset("val").label(500) == 500
    (tmp_path / "val" / whole[3] / "0.png").unlink()
    (tmp_path / "val" / whole[3]).rmdir()
    with pytest.raises(ValueError, match=r"has 999 classes, ImageNet has 1000.*class_list"):
        ImageNetDataModule(tmp_path).dataset("val")
    (tmp_path / "classes.txt").write_text("\n".join(whole))
    assert ImageNetDataModule(tmp_path, class_list=tmp_path / "classes.txt").dataset("val").label(499) == 500


def test_promise_18_cifar10_is_the_same_from_every_kind_of_file(
    tmp_path: Path, zip_folder: Zip, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The official archive numbers the classes by its own list; folders go by their names."""
    rng = np.random.default_rng(0)
    planes, numbers = rng.integers(0, 256, (30, 3072), dtype=np.uint8), rng.permutation(30) % 10
    official = tmp_path / "official" / "cifar-10-batches-py"
    official.mkdir(parents=True)
    content: dict[str, Any] = {
        "test_batch": {"data": planes, "labels": numbers.tolist()},
        "batches.meta": {"label_names": list(CLASSES)},
    }
    for name, value in content.items():
        (official / name).write_bytes(pickle.dumps(value))
    monkeypatch.setattr(CIFAR10, "_check_integrity", lambda self: True)  # other images have other checksums
    monkeypatch.setattr("torchvision.datasets.cifar.check_integrity", lambda *_: True)
    monkeypatch.setattr(CIFAR10, "test_list", [["test_batch", ""]])
    tree = tmp_path / "tree"
    for place, (image, number) in enumerate(zip(planes, numbers, strict=True)):
        folder = tree / "test" / CLASSES[number]
        folder.mkdir(parents=True, exist_ok=True)
        Image.fromarray(image.reshape(3, 32, 32).transpose(1, 2, 0)).save(folder / f"{place}.png")
    zips = tmp_path / "zips"
    zips.mkdir()
    zip_folder(tree, zips / "test.zip")

    def content_of(dataset: ImageDataset) -> set[tuple[bytes, int]]:
        return {(dataset.uint8(i).tobytes(), dataset.label(i)) for i in range(len(dataset))}

    sets = [CIFAR10DataModule(root).dataset("test") for root in (tmp_path / "official", tree, zips)]
    assert isinstance(sets[0], OfficialCIFAR10)
    assert len(content_of(sets[0])) == 30
    assert content_of(sets[0]) == content_of(sets[1]) == content_of(sets[2])
    assert all(dataset.classes == CLASSES for dataset in sets)
    # A class without images leaves the others where they are; a folder of another name is refused.
    for path in (tree / "test" / "bird").iterdir():
        path.unlink()
    (tree / "test" / "bird").rmdir()
    assert content_of(CIFAR10DataModule(tree).dataset("test")) < content_of(sets[0])
    (tree / "test" / "frog").rename(tree / "test" / "frogs")
    with pytest.raises(ValueError, match="folder frogs is not among the 10 given classes"):
        CIFAR10DataModule(tree).dataset("test")
