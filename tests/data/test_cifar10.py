from __future__ import annotations

import hashlib
import pickle
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from torchvision.datasets import CIFAR10

from lightning_adv2.data import CIFAR10DataModule
from lightning_adv2.data.cifar10 import CLASSES, OfficialCIFAR10


@pytest.fixture
def root(tmp_path: Path, write_images: Callable[..., None], zip_folder: Callable[[Path, Path], Path]) -> Path:
    """Train as zip, test as folder."""
    root = tmp_path / "cifar"
    write_images(tmp_path / "t", dict.fromkeys(CLASSES, 3), "train", height=32, width=32)
    write_images(root, dict.fromkeys(CLASSES, 1), "test", height=32, width=32)
    zip_folder(tmp_path / "t", root / "train.zip")
    return root


def test_validation_images_are_held_out_from_training(root: Path) -> None:
    data = CIFAR10DataModule(root, num_val=7, seed=1)
    ids = {
        split: [data.dataset(split).image_id(i) for i in range(len(data.dataset(split)))]
        for split in ("train", "val", "test")
    }
    assert [len(ids[split]) for split in ("train", "val", "test")] == [23, 7, 10]
    assert len({*ids["train"], *ids["val"]}) == 30
    assert data.classes == data.dataset("test").classes == CLASSES
    assert data.num_classes == 10
    again, other = (CIFAR10DataModule(root, num_val=7, seed=seed).dataset("val") for seed in (1, 2))
    assert [again.image_id(i) for i in range(7)] == ids["val"] != [other.image_id(i) for i in range(7)]


def test_errors(root: Path, tmp_path: Path) -> None:
    for num_val in (0, 30):
        with pytest.raises(ValueError, match=f"num_val={num_val}: hold out at least 1 and less than all 30"):
            CIFAR10DataModule(root, num_val=num_val).dataset("train")
    with pytest.raises(FileNotFoundError, match=r"does not exist.*Lay CIFAR-10 out as .*cifar-10-python\.tar\.gz"):
        CIFAR10DataModule(tmp_path / "nowhere").dataset("test")
    (root / "cifar-10-batches-py").mkdir()
    with pytest.raises(RuntimeError, match="cifar-10-batches-py is incomplete or damaged"):
        CIFAR10DataModule(root).dataset("test")


def test_official_archive(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # The archive's format with other images in it, and so other checksums.
    folder = tmp_path / "cifar-10-batches-py"
    folder.mkdir()
    rng = np.random.default_rng(0)

    def write(name: str, content: dict[str, object]) -> str:
        (folder / name).write_bytes(pickle.dumps(content))
        return hashlib.md5((folder / name).read_bytes()).hexdigest()

    batch = {"data": rng.integers(0, 256, (20, 3072), dtype=np.uint8), "labels": [i % 10 for i in range(20)]}
    sums = [[name, write(name, batch)] for name in ("data_batch_1", "test_batch")]
    meta = {
        "filename": "batches.meta",
        "key": "label_names",
        "md5": write("batches.meta", {"label_names": list(CLASSES)}),
    }
    monkeypatch.setattr(CIFAR10, "train_list", sums[:1])
    monkeypatch.setattr(CIFAR10, "test_list", sums[1:])
    monkeypatch.setattr(CIFAR10, "meta", meta)
    dataset = OfficialCIFAR10(tmp_path, train=False)
    assert len(dataset) == 20
    assert dataset.label(13) == 3
    assert dataset.image_id(13) == "test/00013"
    # A row holds the red plane, then green, then blue, each in row-major order.
    assert dataset.uint8(13)[4, 5].tolist() == [batch["data"][13, plane * 1024 + 4 * 32 + 5] for plane in range(3)]
    assert dataset[13]["images"].shape == (3, 32, 32)
    assert len(CIFAR10DataModule(tmp_path, num_val=5).dataset("train")) == 15
    few, all_of_them = (CIFAR10DataModule(tmp_path, num_val=5, num_train=n).dataset("train") for n in (6, None))
    names = [{images.image_id(i) for i in range(len(images))} for images in (few, all_of_them)]
    assert len(names[0]) == 6
    assert names[0] < names[1]
    with pytest.raises(ValueError, match="num_train=16: give 1 to 15"):
        CIFAR10DataModule(tmp_path, num_val=5, num_train=16).dataset("train")


def test_real_test_images(shared: Path) -> None:
    data = CIFAR10DataModule(shared / "cifar10", batch_size=500)
    batches = list(data.test_dataloader())
    assert len(batches) == 10
    assert all(batch["images"].shape == (500, 3, 32, 32) for batch in batches)
    assert [batch["label"].unique().tolist() for batch in batches] == [[k] for k in range(10)]
