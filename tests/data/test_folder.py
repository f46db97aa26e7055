from __future__ import annotations

import pickle
import shutil
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision.transforms.v2 import functional as TF

from lightning_adv2.data import ImageDataset, ImageFolderDataModule, ImageFolderDataset, ImageSubset

Write = Callable[..., None]
Zip = Callable[[Path, Path], Path]


def content(dataset: ImageDataset) -> list[tuple[str, int, bytes]]:
    return [(dataset.image_id(i), dataset.label(i), dataset.uint8(i).tobytes()) for i in range(len(dataset))]


def test_folder_zip_and_split_zip_are_the_same_in_any_order_of_creation(
    tmp_path: Path, write_images: Write, zip_folder: Zip
) -> None:
    root = tmp_path / "images"
    write_images(root, {"cat": 3, "dog": 12, "eel": 2})
    (root / "val" / "cat" / "notes.txt").write_text("no image")
    (root / "val" / "cat" / ".hidden.png").write_text("no image")
    dataset = ImageFolderDataset(root, "val")
    assert dataset.classes == ("cat", "dog", "eel")
    assert len(dataset) == 17
    assert dataset.image_id(0) == "val/cat/0.png"
    assert [dataset.label(i) for i in range(17)] == [0] * 3 + [1] * 12 + [2] * 2
    assert content(dataset) == content(ImageFolderDataset(zip_folder(root, tmp_path / "all.zip"), "val"))
    (tmp_path / "zips").mkdir()
    zip_folder(root, tmp_path / "zips" / "val.zip")
    assert content(dataset) == content(ImageFolderDataset(tmp_path / "zips", "val"))
    assert content(dataset) == content(ImageFolderDataset(tmp_path / "zips", "val", cache=True))


def test_pixels_are_the_files_pixels(tmp_path: Path, write_images: Write) -> None:
    write_images(tmp_path, {"cat": 1}, height=10, width=14)
    dataset = ImageFolderDataset(tmp_path, "val")
    expected = np.array(Image.open(tmp_path / "val" / "cat" / "0.png"))
    assert np.array_equal(dataset.uint8(0), expected)
    assert dataset.image_size == (10, 14)
    assert torch.equal(dataset[0]["images"] * 255, torch.from_numpy(expected).permute(2, 0, 1).float())
    assert "mask" not in dataset[0]


def test_other_modes_become_rgb(tmp_path: Path) -> None:
    folder = tmp_path / "val" / "a"
    folder.mkdir(parents=True)
    for mode in ("L", "P", "RGBA", "1", "CMYK"):
        Image.new("RGB", (8, 8), (255, 255, 255)).convert(mode).save(
            folder / f"{mode}.{'jpg' if mode == 'CMYK' else 'png'}"
        )
    dataset = ImageFolderDataset(tmp_path, "val")
    assert len(dataset) == 5
    assert all((dataset.uint8(i) >= 254).all() for i in range(5))


@pytest.mark.parametrize(("height", "width"), [(40, 31), (31, 40), (37, 37), (24, 50)])
def test_resize_and_crop_equal_torchvision(tmp_path: Path, write_images: Write, height: int, width: int) -> None:
    write_images(tmp_path, {"cat": 1}, height=height, width=width)
    image = Image.open(tmp_path / "val" / "cat" / "0.png")
    resized = TF.resize(image, [24], interpolation=TF.InterpolationMode.BICUBIC, antialias=True)
    dataset = ImageFolderDataset(tmp_path, "val", resize=24, crop=17)
    assert np.array_equal(dataset.uint8(0), np.asarray(TF.center_crop(resized, [17, 17])))
    assert dataset.image_size == (17, 17)
    assert np.array_equal(ImageFolderDataset(tmp_path, "val", resize=24).uint8(0), np.asarray(resized))


def boxes_file(path: Path, *rows: str, header: str = "file,name,xmin,ymin,xmax,ymax") -> Path:
    path.write_text("\n".join([header, *rows]) + "\n")
    return path


