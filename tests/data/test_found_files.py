"""Every file of a dataset is an image, or it is counted and named; only hidden and system files are passed over."""

from __future__ import annotations

import csv
import os
import unicodedata
import warnings
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest
from data.conftest import draw
from lab import idls, shapes, trainer
from PIL import Image
from torchvision import datasets

from lightning_adv2.attacks import pgd
from lightning_adv2.audit.verify import verify
from lightning_adv2.data import (
    AttackDataModule,
    HAM10000DataModule,
    ImageFolderDataModule,
    ImageFolderDataset,
    ImageSubset,
)
from lightning_adv2.data.lesion_labels import CLASSES
from lightning_adv2.data.storage import FolderStorage
from lightning_adv2.evaluation import AttackEvaluation
from lightning_adv2.files.images import EXTENSIONS

Zip = Callable[[Path, Path], Path]
NFC, NFD = (unicodedata.normalize(form, "caf\u00e9") for form in ("NFC", "NFD"))


def save(root: Path, *names: str, seed: int = 0, form: str | None = None) -> Path:
    for number, name in enumerate(names):
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        draw(seed + number, 8, 8).save(path, form or ("PNG" if path.suffix.lower() != ".pgm" else "PPM"))
    return root


def quiet(root: Path, *args: object, **kwargs: object) -> ImageFolderDataset:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        return ImageFolderDataset(root, "val", *args, **kwargs)  # type: ignore[arg-type]


def test_nested_folders_are_read_as_torchvision_reads_them(tmp_path: Path, zip_folder: Zip) -> None:
    save(tmp_path / "i", "val/b/1.png", "val/b/deep/er/2.png", "val/a/sub/3.png", "val/a/0.png", "val/a/x.png/4.png")
    dataset = quiet(tmp_path / "i")
    theirs = [path for path, _ in datasets.ImageFolder(tmp_path / "i" / "val").samples]
    assert {str(tmp_path / "i" / path) for path in dataset.paths} == set(theirs)
    assert dataset.paths == sorted(dataset.paths)
    assert [dataset.label(i) for i in range(5)] == [0, 0, 0, 1, 1]
    zipped = quiet(zip_folder(tmp_path / "i", tmp_path / "i.zip"))
    assert zipped.paths == dataset.paths
    assert all((zipped.uint8(i) == dataset.uint8(i)).all() for i in range(5))


def test_every_extension_counts_in_lower_and_upper_case(tmp_path: Path) -> None:
    names = [f"val/a/{number}{ending.upper() if number % 2 else ending}" for number, ending in enumerate(EXTENSIONS)]
    save(tmp_path, *names, form="PNG")
    assert len(quiet(tmp_path)) == len(EXTENSIONS)


def test_other_files_are_counted_and_named(tmp_path: Path, zip_folder: Zip) -> None:
    root = save(tmp_path / "i", "val/a/1.png", "val/b/1.png", "val/loose.png", "val/a/sub/odd", "val/b/2.heic")
    (root / "val" / "b" / "notes.txt").write_text("no image")
    expected = {
        "val/loose.png": "it lies in no class folder",
        "val/a/sub/odd": "its name does not end as an image's does",
        "val/b/2.heic": "its name does not end as an image's does",
        "val/b/notes.txt": "its name does not end as an image's does",
    }
    for place in (root, zip_folder(root, tmp_path / "i.zip")):
        with pytest.warns(UserWarning, match=r"val: 4 files beside the 2 images not read: val/loose\.png \(it lies in"):
            dataset = ImageFolderDataset(place, "val")
        assert dataset.left_out == expected
        assert ImageSubset(dataset, [0]).left_out == expected
        assert dataset.paths == ["val/a/1.png", "val/b/1.png"]


