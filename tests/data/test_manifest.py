from __future__ import annotations

import hashlib
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from toys import Oracle

from lightning_adv2.data import Manifest, ShapesDataset, build_manifest
from lightning_adv2.data.images import ImageSubset, Item
from lightning_adv2.models import weights_hash


class Half(Oracle):
    """Right on images whose mean brightness is above ``threshold``, else one class off; notes how many came at once."""

    def __init__(self, dataset: ShapesDataset, threshold: float = 0.5) -> None:
        super().__init__(dataset, threshold)
        self.sizes: list[int] = []

    def forward(self, images: Tensor) -> Tensor:
        self.sizes.append(len(images))
        assert not torch.is_grad_enabled()
        return super().forward(images)


@pytest.fixture(scope="module")
def dataset() -> ShapesDataset:
    return ShapesDataset(60, split="test")


def test_only_correct_images_and_the_counts_add_up(dataset: ShapesDataset) -> None:
    manifest = build_manifest(dataset, "shapes", "test", Half(dataset), num_images=10, seed=5, batch_size=8)
    order = torch.randperm(60, generator=torch.Generator().manual_seed(5)).tolist()
    bright = [i for i in order if dataset[i]["images"].mean() > 0.5]
    assert [entry.index for entry in manifest.entries] == bright[:10]
    assert manifest.considered == order.index(bright[9]) + 1
    assert manifest.already_wrong == manifest.considered - 10 > 0
    assert (manifest.dataset, manifest.split, manifest.seed, manifest.num_classes) == ("shapes", "test", 5, 7)
    for entry in manifest.entries:
        assert entry.sha256 == hashlib.sha256(dataset.uint8(entry.index).tobytes()).hexdigest()
        assert entry.image_id == dataset.image_id(entry.index)
        assert entry.label == dataset.label(entry.index)
        assert entry.target_class != entry.label
        assert 0 <= entry.target_class < 7
    assert len({entry.target_class for entry in manifest.entries}) > 2


def test_all_images(dataset: ShapesDataset) -> None:
    classifier = Half(dataset)
    manifest = build_manifest(dataset, "shapes", "test", classifier, num_images=None, seed=0, batch_size=32)
    assert manifest.considered == 60 == len(manifest.entries) + manifest.already_wrong
    assert classifier.sizes == [32, 28]


def test_the_scan_stops_early(dataset: ShapesDataset) -> None:
    classifier = Half(dataset, threshold=-1)
    build_manifest(dataset, "shapes", "test", classifier, num_images=8, seed=0, batch_size=8)
    assert classifier.sizes == [8]


def test_the_batch_size_does_not_matter(dataset: ShapesDataset) -> None:
    torch.manual_seed(0)
    network = nn.Sequential(nn.Conv2d(3, 8, 5, 4), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 7))
    network.double()

    def classifier(images: Tensor) -> Tensor:
        return network(images.double())

    made = [build_manifest(dataset, "shapes", "test", classifier, 5, seed=1, batch_size=size) for size in (1, 7, 32)]
    assert made[0] == made[1] == made[2]
    assert made[0] != build_manifest(dataset, "shapes", "test", classifier, 5, seed=2)


def test_target_classes_belong_to_the_images(dataset: ShapesDataset) -> None:
    whole = build_manifest(dataset, "shapes", "test", Half(dataset), None, seed=0)
    part = build_manifest(ImageSubset(dataset, range(30, 60)), "shapes", "test", Half(dataset), None, seed=0)
    targets = {entry.image_id: entry.target_class for entry in whole.entries}
    assert all(targets[entry.image_id] == entry.target_class for entry in part.entries)
    assert len(part.entries) > 5


def test_modes_come_back_module_by_module(dataset: ShapesDataset) -> None:
    class Recorder(Half):
        def forward(self, images: Tensor) -> Tensor:
            assert not any(module.training for module in self.modules())
            return super().forward(images)

    classifier = Recorder(dataset)
    classifier.train()
    classifier.first, classifier.frozen = nn.Dropout(), nn.BatchNorm2d(3).eval()
    before = [module.training for module in classifier.modules()]
    assert len(set(before)) == 2
    build_manifest(dataset, "shapes", "test", classifier, 1, seed=0)
    assert [module.training for module in classifier.modules()] == before
    with pytest.raises(RuntimeError, match="none of the 60 images"):
        build_manifest(dataset, "shapes", "test", Recorder(dataset, threshold=2), 1, seed=0)


@pytest.mark.parametrize("num_classes", [2, 6, 8, 1000])
def test_promise_18_a_classifier_of_other_classes_is_refused(dataset: ShapesDataset, num_classes: int) -> None:
    with pytest.raises(ValueError, match=f"logits have {num_classes} classes, the dataset 'shapes' has 7; give"):
        build_manifest(dataset, "shapes", "test", lambda images: torch.zeros(len(images), num_classes), 1, seed=0)