def test_boxes_follow_resize_and_crop(tmp_path: Path, write_images: Write) -> None:
    write_images(tmp_path, {"cat": 2}, height=20, width=40)
    boxes = boxes_file(tmp_path / "boxes.csv", "val/cat/0.png,cat,10,0,20,8", "val/cat/0.png,cat,34,12,40,20")
    plain = ImageFolderDataset(tmp_path, "val", boxes=boxes)
    expected = np.zeros((20, 40), bool)
    expected[0:8, 10:20] = expected[12:20, 34:40] = True
    assert np.array_equal(plain.load(0)[1], expected)
    assert plain[0]["mask"].shape == (1, 20, 40)
    assert not plain[1]["mask"].any()

    # Half the size: (5, 0, 10, 4) and (17, 6, 20, 10) in 10 x 20. The central 8 x 8 starts at row 1, column 6.
    half = ImageFolderDataset(tmp_path, "val", resize=10, crop=8, boxes=boxes)
    expected = np.zeros((8, 8), bool)
    expected[0:3, 0:4] = True
    assert np.array_equal(half.load(0)[1], expected)
    cached = ImageFolderDataset(tmp_path, "val", resize=10, crop=8, boxes=boxes, cache=True)
    assert np.array_equal(cached.load(0)[1], expected)

    # A quarter: (2.5, 0, 5, 2) has the centres 2.5 to 4.5, and (8.5, 3, 10, 5) the centres 8.5 and 9.5.
    expected = np.zeros((5, 10), bool)
    expected[0:2, 2:5] = expected[3:5, 8:10] = True
    assert np.array_equal(ImageFolderDataset(tmp_path, "val", resize=5, boxes=boxes).load(0)[1], expected)


def test_cache_reads_the_files_once(tmp_path: Path, write_images: Write) -> None:
    write_images(tmp_path, {"cat": 2})
    dataset = ImageFolderDataset(tmp_path, "val", cache=True)
    before = content(dataset)
    shutil.rmtree(tmp_path / "val")
    assert content(dataset) == before


def test_zip_survives_pickling_and_workers(tmp_path: Path, write_images: Write, zip_folder: Zip) -> None:
    write_images(tmp_path / "i", {"cat": 9, "dog": 8})
    root = zip_folder(tmp_path / "i", tmp_path / "i.zip")
    dataset = ImageFolderDataset(root, "val")
    before = content(dataset)
    assert content(pickle.loads(pickle.dumps(dataset))) == before
    alone, helped = (ImageFolderDataModule(root, batch_size=4, num_workers=n) for n in (0, 2))
    alone.dataset("val")[0], helped.dataset("val")[0]  # the handle is open before the workers fork
    for first, second in zip(alone.val_dataloader(), helped.val_dataloader(), strict=True):
        assert torch.equal(first["images"], second["images"])
        assert first["image_id"] == second["image_id"]
        assert torch.equal(first["label"], second["label"])


def test_classes(tmp_path: Path, write_images: Write) -> None:
    write_images(tmp_path, {"cat": 1, "dog": 1})
    dataset = ImageFolderDataset(tmp_path, "val", classes=["dog", "ant", "cat"])
    assert [dataset.label(i) for i in range(2)] == [2, 0]
    with pytest.raises(ValueError, match="folder dog is not among the 1 given classes"):
        ImageFolderDataset(tmp_path, "val", classes=["cat"])
    with pytest.raises(ValueError, match="appears twice"):
        ImageFolderDataset(tmp_path, "val", classes=["cat", "dog", "cat"])
    (tmp_path / "val" / "bee").mkdir()
    with pytest.raises(ValueError, match="no images for class bee"):
        ImageFolderDataset(tmp_path, "val")
    assert len(ImageFolderDataset(tmp_path, "val", classes=["bee", "cat", "dog"])) == 2


def test_errors_of_the_root(tmp_path: Path, write_images: Write) -> None:
    with pytest.raises(FileNotFoundError, match=r"root=.*nowhere.* does not exist"):
        ImageFolderDataset(tmp_path / "nowhere", "val")
    write_images(tmp_path, {"cat": 1})
    with pytest.raises(FileNotFoundError, match=r"split='valid'.*valid\.zip.*root has: val; give"):
        ImageFolderDataset(tmp_path, "valid")
    (tmp_path / "test").mkdir()
    with pytest.raises(FileNotFoundError, match="test has no class folders"):
        ImageFolderDataset(tmp_path, "test")
    (tmp_path / "test" / "cat").mkdir()
    with pytest.raises(FileNotFoundError, match=r"test has only empty class folders \(cat\)"):
        ImageFolderDataset(tmp_path, "test")
    (tmp_path / "broken.zip").write_bytes(b"PK no zip")
    with pytest.raises(ValueError, match=r"broken\.zip is no readable zip"):
        ImageFolderDataset(tmp_path / "broken.zip", "val")


@pytest.mark.parametrize("below", ["val", "train", "val/cat"])
def test_a_folder_too_far_down_is_told_the_one_above(below: str, tmp_path: Path, write_images: Write) -> None:
    write_images(tmp_path, {"cat": 1})
    shutil.copytree(tmp_path / "val", tmp_path / "train")
    with pytest.raises(FileNotFoundError) as raised:
        ImageFolderDataModule(tmp_path / below).dataset("train")
    assert str(raised.value).endswith(f"; give the folder that holds val/, root={str(tmp_path)!r}")