@pytest.mark.filterwarnings("ignore:.*not read")
def test_other_files_stand_in_the_status_and_do_not_count_as_damaged(tmp_path: Path) -> None:
    drawn = shapes().dataset("test")
    for i in range(len(drawn)):
        path = tmp_path / "i" / "val" / drawn.classes[drawn.label(i)] / f"{i}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(drawn.uint8(i)).save(path)
    (path.parent / "notes.txt").write_text("no image")
    note = (path.parent / "notes.txt").relative_to(tmp_path / "i").as_posix()
    data = ImageFolderDataModule(tmp_path / "i", classes=drawn.classes, name="odd")
    attacked = AttackDataModule(data, num_images=2, batch_size=2, max_skipped=0.0)
    module = idls("cam")
    evaluation = AttackEvaluation([pgd(steps=1)])
    trainer(tmp_path / "run", evaluation).test(module, attacked, verbose=False)
    with (tmp_path / "run" / "status.csv").open(newline="") as stream:
        status = {row["image_id"]: (row["status"], row["reason"]) for row in csv.DictReader(stream)}
    assert status[note] == ("skipped", "its name does not end as an image's does")
    assert attacked.manifest is not None
    assert attacked.manifest.considered == len(status)
    assert verify(tmp_path / "run")[0] == []


@pytest.mark.parametrize("name", ["Thumbs.db", ".DS_Store", "._1.png", "desktop.ini", "@eaDir/1.png", ".git/2.png"])
def test_files_of_a_system_do_not_count(tmp_path: Path, zip_folder: Zip, name: str) -> None:
    root = save(tmp_path / "i", "val/a/__1.png", f"val/a/{name}", f"val/{name}", f"val/a/sub/{name}", form="PNG")
    for place in (root, zip_folder(root, tmp_path / "i.zip")):
        dataset = quiet(place)
        assert (dataset.paths, dict(dataset.left_out)) == (["val/a/__1.png"], {})


def test_classes_that_look_like_a_systems_are_read_when_they_are_named(tmp_path: Path, zip_folder: Zip) -> None:
    root = save(tmp_path / "i", "val/.x/1.png", "val/__MACOSX/1.png", "val/__y__/1.png", "val/a/1.png")
    for place in (root, zip_folder(root, tmp_path / "i.zip")):
        assert quiet(place).classes == ("__y__", "a")
        named = quiet(place, classes=[".x", "__MACOSX", "__y__", "a"])
        assert [named.label(i) for i in range(len(named))] == [0, 1, 2, 3]
    (root / "val").rename(root / "__val__")
    assert len(ImageFolderDataset(root, "__val__")) == 2


def test_links_are_followed_and_loops_are_read_once(tmp_path: Path) -> None:
    root = save(tmp_path / "i", "val/a/1.png", "val/b/real/2.png")
    save(tmp_path, "elsewhere/3.png", "elsewhere/more/4.png")
    a = root / "val" / "a"
    for link, target in {"out": tmp_path / "elsewhere", "again": tmp_path / "elsewhere" / "more", "loop": a,
                         "up": root / "val", "above": tmp_path, "one.png": a / "1.png"}.items():  # fmt: skip
        (a / link).symlink_to(target)
    (a / "itself").symlink_to(a / "itself")
    (a / "gone.png").symlink_to(tmp_path / "nowhere.png")
    (root / "val" / "c").symlink_to(tmp_path / "elsewhere")
    with pytest.warns(UserWarning, match="5 files beside the 8 images"):
        dataset = ImageFolderDataset(root, "val")
    read = {path.split("/", 2)[2] for path in dataset.paths if path.startswith("val/a/")}
    assert {"1.png", "one.png", "gone.png"} < read
    assert sorted(Path(path).name for path in read) == ["1.png", "3.png", "4.png", "gone.png", "one.png"]
    assert [path for path in dataset.paths if not path.startswith("val/a/")] == [
        "val/b/real/2.png", "val/c/3.png", "val/c/more/4.png",
    ]  # fmt: skip
    for link in ("loop", "up", "above"):
        assert "a link to a folder that is read already" in dataset.left_out[f"val/a/{link}"]
    with pytest.raises(RuntimeError, match=r"val/a/gone\.png \(No such file"):
        dataset.uint8(dataset.paths.index("val/a/gone.png"))


def test_folders_that_link_to_each_other_take_no_time(tmp_path: Path) -> None:
    """Followed along every way there are more than 10! of them."""
    for number in range(10):
        save(tmp_path, f"pool/{number}/{number}.png")
        for other in range(10):
            (tmp_path / "pool" / str(number) / f"to_{other}").symlink_to(tmp_path / "pool" / str(other))
    (tmp_path / "i" / "val" / "a").mkdir(parents=True)
    (tmp_path / "i" / "val" / "a" / "start").symlink_to(tmp_path / "pool" / "0")
    images, left_out = FolderStorage(tmp_path / "i").images("val")
    assert sorted(Path(path).name for path in images["a"]) == [f"{number}.png" for number in range(10)]
    assert len(left_out) == 100 - 9


