from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import spawn
import torch
from data.collect import Collect, attack_data, two_always
from lab import trainer
from torch.utils.data import DistributedSampler
from toys import Always

from lightning_adv2.data import (
    AttackDataModule,
    BatchShard,
    Manifest,
    ManifestEntry,
)
from lightning_adv2.data.manifest import content_hash


@pytest.mark.parametrize("num_workers", [0, 2])
def test_in_a_trainer(tmp_path: Path, num_workers: int) -> None:
    module, data = Collect(), attack_data(num_workers=num_workers)
    trainer(tmp_path).test(module, data, verbose=False)
    manifest = Manifest.load(tmp_path / "manifest.json")
    assert data.manifest == manifest
    assert len(manifest.entries) == 10
    assert [len(batch["label"]) for batch in module.batches] == [4, 4, 2]
    assert [batch["batch_index"] for batch in module.batches] == [0, 1, 2]
    image_id = [name for batch in module.batches for name in batch["image_id"]]
    assert image_id == [entry.image_id for entry in manifest.entries]
    for key in ("label", "target_class"):
        values = torch.cat([batch[key] for batch in module.batches])  # type: ignore[literal-required]
        assert values.tolist() == [getattr(entry, key) for entry in manifest.entries]
        assert values.dtype == torch.int64
    images = torch.cat([batch["images"] for batch in module.batches])
    for image, entry in zip(images, manifest.entries, strict=True):
        assert torch.equal(image, data.source.dataset("test")[entry.index]["images"])
    assert module.batches[0]["mask"].shape == (4, 1, 64, 64)


def test_validate_and_predict(tmp_path: Path) -> None:
    module, data = Collect(), attack_data(split="val", num_images=None)
    trainer(tmp_path).validate(module, data, verbose=False)
    assert [batch["batch_index"] for batch in module.batches] == [0]
    predicted = trainer(tmp_path).predict(module, data)
    assert data.manifest is not None
    assert predicted == [[entry.image_id for entry in data.manifest.entries]]


def test_without_a_trainer() -> None:
    data = attack_data()
    with pytest.raises(RuntimeError, match=r"no manifest yet.*manifest_for"):
        data.test_dataloader()
    with pytest.raises(RuntimeError, match="without one call manifest_for"):
        data.setup("test")
    manifest = data.manifest_for(two_always())
    assert data.manifest is manifest
    assert len(list(data.test_dataloader())) == len(data.test_dataloader()) == 3
    assert replace(manifest, classifier_sha256="") == attack_data().manifest_for(lambda images: two_always()(images))


def test_the_classifier_returns_to_its_device() -> None:
    class Traveller(Always):
        def __init__(self) -> None:
            super().__init__(2, 7)
            self.stops: list[torch.device] = []

        def to(self, device: torch.device | str) -> Traveller:  # type: ignore[override]
            self.stops.append(torch.device(device))
            return self

    classifier = Traveller()
    attack_data().manifest_for(classifier, device="meta")
    assert classifier.stops == [torch.device("meta"), torch.device("cpu")]


def test_a_module_needs_a_classifier(tmp_path: Path) -> None:
    module = Collect()
    del module.classifier
    with pytest.raises(TypeError, match="Collect has no attribute classifier"):
        trainer(tmp_path).test(module, attack_data(), verbose=False)
    for name in ("num_images", "batch_size"):
        with pytest.raises(ValueError, match=f"{name}=0"):
            attack_data(**{name: 0})


def shares(folder: Path) -> list[list[tuple[int, list[str]]]]:
    """The batches that this one of two processes gets, of two images and of ten."""
    found = []
    for num_images in (2, 10):
        module = Collect()
        loop = trainer(folder / ("few" if num_images == 2 else "all"), devices=2, strategy="ddp")
        loop.test(module, attack_data(num_images=num_images), verbose=False)
        found.append([(batch["batch_index"], batch["image_id"]) for batch in module.batches])
    return found


def test_two_processes_share_the_batches_out(tmp_path: Path) -> None:
    few, ranks = zip(*spawn.run(shares, tmp_path, folder=tmp_path, processes=2), strict=True)
    alone = attack_data().manifest_for(two_always())
    assert Manifest.load(tmp_path / "all" / "manifest.json") == alone
    assert [[number for number, _ in own] for own in ranks] == [[0, 2], [1, -1]]
    assert ranks[1][1] == (-1, [])
    names = dict(ranks[0] + ranks[1])
    assert names[0] + names[1] + names[2] == [entry.image_id for entry in alone.entries]
    assert [number for number, _ in few[0]] == [0]
    assert few[1] == [(-1, [])]


