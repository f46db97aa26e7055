from __future__ import annotations

import pickle
import warnings
from pathlib import Path
from typing import Any

import pytest
import pytorch_lightning as pl
import spawn
import torch
from lab import shapes, trainer, untrained_rts, victim

from lightning_adv2.data import ImageDataModule, ImageDataset, ShapesDataset
from lightning_adv2.data.data_module import Split
from lightning_adv2.data.images import Item, UnreadableImageError
from lightning_adv2.data.loaders import BatchLoader
from lightning_adv2.data.sampling import EpochOrder
from lightning_adv2.modules import ClassifierModule, RTSModule


class Holes(ShapesDataset):
    """Drawn shapes, some of which cannot be read."""

    def __init__(self, num_images: int, bad: tuple[int, ...], split: str) -> None:
        super().__init__(num_images, split=split, image_size=32)
        self.bad = bad

    def __getitem__(self, index: int) -> Item:
        if index in self.bad:
            raise UnreadableImageError(self.image_id(index), "cut off")
        return super().__getitem__(index)


class HolesDataModule(ImageDataModule):
    name = "holes"

    def __init__(self, num_images: int, bad: tuple[int, ...] = (), **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.num_images, self.bad = num_images, bad

    def build(self, split: Split) -> ImageDataset:
        return Holes(self.num_images, self.bad, split)


@pytest.fixture(autouse=True)
def _seed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PL_GLOBAL_SEED", "5")


def names(loader: BatchLoader, epoch: int = 0) -> list[list[str]]:
    if hasattr(loader.sampler, "set_epoch"):
        loader.sampler.set_epoch(epoch)
    return [batch["image_id"] for batch in loader]


@pytest.mark.parametrize("num_workers", [0, 2])
def test_promise_9_order_is_a_function_of_seed_and_epoch(num_workers: int, monkeypatch: pytest.MonkeyPatch) -> None:
    loader = HolesDataModule(23, batch_size=4, num_workers=num_workers).train_dataloader()
    epochs = [names(loader, epoch) for epoch in (0, 1, 2)]
    assert len({str(epoch) for epoch in epochs}) == 3
    for epoch in epochs:
        assert [len(batch) for batch in epoch] == [4] * 5
        assert len({name for batch in epoch for name in batch}) == 20
    torch.manual_seed(99)
    again = HolesDataModule(23, batch_size=4).train_dataloader()
    assert [names(again, epoch) for epoch in (2, 0)] == [epochs[2], epochs[0]]
    monkeypatch.setenv("PL_GLOBAL_SEED", "6")
    assert names(HolesDataModule(23, batch_size=4).train_dataloader()) != epochs[0]


@pytest.mark.parametrize("num_workers", [0, 2])
@pytest.mark.parametrize("handed_out", [1, 3, 5])
def test_promise_9_a_loader_goes_on_behind_what_it_handed_out(num_workers: int, handed_out: int) -> None:
    def loader() -> BatchLoader:
        return HolesDataModule(23, batch_size=4, num_workers=num_workers).train_dataloader()

    whole, first = names(loader(), epoch=3), loader()
    first.sampler.set_epoch(3)  # type: ignore[attr-defined]
    batches = iter(first)
    begun = [next(batches)["image_id"] for _ in range(handed_out)]
    state = pickle.loads(pickle.dumps(first.state_dict()))
    second = loader()
    second.load_state_dict(state)
    assert second.state_dict() == state, "a save before the first batch would forget the place"
    assert begun + names(second, epoch=3) == whole
    assert names(second, epoch=3) == whole, "only the epoch that was begun starts late"
    third = loader()
    third.load_state_dict(state)
    assert names(third, epoch=4) == names(loader(), epoch=4)
    first.sampler.set_epoch(4)  # type: ignore[attr-defined]
    assert names(first, epoch=4) == names(loader(), epoch=4), "what workers had fetched ahead came up again"


def test_nothing_is_drawn_from_the_global_generator() -> None:
    data = HolesDataModule(9, batch_size=4, num_workers=1)
    loaders = [data.train_dataloader(), data.val_dataloader()]
    before = torch.get_rng_state()
    for loader in loaders:
        list(loader)
    assert torch.equal(torch.get_rng_state(), before)


def test_a_seed_of_its_own_is_kept_in_the_checkpoint(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("PL_GLOBAL_SEED")
    first = HolesDataModule(23, batch_size=4)
    assert first.state_dict() == {}
    order = names(first.train_dataloader())
    other, resumed = HolesDataModule(23, batch_size=4), HolesDataModule(23, batch_size=4)
    resumed.load_state_dict(first.state_dict())
    assert names(resumed.train_dataloader()) == order
    assert names(other.train_dataloader()) != order


def test_another_number_of_images_per_step_is_said() -> None:
    state = {"epoch": 0, "batches": 1, "images_per_step": 8}
    with pytest.warns(UserWarning, match=r"8 images per step.*this run takes 4"):
        HolesDataModule(23, batch_size=4).train_dataloader().load_state_dict(state)


@pytest.mark.parametrize("world_size", [1, 2, 3])
@pytest.mark.parametrize("num_images", [7, 12, 23])
def test_promise_2_steps_are_the_same_for_any_number_of_processes(num_images: int, world_size: int) -> None:
    """Six images per step, whoever loads them."""
    shards = [EpochOrder(num_images, 6 // world_size, 1, world_size, rank) for rank in range(world_size)]
    alone = EpochOrder(num_images, 6, 1)
    for order in (*shards, alone):
        order.set_epoch(2)
    steps = [sorted(index for part in parts for index in part) for parts in zip(*shards, strict=True)]
    assert steps == [sorted(step) for step in alone]
    assert len(alone) == num_images // 6
    assert {len(order) for order in shards} == {len(alone)}


def test_fewer_images_than_a_batch_or_than_processes() -> None:
    parts = [list(EpochOrder(5, 4, 1, 2, rank)) for rank in range(2)]
    assert [len(part) for part in parts] == [1, 1]
    assert [len(part[0]) for part in parts] == [2, 2]
    with pytest.raises(ValueError, match="1 images for 2 processes"):
        EpochOrder(1, 4, 1, 2, 0)


@pytest.mark.parametrize("num_workers", [0, 2])
def test_promise_12_unreadable_images_are_left_out_named_and_counted(num_workers: int) -> None:
    data = HolesDataModule(12, bad=(1, 4, 5, 6, 7), batch_size=4, num_workers=num_workers, max_skipped=0.5)
    expected = [data.dataset("val").image_id(index) for index in (1, 4, 5, 6, 7)]
    with pytest.warns(UserWarning, match="left out: cannot read the image .* \\(cut off\\)") as said:
        batches = list(data.val_dataloader())
    assert [sum(name in str(one.message) for one in said) for name in expected] == [1] * 5
    assert [len(batch["label"]) for batch in batches] == [3, 0, 4]
    assert [batch["batch_index"] for batch in batches] == [0, 1, 2]  # type: ignore[typeddict-item]
    assert batches[1]["images"].shape == (0, 3, 32, 32)
    assert batches[1]["mask"].shape == (0, 1, 32, 32)
    assert batches[1]["image_id"] == []
    assert [list(batch["skipped"].items()) for batch in batches] == [
        [(name, "cut off") for name in group] for group in (expected[:1], expected[1:], [])
    ]
    assert dict(data.skipped("val")) == dict.fromkeys(expected, "cut off")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        list(data.val_dataloader())  # each is named once


def test_promise_12_training_batches_stay_whole() -> None:
    data = HolesDataModule(12, bad=(0, 3, 4), batch_size=4, max_skipped=0.5)
    with pytest.warns(UserWarning, match="left out"):
        batches = list(data.train_dataloader())
    assert [len(batch["label"]) for batch in batches] == [4, 4, 4]
    bad = {data.dataset("train").image_id(index) for index in (0, 3, 4)}
    assert bad.isdisjoint(name for batch in batches for name in batch["image_id"])
    assert set(data.skipped("train")) == bad


@pytest.mark.filterwarnings("ignore:left out")
@pytest.mark.parametrize(("share", "fine"), [(0.25, True), (0.24, False), (0.0, False)])
def test_promise_12_over_the_limit_the_run_fails(share: float, fine: bool) -> None:
    data = HolesDataModule(12, bad=(2, 5, 9), batch_size=4, max_skipped=share)
    if fine:
        assert sum(len(batch["label"]) for batch in data.val_dataloader()) == 9
        return
    with pytest.raises(RuntimeError, match=rf"[123] of the 12 images of the val split.*max_skipped={share:g}.*00002"):
        list(data.val_dataloader())


@pytest.mark.filterwarnings("ignore:left out")
def test_promise_12_nothing_can_be_read() -> None:
    data = HolesDataModule(3, bad=(0, 1, 2), batch_size=2, max_skipped=1)
    for loader in (data.train_dataloader(), data.val_dataloader()):
        with pytest.raises(RuntimeError, match="none of the 3 images can be read"):
            list(loader)
    with pytest.raises(ValueError, match=r"max_skipped=1\.5"):
        HolesDataModule(3, max_skipped=1.5)


def test_the_error_survives_pickling() -> None:
    error = pickle.loads(pickle.dumps(UnreadableImageError("val/cat/3.jpg", "empty")))
    assert (error.image_id, error.reason) == ("val/cat/3.jpg", "empty")


def validate(folder: Path, devices: int) -> dict[str, object]:
    """What validations log on so many processes, and the steps of a fit with a validation."""
    pl.seed_everything(3, verbose=False)
    options = {"devices": devices, "strategy": "ddp" if devices > 1 else "auto"}
    found: dict[str, object] = {}
    for batch_size in (3, 20):
        data = shapes(num_val=13, batch_size=batch_size)
        modules = {"classifier": ClassifierModule(victim()), "rts": RTSModule(victim(), untrained_rts())}
        for name, module in modules.items():
            (found[f"{batch_size} {name}"],) = trainer(folder, **options).validate(module, data, verbose=False)
    # Five batches of validation, which two or three processes cannot share evenly: with uneven counts this would hang.
    loop = trainer(folder, max_epochs=1, **options)
    loop.fit(ClassifierModule(victim(), learning_rate=1e-12), shapes(num_train=12 * devices, num_val=13, batch_size=3))
    return found | {"fit": loop.global_step}


@pytest.mark.slow
def test_promise_2_validation_is_equal_on_one_two_and_three_processes(tmp_path: Path) -> None:
    """Thirteen images in batches of three or twenty; 1 to 3 processes, of which some get no batch at all."""
    found = {
        devices: spawn.run(validate, tmp_path, devices, folder=tmp_path, processes=devices)[0] for devices in (1, 2, 3)
    }
    assert found[2] == found[1]
    assert found[3] == found[1]
    assert set(found[1]) == {"3 classifier", "20 classifier", "3 rts", "20 rts", "fit"}
    alone = found[1]["3 classifier"]
    assert alone == {key: pytest.approx(value, rel=1e-6) for key, value in found[1]["20 classifier"].items()}
    assert set(alone) == {"val/loss", "val/accuracy", "val/balanced_accuracy"}
