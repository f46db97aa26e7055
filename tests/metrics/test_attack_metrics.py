from __future__ import annotations

import math
import pickle
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import spawn
import torch
import torch.distributed as dist
from cases import lattice_images, small_classifier
from torch import Tensor
from torchmetrics.classification import BinaryJaccardIndex

from lightning_adv2.functional.agreement import map_iou, map_l1, map_l2
from lightning_adv2.metrics import (
    METRICS,
    AttackSuccessRate,
    MapComparison,
    MapQuality,
    MisclassificationConfidence,
    PerturbationNorm,
    PlausibleShare,
    attack_metrics,
)
from lightning_adv2.metrics.attack import Agreement

FIELDS = (
    "adv_predicted", "target_class", "confidence", "adv_map", "target_map", "benign_map", "adv_images", "images",
    "size", "adv_map_true_class", "adv_map_target_class", "benign_map_target_class",
)  # fmt: skip
COUNT = 11


def make_fields() -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(0)
    images = lattice_images(COUNT, seed=1)
    adv_images = (images + torch.randint(-7, 8, images.shape, generator=generator) / 255).clamp(0, 1)
    target_map = torch.rand(COUNT, 1, 5, 7, generator=generator)
    moved = (target_map + 0.3 * torch.randn(target_map.shape, generator=generator)).clamp(0, 1)
    three = torch.rand(3, *target_map.shape, generator=torch.Generator().manual_seed(4))
    return {
        "adv_predicted": torch.randint(4, (COUNT,), generator=generator),
        "target_class": torch.randint(4, (COUNT,), generator=generator),
        "confidence": torch.rand(COUNT, generator=generator),
        "adv_map": moved,
        "target_map": target_map,
        "benign_map": (target_map + 0.2 * torch.randn(target_map.shape, generator=generator)).clamp(0, 1),
        "size": 3 * torch.rand(COUNT, generator=generator),
        "adv_images": adv_images,
        "images": images,
        "adv_map_true_class": three[0],
        "adv_map_target_class": three[1],
        "benign_map_target_class": three[2],
    }


def take(fields: dict[str, Tensor], index: Sequence[int]) -> dict[str, Tensor]:
    return {name: value[list(index)] for name, value in fields.items()}


def fill_quality(parts: Iterable[Iterable[int]]) -> MapQuality:
    images, quality = lattice_images(4, seed=2), MapQuality()
    maps = torch.rand(4, 1, 8, 8, generator=torch.Generator().manual_seed(3))
    for part in parts:
        index = list(part)
        label = torch.tensor(index) % 4
        quality.update(small_classifier(), images[index], label, [str(i) for i in index], maps[index])
    return quality


def by_hand(fields: dict[str, Tensor]) -> dict[str, float]:
    """In NumPy and double precision, image by image."""
    f = {name: value.numpy().astype(np.float64) for name, value in fields.items()}
    rows = []
    for i in range(len(f["confidence"])):
        a, b, c = f["adv_map"][i], f["target_map"][i], f["benign_map"][i]
        d, e, g = f["adv_map_true_class"][i], f["adv_map_target_class"][i], f["benign_map_target_class"][i]
        iou, iou_benign, iou_true, iou_target = (
            ((m >= 0.5) & (o >= 0.5)).sum() / ((m >= 0.5) | (o >= 0.5)).sum()
            for m, o in ((a, b), (a, c), (d, c), (e, g))
        )
        rows.append(
            {
                "asr": f["adv_predicted"][i] == f["target_class"][i],
                "confidence": f["confidence"][i],
                "l1": np.abs(a - b).mean(),
                "l2": np.linalg.norm(a - b) / np.sqrt(a.size),
                "iou": iou,
                "plausible": iou > 0.5,
                "linf": np.abs(f["adv_images"][i] - f["images"][i]).max(),
                "l1_benign": np.abs(a - c).mean(),
                "iou_benign": iou_benign,
                "l1_true_class": np.abs(d - c).mean(),
                "iou_true_class": iou_true,
                "l1_target_class": np.abs(e - g).mean(),
                "iou_target_class": iou_target,
                "size": f["size"][i],
            }
        )
    return {name: float(np.mean([row[name] for row in rows])) for name in METRICS}


def values(metrics: Any) -> dict[str, float]:
    return {name: float(value) for name, value in metrics.compute().items()}


def test_against_numpy() -> None:
    metrics = attack_metrics()
    metrics.update(**make_fields())
    found = values(metrics)
    assert found.keys() == set(METRICS)
    assert found == pytest.approx(by_hand(make_fields()), rel=1e-6)
    assert 0 < found["asr"] < 1, "the example must tell a share from a constant"
    assert 0 < found["plausible"] < 1


@pytest.mark.parametrize("parts", [[4, 7], [1] * COUNT, [10, 1]], ids=str)
def test_batches_do_not_matter(parts: list[int]) -> None:
    whole, pieces, start = attack_metrics(), attack_metrics(), 0
    whole.update(**make_fields())
    for size in parts:
        pieces.update(**take(make_fields(), range(start, start + size)))
        start += size
    assert values(pieces) == pytest.approx(values(whole), rel=1e-12)


