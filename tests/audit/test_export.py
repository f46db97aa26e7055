"""Exported pictures: folders that every ImageFolder class reads, names that people read."""

from __future__ import annotations

import csv
from pathlib import Path

import numpy as np
import pytest
from build_records import make_record
from torchvision.datasets import ImageFolder

from lightning_adv2.__main__ import main
from lightning_adv2.audit.export import export
from lightning_adv2.audit.pictures import class_folders, image_names
from lightning_adv2.audit.verify import verify
from lightning_adv2.data import ImageFolderDataset
from lightning_adv2.files.experiment import write_experiment
from lightning_adv2.results import write_record

CLASSES = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")


def rows(path: Path) -> list[dict[str, str]]:
    with path.open(newline="", encoding="utf-8") as stream:
        return list(csv.DictReader(stream))


def run(folder: Path, ids: list[list[str]], classes: tuple[str, ...] = CLASSES) -> Path:
    for index, part in enumerate(ids):
        write_record(make_record(index, part), folder / "records")
    write_experiment(folder / "records", {"interpreters": {"cam": {}, "rts": {}}}, {"classes": classes})
    return folder


def test_image_folder_classes_read_what_is_exported(tmp_path: Path) -> None:
    folder = run(tmp_path / "run", [["val/a/1.png", "val/a/2.png", "val/b/3.jpg"], ["val/b/4.jpeg"]])
    records = [make_record(0, ["val/a/1.png", "val/a/2.png", "val/b/3.jpg"]), make_record(1, ["val/b/4.jpeg"])]
    written = export(folder)
    listed = rows(folder / "images" / "files.csv")
    assert [folder / "images" / row["file"] for row in listed] == written
    assert sorted({*(folder / "images").rglob("*.png")}) == sorted(written)
    for split, root, key in [("benign", folder / "images", ""), ("adv2-fast", folder / "images" / "cam", "adv2-fast")]:
        ours = ImageFolderDataset(root, split, classes=CLASSES)
        theirs = ImageFolder(root / split)
        of_file = {row["file"]: row for row in listed}
        found = {}
        for i in range(len(ours)):
            row = of_file[(root / ours.paths[i]).relative_to(folder / "images").as_posix()]
            assert row["attack"] == key
            assert int(row["label"]) == ours.label(i)
            assert CLASSES[ours.label(i)] == row["class"]
            found[row["image_id"]] = ours.uint8(i), ours.label(i)
        assert len(theirs) == len(ours) == 4
        for (path, label), i in zip(theirs.samples, range(4), strict=True):
            assert path.endswith(ours.paths[i])
            assert theirs.classes[label] == CLASSES[ours.label(i)]
        for record in records:
            images = record.images if not key else next(a for a in record.attacks if a.key == key).adv_images
            for image_id, image, label in zip(record.image_id, images, record.label.tolist(), strict=True):
                pixels, read = found[image_id]
                assert read == label
                assert np.array_equal(pixels, image.permute(1, 2, 0).numpy())
    target = CLASSES[int(records[1].target_class[0])]
    label = CLASSES[int(records[1].label[0])]
    assert (folder / "images" / "cam" / "adv2-fast" / label / f"4__to_{target}.png").is_file()
    assert (folder / "images" / "benign" / label / "4.png").is_file()
    assert not [one for one in verify(folder)[0] if "images/" in one]


def test_files_of_another_layout_are_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = run(tmp_path / "run", [["a"]])
    (folder / "images" / "benign").mkdir(parents=True)
    (folder / "images" / "benign" / "a.png").write_bytes(b"")
    assert main(["export", str(folder)]) == 0
    assert "1 other PNG files lie there" in capsys.readouterr().out


def test_classes_have_safe_folders_that_a_file_maps_back(tmp_path: Path) -> None:
    odd = ("crane", "Crane", "a/b", "..", "con", "tab\there", ".hid", "caf\u00e9", "x" * 300, "", "50%", "crane (0)")
    folders = class_folders(odd)
    assert folders == [
        "crane (0) (0)", "Crane (1)", "a%2Fb", "%2E%2E", "%63on", "tab%09here", "%2Ehid", "caf\u00e9", folders[8], "9",
        "50%25", "crane (0)",
    ]  # fmt: skip
    assert len({name.casefold() for name in folders}) == len(odd)
    assert len(folders[8].encode()) <= 80
    for name in folders:
        (tmp_path / name / "x").mkdir(parents=True)
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(folders)
    folder = run(tmp_path / "run", [["a"]], odd)
    export(folder)
    assert [
        (int(row["index"]), row["class"], row["folder"]) for row in rows(folder / "images" / "classes.csv")
    ] == list(zip(range(len(odd)), odd, folders, strict=True))


@pytest.mark.parametrize(
    ("ids", "names"),
    [
        (["val/a/1.png", "val/b/2.JPEG"], ["1", "2"]),
        (["val/a/1.png", "val/b/1.png"], ["a__1", "b__1"]),
        (["val/a/1.png", "val/a/1.jpg"], ["val%2Fa%2F1.png", "val%2Fa%2F1.jpg"]),
        (["a/b", "a__b", "c/b"], ["a%2Fb", "a__b", "c%2Fb"]),
        (["A.png", "a.png"], ["A.png~0", "a.png~1"]),
        (["ISIC_1", "ISIC_2"], ["ISIC_1", "ISIC_2"]),
        (["v1.5", "v1.6"], ["v1.5", "v1.6"]),
    ],
)
def test_image_names_are_short_where_they_can_be_and_always_different(ids: list[str], names: list[str]) -> None:
    assert image_names(ids) == dict(zip(ids, names, strict=True))


def test_long_names_fit_into_a_file_system(tmp_path: Path) -> None:
    long = ["\u00e9" * 200 + str(number) for number in range(2)]
    folder = run(tmp_path / "run", [long], tuple(letter * 200 for letter in "abcdefghij"))
    assert len(export(folder)) == 2 * (1 + len(make_record(0, long).attacks))
    assert not [one for one in verify(folder)[0] if "images/" in one]