@pytest.mark.parametrize("num_batches", [1, 2, 13, 128])
@pytest.mark.parametrize("world_size", [1, 2, 3, 5])
def test_shards_hold_each_batch_once(num_batches: int, world_size: int) -> None:
    shards = [BatchShard(num_batches, world_size, rank) for rank in range(world_size)]
    assert all(isinstance(shard, DistributedSampler) for shard in shards)
    numbers = [list(shard) for shard in shards]
    assert [len(shard) for shard in shards] == [len(own) for own in numbers]
    assert len({len(own) for own in numbers}) == 1, "a rank with fewer batches would leave the others waiting"
    real = sorted(number for own in numbers for number in own if number < num_batches)
    assert real == list(range(num_batches))
    for rank, own in enumerate(numbers):
        real = list(range(rank, num_batches, world_size))
        assert own == real + [num_batches] * (-(-num_batches // world_size) - len(real))
    with pytest.raises(ValueError, match="rank"):
        BatchShard(num_batches, world_size, world_size)


def with_manifest(pairs: list[tuple[int, int]], seed: int = 0, **kwargs: Any) -> AttackDataModule:
    """Data whose manifest holds a test image for each (label, target class); an image's index is its place."""
    data = attack_data(num_images=len(pairs), seed=seed, **kwargs)
    dataset = data.source.dataset("test")
    of_class = {label: [i for i in range(len(dataset)) if dataset.label(i) == label] for label, _ in pairs}
    indices = [of_class[label].pop(0) for label, _ in pairs]
    entries = tuple(
        ManifestEntry(index, dataset.image_id(index), content_hash(dataset[index]["images"]), label, target_class)
        for index, (label, target_class) in zip(indices, pairs, strict=True)
    )
    data.manifest = Manifest("shapes", "test", seed, 7, entries, len(entries))
    return data


PAIRS = [(label, (label + shift) % 7) for shift in (1, 3) for label in range(7)]


def partners(data: AttackDataModule) -> list[int]:
    """Each image's partner as a place in the manifest, found by its pixels."""
    assert data.manifest is not None
    dataset = data.source.dataset("test")
    pool = [dataset[entry.index] for entry in data.manifest.entries]
    found = []
    for batch in data.test_dataloader():
        for image, label in zip(batch["other_images"], batch["other_label"], strict=True):
            (place,) = (k for k, item in enumerate(pool) if torch.equal(item["images"], image))
            assert pool[place]["label"] == label
            found.append(place)
    return found


def test_a_partner_is_another_image_not_of_the_target_class() -> None:
    chosen = set()
    for seed in range(12):
        found = partners(with_manifest(PAIRS, seed=seed, partners=True))
        assert len(found) == len(PAIRS)
        for place, partner in enumerate(found):
            assert partner != place
            assert PAIRS[partner][0] != PAIRS[place][1]
        chosen.add(tuple(found))
        if seed == 0:
            assert len(set(found)) > 4
    assert len(chosen) == 12
    # Twelve uniform draws from the first image's eleven possible partners: 7.5 different ones on average.
    assert len({found[0] for found in chosen}) >= 5


def test_a_partner_depends_on_neither_batch_size_nor_process() -> None:
    found = partners(with_manifest(PAIRS, partners=True))
    for kwargs in ({"batch_size": 1}, {"batch_size": 99}, {"batch_size": 3, "num_workers": 2}):
        assert partners(with_manifest(PAIRS, partners=True, **kwargs)) == found
    batches = with_manifest(PAIRS, partners=True).test_dataloader().dataset
    last = batches[3]
    before = torch.get_rng_state()
    assert torch.equal(batches[3]["other_images"], last["other_images"])
    assert torch.equal(torch.get_rng_state(), before)
    assert "other_images" not in with_manifest(PAIRS).test_dataloader().dataset[0]


@pytest.mark.parametrize("pairs", [[(0, 1), (1, 2), (1, 0)], [(0, 1)], [(0, 1), (1, 0)]])
def test_an_image_without_a_possible_partner_is_named_at_once(pairs: list[tuple[int, int]]) -> None:
    data = with_manifest(pairs, partners=True)
    assert data.manifest is not None
    with pytest.raises(ValueError, match=rf"'{data.manifest.entries[0].image_id}' has no partner.*num_images"):
        data.test_dataloader()
    assert len(partners(with_manifest([*pairs, (3, 4), (3, 4)], partners=True))) == len(pairs) + 2


def test_partners_in_a_trainer(tmp_path: Path) -> None:
    module = Collect()
    trainer(tmp_path).test(module, attack_data(partners=True), verbose=False)
    assert [batch["other_images"].shape for batch in module.batches] == [(n, 3, 64, 64) for n in (4, 4, 2)]
    assert all(torch.equal(batch["other_label"], torch.full_like(batch["label"], 2)) for batch in module.batches)


@pytest.mark.parametrize("with_partners", [False, True])
def test_the_empty_batch_has_the_right_shapes(with_partners: bool) -> None:
    data = attack_data(num_images=2, partners=with_partners)
    data.manifest_for(two_always())
    batches = data.test_dataloader().dataset
    assert len(batches) == 2
    empty = batches[BatchShard(1, num_replicas=3, rank=2)._own[0]]
    full = batches[0]
    assert empty.keys() == full.keys()
    assert empty["batch_index"] == -1
    assert empty["image_id"] == []
    other = ("other_images", "other_label") if with_partners else ()
    for key in ("images", "mask", "label", "target_class", *other):
        assert empty[key].shape == (0, *full[key].shape[1:])
        assert empty[key].dtype == full[key].dtype