def test_errors_and_warnings(dataset: ShapesDataset) -> None:
    with pytest.raises(ValueError, match=r"max_skipped=1\.5"):
        build_manifest(dataset, "shapes", "test", Half(dataset), 1, seed=0, max_skipped=1.5)
    for name in ("num_images", "batch_size"):
        with pytest.raises(ValueError, match=f"{name}=0"):
            build_manifest(dataset, "shapes", "test", Half(dataset), **{"num_images": 1, "seed": 0, name: 0})
    correct = sum(bool(dataset[i]["images"].mean() > 0.5) for i in range(60))
    with pytest.warns(UserWarning, match=f"num_images=60, but only {correct} of the 60 images"):
        build_manifest(dataset, "shapes", "test", Half(dataset), 60, seed=0)


class Spoilt(ShapesDataset):
    """A user's own dataset, with NaN where it should not be."""

    def __getitem__(self, index: int) -> Item:
        item = super().__getitem__(index)
        if index % 5 == 0:
            item["images"] = item["images"].clone()
            item["images"][1, 2, 3] = torch.nan if index % 2 else torch.inf
        return item


def test_promise_13_what_cannot_be_judged_is_neither_right_nor_wrong(dataset: ShapesDataset) -> None:
    half = Half(dataset, threshold=0.5)

    def classifier(images: Tensor) -> Tensor:
        """Of class 0 where it cannot see, which argmax makes of NaN."""
        blind = ~images.flatten(1).isfinite().all(1)
        logits = torch.full((len(images), 7), torch.nan)
        logits[~blind] = half(images[~blind])
        return logits

    spoilt = Spoilt(60, split="test")
    manifest = build_manifest(spoilt, "shapes", "test", classifier, None, seed=0, batch_size=8)
    named = {spoilt.image_id(i): "image not finite" for i in range(0, 60, 5)}
    assert dict(manifest.invalid) == named
    assert manifest.considered == 60 == len(manifest.entries) + manifest.already_wrong + len(manifest.invalid)
    assert not {entry.image_id for entry in manifest.entries} & named.keys()
    assert manifest.passed_over()[spoilt.image_id(0)] == ("invalid", "image not finite")

    def numb(images: Tensor) -> Tensor:
        logits = half(images)
        logits[images.mean((1, 2, 3)) > 0.55] = -torch.inf
        return logits

    manifest = build_manifest(dataset, "shapes", "test", numb, None, seed=0)
    bright = {dataset.image_id(i) for i in range(60) if dataset[i]["images"].mean() > 0.55}
    assert dict(manifest.invalid) == dict.fromkeys(bright, "logits not finite")
    assert bright
    with pytest.raises(RuntimeError, match=r"\(0 wrong, 0 unreadable, 60 with NaN or infinity\), so there is nothing"):
        build_manifest(dataset, "shapes", "test", lambda images: half(images) * torch.nan, None, seed=0)


def test_promise_5_a_manifest_says_what_it_was_made_for(dataset: ShapesDataset) -> None:
    classifier = Half(dataset)
    classifier.bias = nn.Parameter(torch.zeros(2))
    manifest = build_manifest(dataset, "shapes", "test", classifier, 4, seed=0)
    made = {"split": "test", "seed": 0, "num_images": 4}
    assert manifest.differences(**made, classifier_sha256=weights_hash(classifier)) == []
    with torch.no_grad():
        classifier.bias += 1
    (found,) = manifest.differences(**made, classifier_sha256=weights_hash(classifier))
    assert found == f"classifier_sha256: {manifest.classifier_sha256} before, {weights_hash(classifier)} now"
    now = {"split": "val", "seed": 1, "num_images": None}
    assert manifest.differences(**now, classifier_sha256=manifest.classifier_sha256) == [
        "split: test before, val now",
        "seed: 0 before, 1 now",
        "num_images: 4 before, None now",
    ]
    assert build_manifest(dataset, "shapes", "test", lambda i: Half(dataset)(i), 4, seed=0).classifier_sha256 == ""


def test_json_and_file_give_the_manifest_back(dataset: ShapesDataset, tmp_path: Path) -> None:
    manifest = build_manifest(dataset, "shapes", "test", Half(dataset), 4, seed=0)
    manifest = replace(manifest, skipped=(("a/b.png", "the file is empty"),), invalid=(("c", "image not finite"),))
    assert manifest.wrong
    assert Manifest.from_json(manifest.to_json()) == manifest
    path = tmp_path / "deep" / "manifest.json"
    manifest.save(path)
    assert Manifest.load(path) == manifest
    assert sorted(file.name for file in path.parent.iterdir()) == ["manifest.copy.json", "manifest.json"]
    path.write_text('{"dataset": "shapes"}')
    assert Manifest.load(path) == manifest, "from the copy"
    path.with_name("manifest.copy.json").unlink()
    with pytest.raises(ValueError, match=r"manifest\.json: it is damaged .*this is no manifest"):
        Manifest.load(path)


def test_a_failed_write_leaves_the_old_file(
    dataset: ShapesDataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    old, new = (build_manifest(dataset, "shapes", "test", Half(dataset), 4, seed=seed) for seed in (0, 1))
    path = tmp_path / "manifest.json"
    old.save(path)

    def full_disk(handle: int) -> None:
        raise OSError("no space left")

    with monkeypatch.context() as patch:
        patch.setattr("os.fsync", full_disk)
        with pytest.raises(OSError, match="no space left"):
            new.save(path)
    assert Manifest.load(path) == old
    assert sorted(tmp_path.iterdir()) == [tmp_path / "manifest.copy.json", path]
    new.save(path)
    assert Manifest.load(path) == new
