from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from lightning_adv2.data import ImageNetDataModule


def test_fewer_classes_need_a_list(tmp_path: Path, write_images: Callable[..., None]) -> None:
    write_images(tmp_path, {"n01": 2, "n03": 1}, height=30, width=40)
    data = ImageNetDataModule(tmp_path, resize=20, crop=16)
    for _ in range(2):
        with pytest.raises(ValueError, match=r"has 2 classes, ImageNet has 1000.*class_list"):
            data.dataset("val")
    listed = tmp_path / "classes.txt"
    listed.write_text("n03\nn02\nn01\n")
    data = ImageNetDataModule(tmp_path, resize=20, crop=16, class_list=listed, batch_size=2)
    assert data.classes == ("n03", "n02", "n01")
    assert data.dataset("test") is data.dataset("val")
    assert [batch["label"].tolist() for batch in data.test_dataloader()] == [[2, 2], [0]]
    assert next(iter(data.test_dataloader()))["images"].shape == (2, 3, 16, 16)


def test_a_list_from_a_csv(tmp_path: Path, write_images: Callable[..., None]) -> None:
    write_images(tmp_path, {"n01": 1, "n03": 1}, height=30, width=40)
    listed = tmp_path / "classes.csv"
    listed.write_text('index,wnid,name\n0,n03,"great, white"\n1,n02,tench\n2,n01,two words\n')
    assert ImageNetDataModule(tmp_path, class_list=listed).classes == ("n03", "n02", "n01")
    listed.write_text("index,name\n0,tench\n")
    with pytest.raises(ValueError, match="no column wnid; it has index, name"):
        ImageNetDataModule(tmp_path, class_list=listed)


def test_class_list_errors(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"class_list=.*nothing\.txt"):
        ImageNetDataModule(tmp_path, class_list=tmp_path / "nothing.txt")
    (tmp_path / "empty.txt").write_text("\n")
    with pytest.raises(ValueError, match=r"class_list=.*empty\.txt.* is empty"):
        ImageNetDataModule(tmp_path, class_list=tmp_path / "empty.txt")


def test_real_sample(shared: Path) -> None:
    data = ImageNetDataModule(shared / "imagenet1k-samples" / "images.zip", batch_size=8)
    assert data.name == "imagenet"
    assert data.num_classes == 1000
    batch = next(iter(data.test_dataloader()))
    assert batch["images"].shape == (8, 3, 224, 224)
    assert batch["label"].tolist() == list(range(8))
    rows = (shared / "imagenet1k-samples" / "classes.csv").read_text().splitlines()[1:]
    assert data.classes == tuple(row.split(",")[1] for row in rows)
