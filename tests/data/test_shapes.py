from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from lightning_adv2.data import ShapesDataModule, ShapesDataset
from lightning_adv2.data.images import Mask
from lightning_adv2.data.rendering import SHAPES, SURFACES, render


def stack(dataset: ShapesDataset) -> tuple[Tensor, Tensor]:
    items = [dataset[i] for i in range(len(dataset))]
    return torch.stack([item["images"] for item in items]), torch.stack([item["mask"] for item in items])


def test_a_picture_depends_on_seed_split_and_number_only() -> None:
    few, many = ShapesDataset(3, seed=1, split="val"), ShapesDataset(20, seed=1, split="val")
    for i in range(3):
        assert np.array_equal(few.uint8(i), many.uint8(i))
        assert few.image_id(i) == many.image_id(i)
        assert few.label(i) == many.label(i)
    for other in (ShapesDataset(3, seed=2, split="val"), ShapesDataset(3, seed=1, split="test")):
        assert not np.array_equal(few.uint8(0), other.uint8(0))
        assert few.image_id(0) != other.image_id(0)


def test_items_are_a_batch_on_the_8_bit_lattice() -> None:
    data = ShapesDataModule(num_train=10, num_val=14, num_test=7, batch_size=14)
    batch = next(iter(data.val_dataloader()))
    assert batch["images"].shape == (14, 3, 64, 64)
    assert batch["images"].dtype == torch.float32
    levels = batch["images"] * 255
    assert torch.equal(levels, levels.round())
    assert torch.equal(batch["images"], levels.round().to(torch.uint8).float() / 255)
    assert batch["mask"].shape == (14, 1, 64, 64)
    assert batch["mask"].dtype == torch.bool
    assert batch["label"].dtype == torch.int64
    assert batch["label"].bincount(minlength=data.num_classes).tolist() == [2] * 7
    assert isinstance(batch["image_id"], list)
    assert len(set(batch["image_id"])) == 14
    assert data.classes == data.dataset("train").classes == tuple(SHAPES)


@pytest.mark.parametrize("shape", SHAPES)
def test_the_mask_is_where_the_object_is(shape: str, monkeypatch: pytest.MonkeyPatch) -> None:
    # Two objects in the same place, drawn with the same random numbers and one surface, differ in their masks and
    # nowhere else.
    other = "disk" if shape != "disk" else "square"
    monkeypatch.setitem(SURFACES, other, SURFACES[shape])
    moved = []
    for seed in range(10):
        (pixels, mask), (pixels2, mask2) = (render(np.random.default_rng(seed), name, 128) for name in (shape, other))
        changed = (pixels != pixels2).any(2)
        assert not changed[mask & mask2 & _inner(mask) & _inner(mask2)].any()
        assert not changed[~mask & ~mask2 & _inner(~mask) & _inner(~mask2)].any()
        moved.append(changed[mask & _inner(mask) & _inner(~mask2)])
        moved.append(changed[mask2 & _inner(mask2) & _inner(~mask)])
    assert np.concatenate(moved).mean() > 0.95


def _inner(mask: Mask) -> Mask:
    """Without two pixels at the border: mixed colours, and tips too thin to cover half of a pixel."""
    return (-F.max_pool2d(-torch.from_numpy(mask)[None].float(), 5, 1, 2))[0].bool().numpy()


def test_masks_have_the_shapes_area() -> None:
    # Area over that of the circumscribed disk, by geometry.
    expected = {
        "disk": 1.0,
        "ring": 1 - 0.52**2,
        "square": 2 / np.pi,
        "triangle": 3**1.5 / 4 / np.pi,
        "star": 1.1226 / np.pi,
        "cross": (4 * 0.95 * 0.54 - 0.54**2) / np.pi,
    }
    for shape, share in expected.items():
        areas = [
            render(np.random.default_rng(seed), shape, 128)[1].sum()
            / render(np.random.default_rng(seed), "disk", 128)[1].sum()
            for seed in range(20)
        ]
        assert np.mean(areas) == pytest.approx(share, rel=0.02), shape


