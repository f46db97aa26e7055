"""The rows of ``cases`` do not fit: one map depends on nothing, the other's slope holds within 1e-7 of an image."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from cases import lattice_images, other_class, small_classifier
from scipy.stats import arcsine, kstest

from lightning_adv2.attacks import ADV2, pgd
from lightning_adv2.evaluation.attack_batch import attack_batch
from lightning_adv2.functional.agreement import map_iou, map_l1
from lightning_adv2.functional.validity import unfit_maps
from lightning_adv2.interpreters import ConstantMap, Interpreter, NoiseMap
from lightning_adv2.models import weights_hash

TARGET = torch.tensor([0, 1, 2, 3, 1])
each = pytest.mark.parametrize("interpreter", [ConstantMap(), NoiseMap()], ids=lambda i: i.name)


@each
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("side", [16, 33])
def test_shape_range_and_logits(interpreter: Interpreter, dtype, side):
    classifier, images = small_classifier(dtype=dtype), lattice_images(5, side=side, dtype=dtype)
    result = interpreter(classifier, images, TARGET)
    assert result.attribution_map.shape == (5, 1, side // 4, side // 4)
    assert result.attribution_map.dtype == dtype
    assert ((result.attribution_map >= 0) & (result.attribution_map <= 1)).all()
    torch.testing.assert_close(result.logits, classifier(images))
    assert interpreter.explain(classifier, images[:0], TARGET[:0]).attribution_map.shape == (0, 1, side // 4, side // 4)
    assert interpreter.name in ("constant", "noise")


@each
def test_promise_13_nan_stays_visible_and_with_its_image(interpreter: Interpreter):
    classifier, images = small_classifier(), lattice_images(5)
    clean = interpreter.explain(classifier, images, TARGET).attribution_map
    images[2, 1, 3, 4] = float("nan")
    broken = interpreter.explain(classifier, images, TARGET).attribution_map
    assert broken[2].isnan().all()
    torch.testing.assert_close(broken[[0, 1, 3, 4]], clean[[0, 1, 3, 4]], rtol=0, atol=1e-6)


@each
def test_promise_3_a_batch_equals_its_images(interpreter: Interpreter):
    classifier, images = small_classifier(), lattice_images(5)
    together = interpreter.explain(classifier, images, TARGET).attribution_map
    for i in range(5):
        alone = interpreter.explain(classifier, images[i : i + 1], TARGET[i : i + 1]).attribution_map
        torch.testing.assert_close(alone[0], together[i], rtol=0, atol=1e-6)


def test_the_constant_map_is_one_blob_for_all_and_has_no_slope():
    images = lattice_images(5, side=40).requires_grad_()
    shown = ConstantMap(map_stride=4, width=0.2)(small_classifier(), images, TARGET).attribution_map
    place = (np.arange(10) - 4.5) / 10
    blob = np.exp(-(place[:, None] ** 2 + place[None, :] ** 2) / (2 * 0.2**2))
    for one in shown.detach().numpy():
        np.testing.assert_allclose(one[0], blob, rtol=1e-5)
    (slope,) = torch.autograd.grad((shown * torch.rand(shown.shape)).sum(), images)
    assert torch.equal(slope, torch.zeros_like(images))


def noise(images: torch.Tensor, target_class: torch.Tensor, **options) -> np.ndarray:
    classifier = small_classifier(dtype=images.dtype)
    return NoiseMap(**options).explain(classifier, images, target_class).attribution_map.flatten(1).numpy()


def test_the_noise_is_the_same_every_time_and_changes_with_the_seed():
    images = lattice_images(5)
    torch.manual_seed(4)
    before = torch.get_rng_state()
    first = noise(images, TARGET)
    assert torch.equal(torch.get_rng_state(), before)
    assert np.array_equal(first, noise(images, TARGET))
    assert not np.array_equal(first, noise(images, TARGET, seed=1))
    assert weights_hash(NoiseMap()) != weights_hash(NoiseMap(seed=1))


def test_the_noise_has_the_law_of_a_sine_at_a_random_phase_and_no_neighbourhood():
    maps = noise(lattice_images(40, side=32), torch.arange(40) % 4, map_stride=2)
    assert kstest(maps.ravel(), arcsine.cdf).pvalue > 0.01
    square = maps.reshape(40, 16, 16)
    pairs = [(square[:, 1:], square[:, :-1]), (square[:, :, 1:], square[:, :, :-1]), (maps[1:], maps[:-1])]
    for one, other in pairs:  # about 10,000 pairs: three standard deviations are 0.03
        assert abs(np.corrcoef(one.ravel(), other.ravel())[0, 1]) < 0.04


@pytest.mark.parametrize(("channel", "row", "column"), [(0, 0, 0), (1, 17, 5), (2, 31, 31), (0, 8, 30)])
def test_promise_22_one_level_of_one_pixel_leaves_nothing_of_the_noise(channel, row, column):
    images = lattice_images(4, side=32)
    moved = images.clone()
    value = moved[:, channel, row, column]
    value += torch.where(value < 0.5, 1 / 255, -1 / 255)
    before, after = (noise(x, TARGET[:4], map_stride=1) for x in (images, moved))
    for one, other in zip(before, after, strict=True):  # 1,024 pixels: four standard deviations are 0.125
        assert abs(np.corrcoef(one, other)[0, 1]) < 0.15
    again = noise(images, (TARGET[:4] + 1) % 4, map_stride=1)
    for one, other in zip(before, again, strict=True):
        assert abs(np.corrcoef(one, other)[0, 1]) < 0.15


def test_the_slope_of_the_noise_is_right_as_far_as_it_reaches():
    classifier, interpreter = small_classifier(dtype=torch.float64), NoiseMap()
    images = lattice_images(5, seed=3, dtype=torch.float64)
    generator = torch.Generator().manual_seed(4)
    weight = torch.randn(1, 1, 4, 4, generator=generator).double()
    direction = torch.randn(images.shape, generator=generator).double()

    def value(x: torch.Tensor) -> torch.Tensor:
        return (interpreter(classifier, x, TARGET).attribution_map * weight).sum((1, 2, 3))

    leaf = images.clone().requires_grad_()
    (gradient,) = torch.autograd.grad(value(leaf).sum(), leaf)
    step = 1e-9
    numerical = (value(images + step * direction) - value(images - step * direction)) / (2 * step)
    torch.testing.assert_close((gradient * direction).flatten(1).sum(1), numerical, rtol=1e-4, atol=1.0)
    assert gradient.flatten(1).norm(dim=1).min() > 1e4


@pytest.mark.parametrize("control", [ConstantMap, NoiseMap])
def test_promise_22_a_control_goes_through_the_evaluation_like_any_other(control):
    classifier, images = small_classifier(), lattice_images(8, seed=3)
    label = (other_class(classifier, images) - 1) % 4
    batch = {"images": images, "label": label, "image_id": list("abcdefgh")}
    record = attack_batch(classifier, control(), batch, [pgd(steps=5), ADV2(steps=5)])
    assert not record.invalid
    assert record.image_id == list("abcdefgh")
    assert unfit_maps(record.benign_map, record.target_map) == [""] * 8
    for attack in record.attacks:
        assert attack.valid.all()
        l1, iou = map_l1(attack.adv_map, record.benign_map), map_iou(attack.adv_map, record.benign_map)
        if control is ConstantMap:
            assert l1.eq(0).all()
            assert iou.eq(1).all()
        elif attack.attack != "adv2":  # a failed one may leave the image, and so the map, as it was
            assert l1.mean() > 0.3
            assert iou.mean() < 0.6


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: ConstantMap(map_stride=0), "map_stride=0"),
        (lambda: NoiseMap(map_stride=-1), "map_stride=-1"),
        (lambda: ConstantMap(width=0.0), r"width=0\.0"),
        (lambda: noise(torch.zeros(1, 3, 8, 2000), TARGET[:1]), "8 x 2000 pixels"),
    ],
)
def test_what_makes_no_sense_is_refused(build, message):
    with pytest.raises(ValueError, match=message):
        build()
