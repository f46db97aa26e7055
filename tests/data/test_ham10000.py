from __future__ import annotations

import csv
from collections import Counter
from collections.abc import Callable, Iterable
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from data.conftest import draw
from PIL import Image

from lightning_adv2.data import HAM10000DataModule
from lightning_adv2.data.lesion_labels import CLASSES, held_out, read_labels
from lightning_adv2.data.storage import FolderStorage, ZipStorage

HEADER = ["image", "MEL", "NV", "BCC", "AKIEC", "BKL", "DF", "VASC"]


def write_csv(path: Path, header: Iterable[str], rows: Iterable[Iterable[Any]]) -> Path:
    with path.open("w", newline="") as file:
        csv.writer(file).writerows([list(header), *map(list, rows)])
    return path


def one_hot(label: int) -> list[str]:
    return [f"{float(i == label):.1f}" for i in range(7)]  # as ISIC writes them: 0.0 and 1.0


def official(folder: Path, labels: dict[str, int], **size: int) -> dict[str, str]:
    """Images and ground truth of one split as ISIC lays them out; the two arguments."""
    images = folder / "Input" / "nested"
    images.mkdir(parents=True)
    for number, name in enumerate(labels):
        draw(number, **size).save(images / f"{name}.jpg", quality=95)
    (folder / "Input" / "ATTRIBUTION.txt").write_text("no image")
    truth = write_csv(folder / "truth.csv", HEADER, ([name, *one_hot(label)] for name, label in labels.items()))
    return {"images": str(folder / "Input"), "labels": str(truth)}


def test_the_official_layout_of_three_splits(tmp_path: Path, zip_folder: Callable[[Path, Path], Path]) -> None:
    splits = {"train": {"ISIC_3": 6, "ISIC_1": 0}, "val": {"ISIC_2": 3}, "test": {"ISIC_4": 5, "ISIC_5": 1}}
    given = {split: official(tmp_path / split, labels) for split, labels in splits.items()}
    options: Any = {key: {split: given[split][key] for split in splits} for key in ("images", "labels")}
    options["images"]["test"] = str(zip_folder(tmp_path / "test" / "Input", tmp_path / "test.zip"))
    data = HAM10000DataModule(**options, resize=None, crop=None)
    for split, labels in splits.items():
        dataset = data.dataset(split)  # type: ignore[arg-type]
        assert {dataset.image_id(i): dataset.label(i) for i in range(len(dataset))} == labels
        assert "mask" not in dataset[0]
    expected = np.asarray(Image.open(tmp_path / "test" / "Input" / "nested" / "ISIC_4.jpg"))
    assert np.array_equal(data.dataset("test").uint8(0), expected)
    assert data.classes == tuple(HEADER[1:])
    assert data.class_titles[:2] == ("melanoma", "melanocytic nevus")
    assert data.num_classes == 7


def flat(folder: Path, labels: dict[str, int], **options: Any) -> HAM10000DataModule:
    return HAM10000DataModule(**{**official(folder, labels), "resize": None, "crop": None, **options})


def test_a_share_is_held_out_and_no_lesion_is_on_both_sides(tmp_path: Path) -> None:
    names = [f"ISIC_{n:03d}" for n in range(120)]
    lesion = {name: f"HAM_{n // 3}" for n, name in enumerate(names)}  # three images of each
    label = {name: 0 if n < 90 else 5 for n, name in enumerate(names)}
    lesions = write_csv(tmp_path / "groups.csv", ["image", "lesion_id", "diagnosis_confirm_type"],
                        ([name, lesion[name], "histo"] for name in names))  # fmt: skip
    made = {"lesions": lesions, "val_fraction": 0.2, "test_fraction": 0.1}
    data = flat(tmp_path / "a", label, **made)
    ids = {split: [row.image_id for row in data._rows() if row.split == split] for split in ("train", "val", "test")}
    assert sorted(chain.from_iterable(ids.values())) == names
    assert {split: Counter(label[name] for name in part) for split, part in ids.items()} == {
        "train": {0: 63, 5: 21}, "val": {0: 18, 5: 6}, "test": {0: 9, 5: 3},
    }  # fmt: skip
    sides = [{lesion[name] for name in part} for part in ids.values()]
    assert sum(map(len, sides)) == 40, "a lesion is in two splits"
    assert [data.dataset("val").image_id(i) for i in range(24)] == ids["val"]
    without = HAM10000DataModule(data.images, data.labels, None, 0.2, 0.1)
    loose = [{lesion[row.image_id] for row in without._rows() if row.split == split} for split in ids]
    assert sum(map(len, loose)) > 40, "three of a lesion together by chance show nothing"