def test_what_is_no_regular_file_is_not_opened(tmp_path: Path) -> None:
    save(tmp_path, "val/a/1.png")
    os.mkfifo(tmp_path / "val" / "a" / "2.png")
    with pytest.warns(UserWarning, match=r"2\.png \(it is no regular file\)"):
        assert ImageFolderDataset(tmp_path, "val").paths == ["val/a/1.png"]


def test_a_zip_with_backslashes_is_read(tmp_path: Path) -> None:
    save(tmp_path, "val/a/1.png", "val/b/sub/2.png")
    with zipfile.ZipFile(tmp_path / "w.zip", "w") as archive:
        for name in ("val/a/1.png", "val/b/sub/2.png"):
            member = zipfile.ZipInfo("x")
            member.filename = name.replace("/", "\\")
            archive.writestr(member, (tmp_path / name).read_bytes())
    dataset, expected = quiet(tmp_path / "w.zip"), quiet(tmp_path)
    assert dataset.paths == expected.paths
    assert (dataset.uint8(1) == expected.uint8(1)).all()
    with zipfile.ZipFile(tmp_path / "w.zip", "a") as archive:
        archive.writestr("val/a/1.png", b"another")
    with pytest.raises(ValueError, match=r"w\.zip: 'val\\\\a\\\\1.png' and 'val/a/1.png' are both 'val/a/1.png'"):
        quiet(tmp_path / "w.zip")


def test_a_zip_that_does_not_say_utf8_is_read_as_it_where_it_is(tmp_path: Path) -> None:
    save(tmp_path, "1.png")
    with zipfile.ZipFile(tmp_path / "mac.zip", "w") as archive:
        archive.writestr("val/" + NFD.encode().decode("cp437") + "/1.png", (tmp_path / "1.png").read_bytes())
    raw = bytearray((tmp_path / "mac.zip").read_bytes())
    for start in (raw.index(b"PK\x03\x04") + 6, raw.index(b"PK\x01\x02") + 8):
        assert raw[start + 1] & 0x08
        raw[start + 1] &= ~0x08
    stored = ("val/" + NFD.encode().decode("cp437")).encode()
    raw = bytearray(bytes(raw).replace(stored, b"val/" + NFD.encode()))
    lost = len(stored) - len(b"val/" + NFD.encode())
    for start, far in ((raw.index(b"PK\x03\x04"), 26), (raw.index(b"PK\x01\x02"), 28)):
        raw[start + far] -= lost
    end = raw.index(b"PK\x05\x06")
    size, place = (int.from_bytes(raw[end + at : end + at + 4], "little") - lost for at in (12, 16))
    raw[end + 12 : end + 20] = size.to_bytes(4, "little") + place.to_bytes(4, "little")
    (tmp_path / "mac.zip").write_bytes(raw)
    dataset = quiet(tmp_path / "mac.zip", classes=[NFC])
    assert (dataset.classes, dataset.image_id(0)) == ((NFC,), f"val/{NFC}/1.png")
    assert dataset.uint8(0).shape == (8, 8, 3)


@pytest.mark.parametrize(("stored", "given"), [(NFC, NFD), (NFD, NFC), (NFD, NFD)])
def test_composed_and_decomposed_names_are_one_class(tmp_path: Path, zip_folder: Zip, stored: str, given: str) -> None:
    root = save(tmp_path / "i", f"val/{stored}/1.png", f"train/{stored}/1.png", "val/dog/1.png", "train/dog/1.png")
    boxes = tmp_path / "boxes.csv"
    boxes.write_text(f"file,xmin,ymin,xmax,ymax\nval/{given}/1.png,0,0,4,4\n", encoding="utf-8")
    for place in (root, zip_folder(root, tmp_path / "i.zip")):
        data = ImageFolderDataModule(place, classes=["dog", given], boxes=boxes)
        dataset = data.dataset("val")
        assert data.classes == dataset.classes == ("dog", NFC)
        assert {dataset.image_id(i): dataset.label(i) for i in range(2)} == {f"val/{NFC}/1.png": 1, "val/dog/1.png": 0}
        place_of = {dataset.image_id(i): i for i in range(2)}
        assert dataset[place_of[f"val/{NFC}/1.png"]]["mask"].sum() == 16
        assert ImageFolderDataModule(place).classes == (NFC, "dog")


