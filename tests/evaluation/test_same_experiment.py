"""What must not look like another experiment, and what becomes of images that cannot be read."""

from __future__ import annotations

import csv
import json
import shutil
from pathlib import Path

import pytest
from lab import attack_data, idls, shapes, short_attacks, trainer, victim
from PIL import Image

from lightning_adv2.audit.verify import verify
from lightning_adv2.data import AttackDataModule, ImageFolderDataModule, ShapesDataModule
from lightning_adv2.evaluation import AttackEvaluation
from lightning_adv2.modules import ClassifierModule, TrainingCheckpoint
from lightning_adv2.runtime.experiment import DifferentExperimentError

NUM_IMAGES = 21


def write_images(root: Path) -> list[Path]:
    """Drawn shapes as files, in the order of the dataset; named so that the classes are in the victim's order."""
    dataset = shapes().dataset("test")
    files = []
    for index in range(NUM_IMAGES):
        place = dataset.label(index)
        file = root / "val" / f"{place}-{ShapesDataModule.classes[place]}" / f"{index:02d}.png"
        file.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(dataset.uint8(index)).save(file)
        files.append(file)
    return sorted(files)


def test_promise_5_validate_and_then_test_in_double_precision(tmp_path: Path) -> None:
    """Lightning converts the weights in place, after the images were chosen; the second run finds them so."""
    evaluation = AttackEvaluation(short_attacks())
    run = trainer(tmp_path, evaluation, precision="64-true")
    module, data = idls(), attack_data(num_images=5)
    run.validate(module, data, verbose=False)
    before = (tmp_path / "results.json").read_bytes()
    run.test(module, data, verbose=False)
    assert (tmp_path / "results.json").read_bytes() == before


def test_promise_5_a_training_does_not_go_on_when_one_pixel_has_changed(tmp_path: Path) -> None:
    """In a file of the same name and length."""
    files = write_images(tmp_path / "images")
    shutil.copytree(tmp_path / "images" / "val", tmp_path / "images" / "train")
    picture = next((tmp_path / "images" / "train").rglob(files[7].name)).with_suffix(".bmp")
    Image.open(picture.with_suffix(".png")).save(picture)
    picture.with_suffix(".png").unlink()

    def fit(epochs: int) -> None:
        data = ImageFolderDataModule(tmp_path / "images", batch_size=8)
        run = trainer(tmp_path / "run", TrainingCheckpoint(), max_epochs=epochs, enable_checkpointing=True)
        ckpt = tmp_path / "run" / "checkpoints" / "last.ckpt"
        run.fit(ClassifierModule(victim()), data, ckpt_path=ckpt if ckpt.exists() else None)

    fit(1)
    fit(2)
    content = bytearray(picture.read_bytes())
    content[-1] ^= 1
    picture.write_bytes(content)
    with pytest.raises(DifferentExperimentError, match=r"data\.train images\.content: \w+ before, \w+ now"):
        fit(3)


def test_promise_5_data_may_lie_elsewhere_the_next_time(tmp_path: Path) -> None:
    """The folder's name is the dataset's, where it was given none."""

    def run(root: Path) -> bytes:
        data = AttackDataModule(ImageFolderDataModule(root), num_images=4, batch_size=2)
        trainer(tmp_path / "run", AttackEvaluation(short_attacks())).test(idls(), data, verbose=False)
        return (tmp_path / "run" / "results.json").read_bytes()

    write_images(tmp_path / "job-17")
    before = run(tmp_path / "job-17")
    (tmp_path / "job-17").rename(tmp_path / "job-18")
    assert run(tmp_path / "job-18") == before


@pytest.mark.parametrize("num_workers", [0, 2])
@pytest.mark.filterwarnings("ignore:left out")
def test_promise_12_unreadable_images_of_a_plain_data_module_are_counted_and_named(
    tmp_path: Path, num_workers: int
) -> None:
    files = write_images(tmp_path / "images")
    bad = [files[1], files[2], files[8]]
    for file in bad:
        file.write_bytes(b"no image")
    data = ImageFolderDataModule(tmp_path / "images", batch_size=5, num_workers=num_workers, max_skipped=0.2)
    folder = tmp_path / "run"
    for _ in range(2):  # the second one from the records
        trainer(folder, AttackEvaluation(short_attacks())).test(idls(), data, verbose=False)
        denominators = json.loads((folder / "results.json").read_text())["denominators"]
        assert denominators["considered"] == NUM_IMAGES
        assert denominators["skipped"] == 3
        assert denominators["selected"] + denominators["already_wrong"] + denominators["invalid"] == NUM_IMAGES - 3
        with (folder / "status.csv").open(newline="") as stream:
            rows = {row["image_id"]: row for row in csv.DictReader(stream)}
        assert len(rows) == NUM_IMAGES
        names = {str(file.relative_to(tmp_path / "images")) for file in bad}
        assert {name for name, row in rows.items() if row["status"] == "skipped"} == names
        assert all(rows[name]["reason"] for name in names)
        assert verify(folder)[0] == []
    text = (folder / "status.csv").read_text()
    (folder / "status.csv").write_text(text.replace("skipped", "invalid", 1))
    assert len(verify(folder, sums=False)[0]) == 1, "the check counts them too"
