from __future__ import annotations

import pytest
import torch
from cases import lattice_images, small_classifier
from torch import Tensor

from lightning_adv2.functional.faithfulness import class_probability
from lightning_adv2.functional.masking import uninformative
from lightning_adv2.functional.random import image_generators, per_image
from lightning_adv2.metrics import MapAgreement, MapQuality, relative_losses

COUNT, SIDE = 6, 32
LABEL = torch.arange(COUNT) % 2
NAMES = [f"image-{i}" for i in range(COUNT)]


def object_masks() -> Tensor:
    mask = torch.zeros(COUNT, 1, SIDE, SIDE, dtype=torch.bool)
    for i in range(COUNT):
        mask[i, :, 4 + i : 16 + i, 6 : 20 - i] = True
    return mask


def pictures() -> Tensor:
    """Grey ground, and an object of pure red (class 0) or pure blue (class 1) inside the mask."""
    colour = torch.zeros(COUNT, 3, 1, 1)
    colour[LABEL == 0, 0] = 1
    colour[LABEL == 1, 2] = 1
    return torch.where(object_masks(), colour, torch.full((), 0.5))


def toy_classifier(images: Tensor) -> Tensor:
    """Evidence is what is much more red than blue, or much more blue than red; class 2 is 'nothing there'."""
    red, blue = images[:, 0], images[:, 2]
    evidence = torch.stack([(red - blue - 0.8).relu().mean((1, 2)), (blue - red - 0.8).relu().mean((1, 2))], dim=1)
    return torch.cat([2000 * evidence, torch.full((len(images), 1), 5.0)], dim=1)


def measure(
    attribution_map: Tensor, mask: Tensor | None = None, order: bool = False, **kwargs: int
) -> dict[str, float]:
    quality = MapQuality(order=order, **kwargs)
    quality.update(toy_classifier, pictures(), LABEL, NAMES, attribution_map, mask)
    return quality.compute()


def test_a_map_that_is_the_object() -> None:
    masks = object_masks()
    found = measure(masks.float(), masks, order=True)
    assert found["area"] == pytest.approx(float(masks.float().mean()))
    assert found["localisation_iou"] == 1
    assert found["preserved"] > 0.99
    # Not to nothing: half of the backgrounds are the blurred image, in which the object's middle keeps its colour.
    assert found["destroyed"] < found["preserved"] - 0.2
    assert found["insertion"] > found["random_insertion"]
    assert found["deletion"] < found["random_deletion"]
    turned_round = measure(1 - masks.float(), masks)
    assert turned_round["preserved"] == pytest.approx(found["destroyed"])
    assert turned_round["destroyed"] == pytest.approx(found["preserved"])
    assert turned_round["localisation_iou"] == 0


def test_preserved_by_hand() -> None:
    maps = torch.rand(COUNT, 1, SIDE, SIDE, generator=torch.Generator().manual_seed(0))
    background = uninformative(pictures(), image_generators(0, NAMES, "quality"))
    kept = class_probability(toy_classifier, maps * pictures() + (1 - maps) * background, LABEL).mean()
    assert measure(maps)["preserved"] == pytest.approx(float(kept), rel=1e-5)


def test_a_random_map_is_as_good_as_itself() -> None:
    images = pictures()
    own = per_image(lambda g: torch.rand(1, 8, 8, generator=g), image_generators(4, NAMES, "random_map"), images)
    found = measure(own, order=True, seed=4)
    assert found["deletion"] == found["random_deletion"]
    assert found["insertion"] == found["random_insertion"]


def test_images_without_an_object_do_not_count_for_localisation() -> None:
    masks = object_masks()
    some = masks.clone()
    some[2:] = False
    maps = masks.float()
    maps[0] = 0
    assert measure(maps, some)["localisation_iou"] == 0.5
    none = measure(maps, torch.zeros_like(masks))
    assert "localisation_iou" not in none
    assert none.keys() == measure(maps).keys() == {"area", "preserved", "destroyed", "shuffled", "gap"}


def test_order_adds_four() -> None:
    keys = measure(object_masks().float(), order=True).keys() - measure(object_masks().float()).keys()
    assert keys == {"deletion", "insertion", "random_deletion", "random_insertion"}


def test_reset_and_batches() -> None:
    quality, images, maps = MapQuality(), pictures(), object_masks().float()
    quality.update(toy_classifier, images, LABEL, NAMES, 1 - maps)
    quality.reset()
    assert quality.compute() == {}
    for part in (slice(0, 4), slice(4, 6)):
        quality.update(toy_classifier, images[part], LABEL[part], NAMES[part], maps[part])
    found, whole = quality.compute(), measure(maps)
    for name in ("area", "preserved", "destroyed"):
        assert found[name] == pytest.approx(whole[name], rel=1e-6)


def test_a_single_image_has_no_other_map() -> None:
    quality, maps = MapQuality(), object_masks().float()
    quality.update(toy_classifier, pictures()[:1], LABEL[:1], NAMES[:1], maps[:1])
    assert "shuffled" not in quality.compute()
    assert quality.compute()["preserved"] > 0.99