def test_objects_lie_inside_and_anywhere() -> None:
    _, mask = stack(ShapesDataset(300))
    assert not mask[..., [0, -1], :].any()
    assert not mask[..., :, [0, -1]].any()
    heat = mask.float().mean((0, 1))
    assert (heat > 0).float().mean() > 0.75
    assert 0.02 < mask.float().mean() < 0.2


def test_trivial_maps_do_not_find_the_object() -> None:
    images, mask = stack(ShapesDataset(300, split="test"))
    line = torch.linspace(-1, 1, 64)
    gray = images.mean(1, keepdim=True)
    edges = (gray[..., 1:, 1:] - gray[..., :-1, 1:]).abs() + (gray[..., 1:, 1:] - gray[..., 1:, :-1]).abs()
    saturation = images.amax(1, keepdim=True) - images.amin(1, keepdim=True)
    trivial = {
        "centre prior": (-(line[:, None] ** 2 + line**2)).expand_as(gray),
        "brightness": gray,
        "darkness": -gray,
        "saturation": saturation,
        "greyness": -saturation,
        "edge density": F.avg_pool2d(F.pad(edges, (1, 0, 1, 0)), 9, 1, 4),
    }
    for name, score in trivial.items():
        # The best case for such a map: it is told the object's area.
        area = mask.flatten(1).sum(1)
        threshold = torch.stack([s.flatten().topk(int(k)).values[-1] for s, k in zip(score, area, strict=True)])
        found = score >= threshold.view(-1, 1, 1, 1)
        iou = (found & mask).flatten(1).sum(1) / (found | mask).flatten(1).sum(1)
        assert iou.mean() < 0.4, f"{name}: {iou.mean():.2f}"


@pytest.mark.parametrize("image_size", [32, 96])
def test_other_sizes(image_size: int) -> None:
    item = ShapesDataset(1, image_size=image_size)[0]
    assert item["images"].shape == (3, image_size, image_size)
    assert item["mask"].any()


def test_workers_give_the_same_batches() -> None:
    alone, helped = (ShapesDataModule(num_val=20, batch_size=8, num_workers=n).val_dataloader() for n in (0, 2))
    for first, second in zip(alone, helped, strict=True):
        assert torch.equal(first["images"], second["images"])
        assert first["image_id"] == second["image_id"]


def test_train_loader_shuffles_and_drops_only_an_incomplete_last_batch() -> None:
    torch.manual_seed(0)
    data = ShapesDataModule(num_train=20, batch_size=8)
    batches = list(data.train_dataloader())
    assert [len(batch["label"]) for batch in batches] == [8, 8]
    assert batches[0]["image_id"] != sorted(batches[0]["image_id"])
    assert len(next(iter(ShapesDataModule(num_train=5, batch_size=8).train_dataloader()))["label"]) == 5


@pytest.mark.parametrize(
    ("kwargs", "message"),
    [
        ({"num_images": 0}, "num_images=0"),
        ({"num_images": 1, "seed": -1}, "seed=-1"),
        ({"num_images": 1, "split": "training"}, "split='training'.*train, val, test"),
        ({"num_images": 1, "image_size": 16}, "image_size=16"),
    ],
)
def test_errors_name_the_argument(kwargs: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        ShapesDataset(**kwargs)  # type: ignore[arg-type]


def test_data_module_errors() -> None:
    with pytest.raises(ValueError, match="batch_size=0"):
        ShapesDataModule(batch_size=0)
    with pytest.raises(ValueError, match="num_workers=-1"):
        ShapesDataModule(num_workers=-1)
    with pytest.raises(ValueError, match="split='validation'"):
        ShapesDataModule().dataset("validation")  # type: ignore[arg-type]