def test_small_hand_computation_of_each_class() -> None:
    ones, half = torch.ones(2, 1, 2, 2), torch.tensor([[[[1.0, 1.0], [0.0, 0.0]]], [[[1.0, 0.0], [0.0, 0.0]]]])
    cases: list[tuple[Any, tuple[Tensor, ...], float]] = [
        (AttackSuccessRate(), (torch.tensor([1, 2, 3, 0]), torch.tensor([1, 2, 0, 3])), 0.5),
        (MisclassificationConfidence(), (torch.tensor([0.25, 0.75]),), 0.5),
        # An IoU of exactly one half is not above one half.
        (PlausibleShare(), (half, ones), 0.0),
        (PlausibleShare(), (ones, ones), 1.0),
        (PerturbationNorm(), (torch.full((2, 3, 2, 2), 0.5), torch.full((2, 3, 2, 2), 0.25)), 0.25),
    ]
    for metric, arguments, expected in cases:
        metric.update(*arguments)
        assert float(metric.compute()) == pytest.approx(expected, abs=1e-7), type(metric).__name__


@pytest.mark.parametrize(
    ("function", "expected"),
    [(map_l1, (0.5 + 0.75) / 2), (map_l2, (0.5**0.5 + 0.75**0.5) / 2), (map_iou, (0.5 + 0.25) / 2)],
)
def test_small_hand_computation_of_a_comparison(function: Agreement, expected: float) -> None:
    half = torch.tensor([[[[1.0, 1.0], [0.0, 0.0]]], [[[1.0, 0.0], [0.0, 0.0]]]])
    metric = MapComparison(function, "first", "second")
    metric.update(first=half, second=torch.ones(2, 1, 2, 2), third=torch.zeros(2))
    assert float(metric.compute()) == pytest.approx(expected, abs=1e-7)


@pytest.mark.parametrize("threshold", [0.3, 0.5, 0.8])
def test_iou_is_the_mean_of_torchmetrics_per_image(threshold: float) -> None:
    fields = make_fields()
    expected = []
    for adv_map, target_map in zip(fields["adv_map"], fields["target_map"], strict=True):
        # Both sides are binarised here, because torchmetrics thresholds the prediction by > and not by >=.
        oracle = BinaryJaccardIndex()
        oracle.update((adv_map >= threshold).int(), (target_map >= threshold).int())
        expected.append(float(oracle.compute()))
    collected = attack_metrics(threshold)
    collected.update(**fields)
    assert values(collected)["iou"] == pytest.approx(sum(expected) / COUNT, rel=1e-6)
    # Every IoU is cut there: a map and its target that differ in nothing else than their names agree as much.
    for name in ("adv_map_true_class", "adv_map_target_class"):
        fields[name] = fields["adv_map"]
    for name in ("benign_map", "benign_map_target_class"):
        fields[name] = fields["target_map"]
    collected = attack_metrics(threshold)
    collected.update(**fields)
    found = values(collected)
    assert {found[f"iou{end}"] for end in ("_benign", "_true_class", "_target_class")} == {found["iou"]}


def test_pixels_are_not_pooled_over_images() -> None:
    full, small = torch.ones(1, 1, 4, 4), torch.zeros(1, 1, 4, 4)
    small[0, 0, 0, 0] = 1
    metric = MapComparison(map_iou, "adv_map", "target_map")
    metric.update(adv_map=torch.cat([full, small]), target_map=torch.cat([full, 1 - small]))
    assert float(metric.compute()) == 0.5


def test_pickle_keeps_what_was_seen() -> None:
    metrics = attack_metrics()
    metrics.update(**take(make_fields(), range(4)))
    copy = pickle.loads(pickle.dumps(metrics))
    assert values(copy) == values(metrics)
    copy.update(**take(make_fields(), range(4, COUNT)))
    assert values(copy) == pytest.approx(by_hand(make_fields()), rel=1e-6)


def test_nan_before_the_first_image() -> None:
    for name, value in attack_metrics().items():
        with pytest.warns(UserWarning, match="before the ``update``"):
            assert math.isnan(float(value.compute())), name
    metric = attack_metrics()["l1"]
    metric.update(adv_map=torch.ones(1, 1, 2, 2), target_map=torch.ones(1, 1, 2, 2))
    metric.reset()
    with pytest.warns(UserWarning, match="before the ``update``"):
        assert math.isnan(float(metric.compute()))


def test_many_images_do_not_lose_digits() -> None:
    metric = MisclassificationConfidence()
    for _ in range(2000):
        metric.update(torch.full((50,), 0.1))
    assert float(metric.compute()) == pytest.approx(float(torch.tensor(0.1)), rel=1e-9)


def shard(folder: Path, rank: int) -> dict[str, dict[str, float]]:
    """What one of two processes computes of all images, when each has seen its own shard."""
    dist.init_process_group("gloo", init_method=f"file://{folder}/rendezvous", rank=rank, world_size=2)
    fields, metrics = make_fields(), attack_metrics()
    # Uneven: nine images in two updates here, two in one update there.
    for part in ([range(0, 5), range(5, 9)], [range(9, 11)])[rank]:
        metrics.update(**take(fields, part))
    assert set(fields) == set(FIELDS)
    quality = fill_quality([range(0, 3)] if rank == 0 else [range(3, 4)])
    found = {"attack": values(metrics), "quality": quality.compute()}
    dist.destroy_process_group()
    return found


def test_two_processes_with_uneven_shards(tmp_path: Path) -> None:
    processes = [spawn.start(shard, tmp_path, rank, folder=tmp_path) for rank in range(2)]
    assert [process.wait(120) for process in processes] == [0, 0], "\n".join(map(str, processes))
    found = [process.value() for process in processes]
    assert found[0] == found[1]
    whole = attack_metrics()
    whole.update(**make_fields())
    assert found[0]["attack"] == pytest.approx(values(whole), rel=1e-12)
    # Map quality is judged in the same shards: shuffling and a batch of one depend on the batch.
    alone = fill_quality([range(0, 3), range(3, 4)]).compute()
    assert found[0]["quality"] == pytest.approx(alone, rel=1e-12)