def test_the_victim_is_left_alone() -> None:
    classifier = small_classifier(num_classes=4)
    before = {name: value.clone() for name, value in classifier.state_dict().items()}
    maps, state = torch.rand(3, 1, 4, 4), torch.get_rng_state()
    MapQuality(order=True).update(classifier, lattice_images(3), torch.tensor([0, 1, 2]), ["a", "b", "c"], maps)
    assert torch.equal(torch.get_rng_state(), state)
    assert all(torch.equal(before[name], value) for name, value in classifier.state_dict().items())
    assert all(p.grad is None for p in classifier.parameters())


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_promise_13_maps_and_confidences_that_are_no_numbers_are_counted_and_left_out(value: float) -> None:
    """Not left to turn every mean into NaN, which would drop out of the table in silence."""
    maps, masks = object_masks().float(), object_masks()
    keep = [0, 2, 3, 5]
    expected = MapQuality(order=True)
    names = [NAMES[i] for i in keep]
    expected.update(toy_classifier, pictures()[keep], LABEL[keep], names, maps[keep], masks[keep])
    maps[[1, 4], 0, 0, 0] = value
    found = measure(maps, masks, order=True)
    assert found.pop("invalid") == pytest.approx(2 / 6)
    assert found == pytest.approx(expected.compute())
    assert "invalid" not in expected.compute()

    def blind(images: Tensor) -> Tensor:
        """To blue pictures, and to what is made of them."""
        logits = toy_classifier(images)
        return torch.where((logits[:, 1] > 6)[:, None], torch.nan, logits)

    quality = MapQuality()
    quality.update(blind, pictures(), LABEL, NAMES, object_masks().float(), masks)
    assert 0 < quality.compute()["invalid"] <= 0.5
    assert quality.compute()["preserved"] > 0.99


def test_promise_22_the_gap_is_what_the_own_map_preserves_beyond_anothers() -> None:
    # Objects in four corners by turns: no map shows the object of the image before.
    masks = torch.zeros(COUNT, 1, SIDE, SIDE)
    for i in range(COUNT):
        top, left = 20 * (i // 2 % 2), 20 * (i % 2)
        masks[i, :, top : top + 10, left : left + 10] = 1
    colour = torch.zeros(COUNT, 3, 1, 1)
    colour[LABEL == 0, 0] = 1
    colour[LABEL == 1, 2] = 1
    images = torch.where(masks > 0, colour, torch.full((), 0.5))
    values = {}
    for name, maps in {"object": masks, "nothing": 0 * masks, "half": 0 * masks + 0.5, "all": 0 * masks + 1}.items():
        quality = MapQuality()
        quality.update(toy_classifier, images, LABEL, NAMES, maps)
        values[name] = quality.compute()
    assert values["object"]["gap"] == pytest.approx(values["object"]["preserved"] - values["object"]["shuffled"])
    assert values["object"]["gap"] > 0.3
    assert [values[name]["gap"] for name in ("nothing", "half", "all")] == [0, 0, 0]
    assert values["all"]["preserved"] > 0.99


def test_promise_22_the_gap_compares_each_image_with_itself() -> None:
    """The last image is alone in its batch: what its map preserves has nothing to be compared with."""
    images, maps, quality, asked = pictures(), object_masks().float(), MapQuality(), LABEL.clone()
    asked[COUNT - 1] = 2  # which nothing in it speaks for
    for part in (slice(0, COUNT - 1), slice(COUNT - 1, COUNT)):
        quality.update(toy_classifier, images[part], asked[part], NAMES[part], maps[part])
    background = uninformative(images, image_generators(0, NAMES, "quality"))
    gaps = []
    for i in range(COUNT - 1):
        own, other = (
            class_probability(toy_classifier, m * images[i] + (1 - m) * background[i], LABEL[i : i + 1])
            for m in (maps[i : i + 1], maps[(i - 1) % (COUNT - 1)].unsqueeze(0))
        )
        gaps.append(float(own - other))
    found = quality.compute()
    assert found["gap"] == pytest.approx(sum(gaps) / len(gaps), abs=1e-5)
    assert abs(found["gap"] - (found["preserved"] - found["shuffled"])) > 0.05, "the alternative shows"


def test_agreement_by_hand() -> None:
    agreement = MapAgreement()
    first = torch.zeros(3, 1, 2, 2)
    second = torch.zeros(3, 1, 4, 4)
    first[0] = 1
    second[0, :, :2] = 1  # IoU 1/2, L1 1/2
    second[1] = 0.25  # both empty at the threshold: no IoU, L1 1/4
    first[2, 0, 0, 0] = torch.nan
    agreement.update(first[:1], second[:1])
    agreement.update(first[1:], second[1:])
    assert agreement.compute() == pytest.approx({"agreement_l1": 0.375, "agreement_iou": 0.5})
    assert MapAgreement().compute() == {}


def test_relative_losses() -> None:
    teacher = {"preserved": 0.8, "gap": 0.2, "insertion": 0.5, "deletion": 0.2, "destroyed": 0.01, "area": 0.5}
    own = {"preserved": 0.4, "gap": 0.3, "insertion": 0.5, "deletion": 0.3, "destroyed": 0.02, "area": 0.1}
    expected = {"preserved": 0.5, "gap": -0.5, "insertion": 0.0, "deletion": 0.5, "destroyed": 0.2}  # of 0.05
    assert relative_losses(own, teacher) == pytest.approx(expected)
    assert relative_losses(teacher, teacher) == dict.fromkeys(expected, 0.0)
    # What cannot be measured any more is lost, and so are maps that are no numbers.
    assert relative_losses({"invalid": 1.0}, teacher) == dict.fromkeys((*expected, "invalid"), 1.0)
    # Where the reference itself says nothing, a better value is still better and a worse one worse.
    assert relative_losses({"gap": 0.1}, {"gap": -0.1})["gap"] == pytest.approx(-2)
    assert relative_losses({"gap": -0.2}, {"gap": -0.1})["gap"] == pytest.approx(1)