def test_a_folder_without_splits_is_told_the_layout(tmp_path: Path, write_images: Write) -> None:
    write_images(tmp_path, {"cat": 1})
    shutil.move(tmp_path / "val", tmp_path / "images")
    with pytest.raises(FileNotFoundError) as raised:
        ImageFolderDataModule(tmp_path).dataset("train")
    assert str(raised.value).endswith("root has: images; give the folder that holds val/, with a folder of images for "
                                      "each class in it")  # fmt: skip


def test_errors_of_the_images(tmp_path: Path, write_images: Write) -> None:
    write_images(tmp_path, {"cat": 1}, height=20, width=20)
    write_images(tmp_path, {"dog": 1}, height=24, width=20)
    with pytest.raises(ValueError, match=r"val/dog/0\.png is 24 x 20.*first image is 20 x 20: set resize and crop"):
        ImageFolderDataset(tmp_path, "val").uint8(1)
    with pytest.raises(ValueError, match=r"crop=22: val/cat/0\.png is only 20 x 20"):
        ImageFolderDataset(tmp_path, "val", crop=22).uint8(0)
    for argument in ("resize", "crop"):
        with pytest.raises(ValueError, match=f"{argument}=0"):
            ImageFolderDataset(tmp_path, "val", **{argument: 0})
    whole = (tmp_path / "val" / "cat" / "0.png").read_bytes()
    (tmp_path / "val" / "cat" / "0.png").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(RuntimeError, match=r"cannot read the image val/cat/0\.png"):
        ImageFolderDataset(tmp_path, "val").uint8(0)


def test_damaged_zip_member_is_named(tmp_path: Path, write_images: Write, zip_folder: Zip) -> None:
    write_images(tmp_path / "i", {"cat": 1})
    path = zip_folder(tmp_path / "i", tmp_path / "i.zip")
    with zipfile.ZipFile(path) as archive:
        start = archive.infolist()[0].header_offset
    data = bytearray(path.read_bytes())
    data[start + 600] ^= 1
    path.write_bytes(bytes(data))
    with pytest.raises(RuntimeError, match=r"cannot read the image val/cat/0\.png \(Bad CRC-32"):
        ImageFolderDataset(path, "val").uint8(0)


@pytest.mark.parametrize(
    ("rows", "header", "message"),
    [
        (["val/cat/0.png,1,2,3"], "file,xmin,ymin,xmax", "no column ymax"),
        (["val/cat/0.png,a,1,2,3,x"], "file,name,xmin,ymin,xmax,ymax", "line 2: .*no four numbers"),
        (["val/cat/0.png,a,3,2,3,4"], "file,name,xmin,ymin,xmax,ymax", "line 2: .*xmin < xmax"),
        (["cat/0.png,a,1,2,3,4"], "file,name,xmin,ymin,xmax,ymax", "no box of any image.*'cat/0.png'.*'val/cat/0.png'"),
    ],
)
def test_errors_of_the_boxes(tmp_path: Path, write_images: Write, rows: list[str], header: str, message: str) -> None:
    write_images(tmp_path, {"cat": 1})
    boxes = boxes_file(tmp_path / "boxes.csv", *rows, header=header)
    with pytest.raises(ValueError, match=message):
        ImageFolderDataset(tmp_path, "val", boxes=boxes)
    with pytest.raises(FileNotFoundError, match=r"boxes=.*nothing\.csv"):
        ImageFolderDataset(tmp_path, "val", boxes=tmp_path / "nothing.csv")


def test_splits_share_the_training_classes(tmp_path: Path, write_images: Write) -> None:
    write_images(tmp_path, {"ant": 2, "bee": 2, "cat": 2}, "train")
    write_images(tmp_path, {"bee": 1, "cat": 1}, "val")
    data = ImageFolderDataModule(tmp_path)
    assert data.name == tmp_path.name
    assert data.num_classes == 3
    assert [data.dataset("val").label(i) for i in range(2)] == [1, 2]
    assert data.dataset("test") is data.dataset("val")
    write_images(tmp_path, {"cat": 4}, "heldout")
    other = ImageFolderDataModule(tmp_path, test_split="heldout", name="mine")
    assert len(other.dataset("test")) == 4
    assert other.dataset("test").label(0) == 2
    assert other.name == "mine"
    assert len(next(iter(other.predict_dataloader()))["label"]) == 4