def test_the_shares_hang_on_the_seed_and_not_on_the_order_of_the_rows(tmp_path: Path) -> None:
    truth = write_csv(tmp_path / "t.csv", HEADER, ([f"ISIC_{n}", *one_hot(n % 7)] for n in range(70)))
    rows, shares = read_labels(truth), {"val": 0.2, "test": 0.2}
    first = {row.image_id: row.split for row in held_out(rows, shares, 0)}
    assert first == {row.image_id: row.split for row in held_out(rows[::-1], shares, 0)}
    assert first != {row.image_id: row.split for row in held_out(rows, shares, 1)}
    assert Counter(first.values()) == {"train": 42, "val": 14, "test": 14}


def test_dx_split_and_lesion_come_from_one_file(tmp_path: Path) -> None:
    truth = write_csv(tmp_path / "labels.csv", ["lesion_id", "image_id", "dx", "split"],
                      [["HAM_1", "ISIC_1", "akiec", "test"], ["HAM_2", "ISIC_2", "nv", "train"]])  # fmt: skip
    first, second = read_labels(truth)
    assert (first.image_id, first.label, first.split, first.lesion_id) == ("ISIC_1", 3, "test", "HAM_1")
    assert (second.label, second.split) == (1, "train")


@pytest.mark.parametrize(
    ("row", "message"),
    [
        (["ISIC_9", 1, 0, 0, 0, 0, 1, 0], r"line 3: MEL=1.*DF=1.*is not one-hot; exactly one"),
        (["ISIC_9", 0, 0, 0, 0, 0, 0, 0], "is not one-hot"),
        (["ISIC_9", 0.5, 0.5, 0, 0, 0, 0, 0], "is not one-hot"),
        (["ISIC_9", "yes", 0, 0, 0, 0, 0, 0], "MEL=yes.*is not one-hot"),
        (["ISIC_9", 1], "is not one-hot"),
        (["ISIC_1", 1, 0, 0, 0, 0, 0, 0], "line 3: the image ISIC_1 comes twice"),
        (["", 1, 0, 0, 0, 0, 0, 0], "line 3: no image"),
    ],
)
def test_bad_rows_are_named(tmp_path: Path, row: list[Any], message: str) -> None:
    truth = write_csv(tmp_path / "t.csv", HEADER, [["ISIC_1", *one_hot(0)], row])
    with pytest.raises(ValueError, match=message):
        read_labels(truth)


def test_bad_files_are_named(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"labels=.*nowhere\.csv' does not exist; give a CSV"):
        read_labels(tmp_path / "nowhere.csv")
    with pytest.raises(ValueError, match=r"has the columns image, MEL; it needs image or image_id, and MEL.* or dx"):
        read_labels(write_csv(tmp_path / "a.csv", ["image", "MEL"], []))
    with pytest.raises(ValueError, match="dx='wart' is none of mel, nv"):
        read_labels(write_csv(tmp_path / "b.csv", ["image_id", "dx"], [["ISIC_1", "wart"]]))
    with pytest.raises(ValueError, match="has no rows"):
        read_labels(write_csv(tmp_path / "c.csv", HEADER, []))
    data = flat(tmp_path / "images", {"ISIC_1": 0, "ISIC_2": 1}, lesions=tmp_path / "lesions.csv")
    with pytest.raises(FileNotFoundError, match=r"lesions=.*LesionGroupings"):
        data.dataset("train")
    write_csv(tmp_path / "lesions.csv", ["image", "lesion_id"], [["ISIC_1", "HAM_1"]])
    with pytest.raises(ValueError, match=r"lesions=.*has no lesion_id for ISIC_2"):
        data.dataset("train")


