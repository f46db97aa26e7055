"""Folders that hold bad files besides good ones, on every way that reads images."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import pytorch_lightning as pl
import torch
from data.conftest import draw
from data.files import REASONS, SIDE, bad_files, odd_files
from PIL import Image
from toys import Always

from lightning_adv2.data import (
    AttackDataModule,
    ImageFolderDataModule,
    ImageFolderDataset,
    UnreadableImageError,
    build_manifest,
)
from lightning_adv2.models import ResidualClassifier
from lightning_adv2.modules import ClassifierModule


@pytest.fixture(params=["folder", "zip"])
def root(request: pytest.FixtureRequest, tmp_path: Path, zip_folder: Callable[[Path, Path], Path]) -> Path:
    """Two classes; class a holds the bad files among good and odd ones, in both splits."""
    tree = tmp_path / "tree"
    for split in ("train", "val"):
        for name in ("a", "b"):
            (tree / split / name).mkdir(parents=True)
        for number in range(20):
            draw(number, SIDE, SIDE).save(tree / split / "b" / f"{number:02d}.png")
        for file, data in bad_files().items():
            (tree / split / "a" / file).write_bytes(data)
        for file, (data, _, _) in odd_files().items():
            (tree / split / "a" / file).write_bytes(data)
    return tree if request.param == "folder" else zip_folder(tree, tmp_path / "tree.zip")


quiet = pytest.mark.filterwarnings("ignore:.*(left out|cannot be read and|DecompressionBomb|could be a decompression)")


@quiet
@pytest.mark.parametrize("batch_size", [1, 5, 64])
def test_promise_12_the_manifest_leaves_bad_images_out_by_name(root: Path, batch_size: int) -> None:
    dataset = ImageFolderDataset(root, "val")
    options: Any = {"dataset_name": "mine", "split": "val", "num_images": None, "seed": 3, "batch_size": batch_size}
    with pytest.warns(UserWarning, match=r"6 of the 38 images of 'mine' \(val\) cannot be read.*empty\.png") as caught:
        manifest = build_manifest(dataset, classifier=Always(1, 2), max_skipped=6 / 38, **options)
    assert {Path(name).name: reason for name, reason in manifest.skipped}.keys() == REASONS.keys()
    for name, reason in manifest.skipped:
        assert REASONS[Path(name).name] in reason
        assert any(name in str(one.message) for one in caught)
    assert manifest.considered == 38 == len(manifest.entries) + manifest.already_wrong + len(manifest.skipped)
    assert sorted(Path(name).name for name in manifest.wrong) == sorted(odd_files())
    assert len(manifest.entries) == 20
    passed_over = manifest.passed_over()
    assert len(passed_over) == 18
    assert passed_over["val/a/empty.png"] == ("skipped", "the file is empty")
    with pytest.raises(RuntimeError, match=r"6 of 38 images cannot be read, more than max_skipped=0\.15 allows: val/a"):
        build_manifest(dataset, classifier=Always(1, 2), max_skipped=0.15, **options)
    with pytest.raises(RuntimeError, match=r"cannot be read, more than max_skipped=0 allows.*or raise max_skipped"):
        build_manifest(dataset, classifier=Always(1, 2), max_skipped=0, **options)


@quiet
def test_promise_12_only_images_looked_at_count(root: Path) -> None:
    """The scan stops at the last image that it needs; the batch it lay in does not matter."""
    dataset = ImageFolderDataset(root, "val")
    made = [
        build_manifest(dataset, "mine", "val", Always(1, 2), 9, seed=0, batch_size=size, max_skipped=1)
        for size in (1, 7, 64)
    ]
    assert made[0] == made[1] == made[2]
    order = torch.randperm(38, generator=torch.Generator().manual_seed(0)).tolist()
    seen = order[: made[0].considered]
    assert [dataset.image_id(i) for i in seen if Path(dataset.image_id(i)).name in REASONS] == [
        n for n, _ in made[0].skipped
    ]
    assert 0 < len(made[0].skipped) < 6
    assert dataset.label(seen[-1]) == 1


@quiet
@pytest.mark.parametrize("num_workers", [0, 2])
def test_promise_12_validation_leaves_bad_images_out_by_name(root: Path, num_workers: int) -> None:
    data = ImageFolderDataModule(root, batch_size=4, num_workers=num_workers, max_skipped=0.2)
    batches = list(data.val_dataloader())
    names = [Path(name).name for batch in batches for name in batch["image_id"]]
    assert len(names) == len(set(names)) == 32
    assert set(names) == {f"{i:02d}.png" for i in range(20)} | odd_files().keys()
    assert {Path(name).name for name in data.skipped("val")} == REASONS.keys()
    for batch in batches:
        for image, name in zip(batch["images"], batch["image_id"], strict=True):
            if (file := Path(name).name) in odd_files():
                _, expected, tolerance = odd_files()[file]
                assert np.abs(image.numpy().transpose(1, 2, 0) * 255.0 - expected).max() <= tolerance + 1e-4
    strict = ImageFolderDataModule(root, batch_size=4, num_workers=num_workers)
    with pytest.raises(RuntimeError, match=r"more than max_skipped=0\.01 allows"):
        list(strict.val_dataloader())


@quiet
@pytest.mark.parametrize("cache", [False, True])
def test_promise_12_training_goes_on_without_bad_images(root: Path, tmp_path: Path, cache: bool) -> None:
    seen: list[str] = []

    class Watch(pl.Callback):
        def on_train_batch_end(self, trainer: Any, pl_module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
            assert len(batch["image_id"]) == 8
            seen.extend(batch["image_id"])

    data = ImageFolderDataModule(root, batch_size=8, max_skipped=0.2, cache=cache)
    module = ClassifierModule(ResidualClassifier(num_classes=2, widths=(4, 4, 4)))
    trainer = pl.Trainer(
        default_root_dir=tmp_path, accelerator="cpu", max_epochs=3, logger=False, enable_checkpointing=False,
        enable_progress_bar=False, enable_model_summary=False, callbacks=[Watch()], limit_val_batches=0,
    )  # fmt: skip
    trainer.fit(module, data)
    assert all(bool(torch.isfinite(parameter).all()) for parameter in module.parameters())
    names = {Path(name).name for name in seen}
    assert not names & REASONS.keys()
    assert len(seen) == 3 * (38 // 8) * 8
    assert names & odd_files().keys()
    assert {Path(name).name for name in data.skipped("train")} <= REASONS.keys()
    assert len(data.skipped("train")) >= 5, "three epochs of 32 out of 38"


def test_promise_12_the_first_image_is_bad(tmp_path: Path) -> None:
    """It gives no size, and must not take the others with it."""
    folder = tmp_path / "val" / "a"
    folder.mkdir(parents=True)
    (folder / "0.png").write_bytes(b"")
    with pytest.raises(RuntimeError, match=r"none of its 1 images in .* can be read"):
        _ = ImageFolderDataset(tmp_path, "val").image_size
    draw(1, 9, 11).save(folder / "1.png")
    for cache in (False, True):
        dataset = ImageFolderDataset(tmp_path, "val", cache=cache)
        assert dataset.image_size == (9, 11)
        assert dataset.uint8(1).shape == (9, 11, 3)
        with pytest.raises(UnreadableImageError, match=r"val/a/0\.png \(the file is empty\)"):
            dataset.uint8(0)


def test_promise_12_a_file_that_went_after_the_listing(tmp_path: Path) -> None:
    folder = tmp_path / "val" / "a"
    folder.mkdir(parents=True)
    draw(1, 9, 9).save(folder / "0.png")
    dataset = ImageFolderDataset(tmp_path, "val")
    (folder / "0.png").unlink()
    with pytest.raises(UnreadableImageError, match=r"val/a/0\.png \(No such file or directory\)"):
        dataset.uint8(0)


@quiet
@pytest.mark.parametrize("num_workers", [0, 2])
def test_promise_5_an_image_that_changed_is_refused(tmp_path: Path, num_workers: int) -> None:
    for name in ("a", "b"):
        (tmp_path / "val" / name).mkdir(parents=True)
        for number in range(6):
            draw(number + 10 * (name == "b"), SIDE, SIDE).save(tmp_path / "val" / name / f"{number}.png")

    def evaluation(**kwargs: Any) -> AttackDataModule:
        source = ImageFolderDataModule(tmp_path, **kwargs)
        return AttackDataModule(source, None, batch_size=2, split="val", num_workers=num_workers)

    data = evaluation()
    manifest = data.manifest_for(Always(1, 2))
    assert len(manifest.entries) == 6
    assert len(list(data.test_dataloader())) == 3
    victim = tmp_path / manifest.entries[3].image_id
    good = victim.read_bytes()

    def refused(message: str, **kwargs: Any) -> None:
        again = evaluation(**kwargs)
        again.manifest = manifest
        with pytest.raises(ValueError, match=message):
            list(again.test_dataloader())

    changed = np.array(Image.open(victim))
    changed[5, 6, 1] ^= 1  # one level of one pixel
    Image.fromarray(changed).save(victim)
    refused(rf"{manifest.entries[3].image_id} is not as the manifest has it: its pixels have changed\. Put the images")
    victim.write_bytes(good[: len(good) // 2])
    refused(rf"{manifest.entries[3].image_id} is not as .*: it cannot be read \(.*truncated")
    victim.write_bytes(good)
    refused("its pixels have changed", resize=SIDE, crop=SIDE - 2)
    refused(r"its label is 0, not 1", classes=["b", "a"])
    draw(99, SIDE, SIDE).save(tmp_path / "val" / "a" / "5b.png")
    refused(r"is in its place")
    (tmp_path / "val" / "a" / "5b.png").unlink()
    for extra in (0, 1, 2):
        (tmp_path / "val" / "a" / f"{extra}.png").unlink()
    refused(r"is in its place|the dataset has only 9 images")