def test_held_out_validation_images(tmp_path: Path, write_images: Write) -> None:
    write_images(tmp_path, {"ant": 20, "bee": 10, "cat": 2, "dog": 1}, "train")
    with pytest.raises(FileNotFoundError, match=r"val_split='val' is not in.*which has: train; .*val_fraction"):
        ImageFolderDataModule(tmp_path).val_dataloader()
    data = ImageFolderDataModule(tmp_path, val_fraction=0.2, seed=3)
    train, val = data.dataset("train"), data.dataset("val")
    train_ids, val_ids = ({d.image_id(i) for i in range(len(d))} for d in (train, val))
    assert not train_ids & val_ids
    assert len(train_ids | val_ids) == 33
    assert np.bincount([val.label(i) for i in range(len(val))], minlength=4).tolist() == [4, 2, 1, 0]
    again = ImageFolderDataModule(tmp_path, val_fraction=0.2, seed=3).dataset("val")
    assert content(again) == content(val)
    assert content(ImageFolderDataModule(tmp_path, val_fraction=0.2, seed=4).dataset("val")) != content(val)
    write_images(tmp_path, {"ant": 1}, "val")
    with pytest.raises(ValueError, match=r"val_fraction=0\.2, but root=.* has 'val'"):
        ImageFolderDataModule(tmp_path, val_fraction=0.2).dataset("train")
    with pytest.raises(ValueError, match="val_fraction=1"):
        ImageFolderDataModule(tmp_path, val_fraction=1)


@pytest.mark.parametrize("cache", [False, True])
def test_each_box_is_in_the_batch(tmp_path: Path, write_images: Write, cache: bool) -> None:
    """The mask of two that touch could not tell them apart."""
    write_images(tmp_path, {"cat": 2, "dog": 1}, height=20, width=40)
    rows = ["val/cat/0.png,cat,10,0,20,8", "val/cat/0.png,cat,34,12,40,20", "val/cat/0.png,cat,0,0,6,6",
            "val/dog/0.png,dog,12,6,28,19"]  # fmt: skip
    boxes = boxes_file(tmp_path / "boxes.csv", *rows)
    data = ImageFolderDataModule(tmp_path, resize=10, crop=8, boxes=boxes, batch_size=3, cache=cache)
    batch = next(iter(data.val_dataloader()))
    # Half the size, then 6 columns and 1 row off: the first is cut off, the others are out.
    assert batch["boxes"].tolist() == [
        [[0, 0, 4, 3], [0, 0, 0, 0], [0, 0, 0, 0]],
        [[0, 0, 0, 0]] * 3,
        [[0, 2, 8, 8], [0, 0, 0, 0], [0, 0, 0, 0]],
    ]
    half = data.dataset("val")
    assert ImageSubset(half, [2])[0]["boxes"].tolist() == batch["boxes"][2].tolist()
    plain = ImageFolderDataset(tmp_path, "val", boxes=boxes)
    assert plain[0]["boxes"].tolist() == [[10, 0, 20, 8], [34, 12, 40, 20], [0, 0, 6, 6]]
    assert "boxes" not in ImageFolderDataset(tmp_path, "val")[0]


def test_tiny_imagenet_boxes(shared: Path) -> None:
    folder = shared / "boxes-sample"
    dataset = ImageFolderDataset(folder / "tiny-imagenet-val.zip", "val", boxes=folder / "tiny-imagenet-val_boxes.csv")
    assert len(dataset) == 2800
    assert len(dataset.classes) == 200
    index = dataset.paths.index("val/n01443537/val_1267.jpg")  # its box is 24,15,64,53
    assert dataset[index]["boxes"].tolist() == [[24, 15, 64, 53]]
    mask = dataset[index]["mask"][0]
    assert mask.sum() == 40 * 38
    assert mask[15:53, 24:64].all()


def test_voc_boxes_at_the_size_of_a_classifier(shared: Path, tmp_path: Path) -> None:
    folder = shared / "boxes-sample"
    (tmp_path / "val" / "all").mkdir(parents=True)
    with zipfile.ZipFile(folder / "voc2012.zip") as archive:
        for name in archive.namelist()[:10]:
            (tmp_path / "val" / "all" / Path(name).name).write_bytes(archive.read(name))
    boxes = tmp_path / "boxes.csv"
    boxes.write_text((folder / "voc2012_boxes.csv").read_text().replace("images/", "val/all/"))
    dataset = ImageFolderDataset(tmp_path, "val", resize=256, crop=224, boxes=boxes)
    index = dataset.paths.index("val/all/2007_000027.jpg")  # 486 x 500, one box: 173,101 - 349,351 or thereabouts
    scale, top, left = 256 / 486, round((263 - 224) / 2), 16
    rows, columns = dataset[index]["mask"][0].nonzero().T
    assert columns.min() == pytest.approx(173 * scale - left, abs=1)
    assert columns.max() == pytest.approx(349 * scale - left - 1, abs=1)
    assert rows.min() == pytest.approx(100 * scale - top, abs=1)
    assert rows.max() == pytest.approx(351 * scale - top - 1, abs=1)
    assert all(dataset[i]["mask"].any() for i in range(10))