def test_images_and_rows_must_belong_together(tmp_path: Path) -> None:
    data = flat(tmp_path, {f"ISIC_{n}": n % 2 for n in range(20)})
    image = tmp_path / "Input" / "nested" / "ISIC_7.jpg"
    image.rename(image.with_name("ISIC_70.jpg"))
    with pytest.raises(ValueError, match="1 rows without an image: ISIC_7; take"):
        data.dataset("train")
    image.with_name("ISIC_70.jpg").rename(image)
    draw(0).save(image.with_name("ISIC_70.jpg"))
    with pytest.raises(ValueError, match="1 images without a row: ISIC_70; take"):
        data.dataset("train")
    with pytest.raises(FileNotFoundError, match=r"images=.* does not exist; give a folder or a zip"):
        HAM10000DataModule(tmp_path / "nowhere", data.labels).dataset("train")


def test_settings_that_do_not_fit_are_refused(tmp_path: Path) -> None:
    for options, message in [
        ({"val_fraction": 0.6, "test_fraction": 0.4}, "give shares that sum below 1"),
        ({"val_fraction": -0.1}, "give shares"),
        ({"labels": {"validation": "x.csv"}}, "name the splits train, val, test"),
        ({"images": {"train": "x"}, "labels": "y.csv"}, "must be for the same ones"),
    ]:
        with pytest.raises(ValueError, match=message):
            HAM10000DataModule(**{"images": "x", "labels": "y.csv", **options})  # type: ignore[arg-type]
    truth = write_csv(tmp_path / "t.csv", ["image_id", "dx", "split"], [["ISIC_1", "nv", "train"]])
    with pytest.raises(FileNotFoundError, match="no images of the split 'test'; there are: train"):
        HAM10000DataModule(tmp_path, truth).dataset("test")


def masked(folder: Path, suffix: str = "_segmentation", count: int = 4) -> HAM10000DataModule:
    data = flat(folder, {f"ISIC_{n}": n % 2 for n in range(4)}, val_fraction=0, test_fraction=0, resize=24, crop=16)
    (folder / "Input" / "masks").mkdir()
    for n in range(count):
        pixels = np.zeros((20, 20), np.uint8)
        pixels[4:12, 10:20] = 255
        Image.fromarray(pixels).convert("1").save(folder / "Input" / "masks" / f"ISIC_{n}{suffix}.png")
    return data


@pytest.mark.parametrize("suffix", ["", "_segmentation"])
def test_lesion_masks_go_through_the_same_resize_and_crop(tmp_path: Path, suffix: str) -> None:
    mask = masked(tmp_path, suffix).dataset("train")[0]["mask"]
    # 20 -> 24 pixels, then the middle 16: x -> 1.2 x - 4. Rows 4..12 -> 0.8..10.4, columns 10..20 -> 8..16 (cut off).
    assert mask.shape == (1, 16, 16)
    rows, columns = mask[0].nonzero().T
    assert (rows.min(), rows.max(), columns.min(), columns.max()) == (1, 9, 8, 15)
    assert mask.sum() == 9 * 8


def test_masks_are_for_all_images_or_none_and_of_their_sizes(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"1 of the 4 images of the train split have no mask, such as ISIC_3"):
        masked(tmp_path / "a", count=3).dataset("train")
    data = masked(tmp_path / "b")
    Image.new("1", (10, 20)).save(tmp_path / "b" / "Input" / "masks" / "ISIC_0_segmentation.png")
    with pytest.raises(ValueError, match=r"is 20 x 10 pixels, its image 20 x 20"):
        data.dataset("train")[0]