def test_the_order_of_classes_does_not_depend_on_the_form_of_their_names(tmp_path: Path) -> None:
    for form in (NFC, NFD):
        save(tmp_path / form, f"val/{form}/1.png", "val/caff/1.png")
    assert quiet(tmp_path / NFC).classes == ("caff", NFC)
    with pytest.warns(UserWarning, match=r"decomposed Unicode; the classes are numbered by .* names \(caff"):
        dataset = ImageFolderDataset(tmp_path / NFD, "val")
    assert dataset.classes == ("caff", NFC)
    assert [dataset.image_id(i) for i in range(2)] == ["val/caff/1.png", f"val/{NFC}/1.png"]
    assert quiet(tmp_path / NFD, classes=[NFC, "caff"]).classes == (NFC, "caff")


def test_two_forms_of_one_name_are_refused(tmp_path: Path) -> None:
    save(tmp_path, f"val/{NFC}/1.png", f"val/{NFD}/1.png")
    if len(os.listdir(tmp_path / "val")) < 2:  # noqa: PTH208
        pytest.skip("this file system takes both forms for one")
    with pytest.raises(ValueError, match="differ in Unicode form"):
        quiet(tmp_path)
    with pytest.raises(ValueError, match="differ in Unicode form"):
        quiet(tmp_path, classes=[NFC, NFD])
    save(tmp_path / "files", f"val/a/{NFC}.png", f"val/a/{NFD}.png")
    with pytest.raises(ValueError, match=r"are the same name in two forms of Unicode.*rename or remove"):
        quiet(tmp_path / "files")


def lesions(root: Path, *files: str) -> HAM10000DataModule:
    ids = [f"ISIC_{number:07d}" for number in range(14)]
    rows = [f"{name},{CLASSES[place % 7].lower()}" for place, name in enumerate(ids)]
    (root.parent / "labels.csv").write_text("\n".join(["image_id,dx", *rows]) + "\n")
    save(root, *(file.format(name) for name in ids for file in files))
    return lesion_module(root)


def lesion_module(root: Path) -> HAM10000DataModule:
    labels = root.parent / "labels.csv"
    return HAM10000DataModule(root, labels, val_fraction=0.4, test_fraction=0.1, resize=None, crop=None)


@pytest.mark.parametrize(
    ("files", "what"),
    [
        (("part_1/{}.png", "thumbnails/{}.png"), "several files, such as ISIC_0000000: part_1/.*, thumbnails/ISIC"),
        (("{}.png", "{}.jpg"), r"several files, such as ISIC_0000000: ISIC_0000000\.jpg, ISIC_0000000\.png"),
        (("{}.png", "masks/{}.png", "masks/{}_segmentation.png"), "14 images have several masks"),
    ],
)  # fmt: skip
def test_two_files_of_one_lesion_image_are_refused(
    tmp_path: Path, zip_folder: Zip, files: tuple[str, ...], what: str
) -> None:
    data = lesions(tmp_path / "i", *files)
    with pytest.raises(ValueError, match=what):
        data.dataset("train")
    zipped = HAM10000DataModule(zip_folder(tmp_path / "i", tmp_path / "i.zip"), tmp_path / "labels.csv")
    with pytest.raises(ValueError, match=what):
        zipped.dataset("train")


def test_linked_folders_of_lesions_are_read(tmp_path: Path) -> None:
    data = lesions(tmp_path / "elsewhere", "{}.png")
    (tmp_path / "images").mkdir()
    (tmp_path / "images" / "part_1").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "images" / "loop").symlink_to(tmp_path / "images")
    linked = lesion_module(tmp_path / "images")
    with pytest.warns(UserWarning, match=r"1 file beside .* loop \(a link to a folder"):
        found = linked.dataset("train")
    expected = data.dataset("train")
    assert [found.image_id(i) for i in range(len(found))] == [expected.image_id(i) for i in range(len(expected))]
    assert (found.uint8(0) == expected.uint8(0)).all()