def test_promise_9_balanced_epochs_draw_every_class_equally_often_and_go_on(tmp_path: Path) -> None:
    labels = {f"ISIC_{n:03d}": 0 if n < 180 else 3 if n < 198 else 6 for n in range(200)}
    options = {"val_fraction": 0, "test_fraction": 0, "batch_size": 20, "cache": True, "balanced": True}
    data = flat(tmp_path, labels, **options)
    loader = data.train_dataloader()
    seen: Counter[int] = Counter()
    drawn: list[list[str]] = []
    for epoch in range(20):
        loader.sampler.set_epoch(epoch)  # type: ignore[attr-defined]
        for batch in loader:
            seen.update(batch["label"].tolist())
            drawn.append(batch["image_id"])
    # 4,000 draws of probability 1/3: a standard deviation of 30.
    assert all(abs(seen[label] - 4000 / 3) < 150 for label in (0, 3, 6)), seen
    assert set(drawn[0]) != set(drawn[10]), "each epoch has its own draws"
    again = HAM10000DataModule(data.images, data.labels, **options, resize=None, crop=None)
    again.load_state_dict(data.state_dict())
    rest = again.train_dataloader()
    rest.load_state_dict({"epoch": 1, "batches": 4, "images_per_step": 20})
    rest.sampler.set_epoch(1)  # type: ignore[attr-defined]
    assert [batch["image_id"] for batch in rest] == drawn[14:20]
    unbalanced = HAM10000DataModule(data.images, data.labels, **options | {"balanced": False}, resize=None, crop=None)
    names = [name for batch in unbalanced.train_dataloader() for name in batch["image_id"]]
    assert sorted(names) == sorted(labels)


def test_the_real_sample(shared: Path) -> None:
    folder = shared / "isic-sample"
    if not folder.is_dir():
        pytest.skip("no isic-sample among the shared data")
    data = HAM10000DataModule(folder / "ham10000-200x150.zip", folder / "labels.csv", resize=120, crop=112)
    assert [len(data.dataset(split)) for split in ("train", "val", "test")] == [1823, 388, 387]
    with (folder / "labels.csv").open() as file:
        rows = {row["image_id"]: row for row in csv.DictReader(file)}
    dataset = data.dataset("test")
    for i in range(len(dataset)):
        row = rows[dataset.image_id(i)]
        assert (row["split"], int(row["isic2018_index"])) == ("test", dataset.label(i))
        assert row["dx"].upper() == CLASSES[dataset.label(i)]
    item = data.dataset("train")[0]
    assert item["images"].shape == (3, 112, 112)
    # The box of ISIC_0024310's mask, from the file: resized by 0.8, cropped by 24 and 4 pixels.
    row = rows[item["image_id"]]
    ys, xs = item["mask"][0].nonzero().T
    edges = [float(row[name]) * 0.8 for name in ("xmin", "xmax", "ymin", "ymax")]
    expected = [max(edges[0] - 24, 0), min(edges[1] - 24, 112), max(edges[2] - 4, 0), min(edges[3] - 4, 112)]
    found = [int(xs.min()), int(xs.max()) + 1, int(ys.min()), int(ys.max()) + 1]
    assert np.abs(np.subtract(found, expected)).max() <= 1
    assert torch.equal(item["images"] * 255, (item["images"] * 255).round())


def test_files_at_any_depth_are_the_same_in_folder_and_zip(
    tmp_path: Path, zip_folder: Callable[[Path, Path], Path]
) -> None:
    root = tmp_path / "root"
    for name in ("b.jpg", "a/x.PNG", "a/b/c.jpeg", "notes.txt", ".hidden.jpg", "__MACOSX/a.jpg", "a/.git/d.jpg"):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(b"")
    expected = ["a/b/c.jpeg", "a/x.PNG", "b.jpg"]
    notes = {"notes.txt": "its name does not end as an image's does"}
    assert FolderStorage(root).files() == (expected, notes)
    assert ZipStorage(zip_folder(root, tmp_path / "root.zip")).files() == (expected, notes)
