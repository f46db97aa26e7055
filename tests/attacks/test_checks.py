"""What an attack refuses before its first step, or takes as it is meant."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
import torchvision
from cases import BY_NAME, lattice_images, other_class, small_classifier
from torch import Tensor, nn
from toys import AlteredCAM, LogitsAndFeatures, OneConvolution

from lightning_adv2 import adv2
from lightning_adv2.attacks import adv2_attack, adv2_cam, pgd, run_attack
from lightning_adv2.interpreters import CAM, Gradient


def both(classifier, images, target_class, **options):
    """The one-liner, and PGD, which meets no interpreter."""
    return (
        lambda: adv2(classifier, CAM(), images, target_class, steps=2, **options),
        lambda: run_attack(pgd(steps=2), classifier, None, images, target_class),
    )


@pytest.mark.parametrize("dtype", [torch.uint8, torch.int16, torch.int32])
def test_target_classes_of_any_whole_type(dtype):
    classifier, images = small_classifier(), lattice_images(4)
    target_class = other_class(classifier, images)
    expected, found = (both(classifier, images, given) for given in (target_class, target_class.to(dtype)))
    for first, second in zip(expected, found, strict=True):
        assert torch.equal(first().adv_images, second().adv_images)


def test_one_target_class_for_all_images_and_a_list():
    classifier, images = small_classifier(), lattice_images(4)
    expected = adv2(classifier, CAM(), images, torch.tensor([3, 3, 3, 3]), steps=2)
    for given in (3, [3, 3, 3, 3]):
        assert torch.equal(adv2(classifier, CAM(), images, given, steps=2).adv_images, expected.adv_images)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda x: x.permute(0, 2, 3, 1), r"images: \(2, 16, 16, 3\).*permute\(0, 3, 1, 2\)"),
        (lambda x: x[0], r"images.*\(3, 16, 16\).*images\[None\]"),
        (lambda x: (255 * x).byte(), r"images.*uint8.*/ 255"),
        (lambda x: 255 * x, r"images: values.*divide 8-bit"),
        (lambda x: x.double(), "images: torch.float64.*classifier's weights are torch.float32"),
        (lambda x: x.half(), "images: torch.float16 cannot hold"),
    ],
)
def test_images_that_do_not_fit_are_refused_by_name(change, message):
    for call in both(small_classifier(), change(lattice_images(2)), torch.tensor([1, 2])):
        with pytest.raises(ValueError, match=message):
            call()


def test_a_pixel_just_beyond_white_is_named_with_all_its_digits():
    images = lattice_images(2)
    images[0, 0, 0, 0] = 1 + 1e-6
    for call in both(small_classifier(), images, 1):
        with pytest.raises(ValueError, match=r"\[0, 1\.00000\d+\].*1e-06 beyond"):
            call()


def test_a_classifier_with_one_logit_is_refused_with_the_remedy():
    for call in both(OneConvolution(logits=1), lattice_images(2), torch.tensor([0, 0])):
        with pytest.raises(ValueError, match=r"1 class.*zeros_like.*num_classes = 2"):
            call()
    for call in both(OneConvolution(logits=1, num_classes=2), lattice_images(2), torch.tensor([0, 0])):
        with pytest.raises(ValueError, match=r"1 class"):
            call()


@pytest.mark.parametrize("target", [0, 7])
def test_another_number_of_classes_than_logits_is_refused(target):
    for call in both(OneConvolution(num_classes=10), lattice_images(2), target):
        with pytest.raises(ValueError, match=r"classifier: its logits are \(2, 4\).*num_classes is 10"):
            call()


def test_a_classifier_that_returns_no_tensor_is_refused():
    for call in both(LogitsAndFeatures(), lattice_images(2), 1):
        with pytest.raises(TypeError, match=r"classifier: LogitsAndFeatures returns a tuple.*logits"):
            call()


@pytest.mark.parametrize("network", [torchvision.models.resnet18(num_classes=4).eval(), len], ids=["resnet", "len"])
def test_what_is_no_classifier_is_refused(network):
    for call in both(network, lattice_images(2), 1):
        with pytest.raises(TypeError, match=r"classifier: expected an instance of Classifier.*TorchvisionClassifier"):
            call()


def test_classes_in_place_of_instances_are_refused():
    classifier, images = small_classifier(), lattice_images(2)
    for call in both(OneConvolution, images, 1):
        with pytest.raises(TypeError, match=r"classifier: got the class OneConvolution; give an instance"):
            call()
    for call in (lambda: adv2(classifier, CAM, images, 1), lambda: adv2_attack(Gradient)):
        with pytest.raises(TypeError, match=r"interpreter: got the class (CAM|Gradient); give an instance"):
            call()
    with pytest.raises(TypeError, match=r"interpreter: expected an instance of Interpreter, got ReLU"):
        adv2(classifier, nn.ReLU(), images, 1)


@pytest.mark.parametrize(
    "part", [torchvision.ops.StochasticDepth(0.5, "row"), nn.Dropout(0.5)], ids=lambda part: type(part).__name__
)
def test_a_part_that_draws_is_refused_wherever_it_is(part):
    classifier = OneConvolution(middle=part)
    part.train()
    for call in both(classifier, lattice_images(2), 1):
        with pytest.raises(ValueError, match=r"classifier: body.1 is in train mode"):
            call()


class Mixing(nn.Module):
    """Normalises by the batch, as a function without a module or a mode."""

    def forward(self, x: Tensor) -> Tensor:
        return F.batch_norm(x, None, None, training=True)


@pytest.mark.parametrize("part", [nn.BatchNorm2d(6, track_running_stats=False), Mixing()], ids=["module", "function"])
def test_a_network_whose_answer_depends_on_the_batch_is_refused(part):
    for call in both(OneConvolution(middle=part), lattice_images(3), 1):
        with pytest.raises(ValueError, match=r"an image's logits depend on the other images of (its|the) batch"):
            call()


class Random(OneConvolution):
    """Answers at random: flagged afterwards, not refused."""

    def forward_head(self, features):
        return super().forward_head(features) * (1 + torch.rand(len(features), 1))


def test_a_network_that_answers_at_random_is_attacked():
    assert run_attack(pgd(steps=2), Random(), None, lattice_images(3), 1).adv_images.isfinite().all()


def test_an_interpreter_that_returns_a_wrong_shape_is_refused_in_an_attack():
    flat = AlteredCAM(lambda shown, *_: shown[:, 0])
    images, target_map = lattice_images(2), torch.zeros(2, 1, 4, 4)
    with pytest.raises(ValueError, match=r"attribution_map of AlteredCAM is \(2, 4, 4\)"):
        run_attack(adv2_cam(steps=2), small_classifier(), flat, images, 1, target_map)


def test_the_attack_on_rts_takes_any_whole_type():
    """Its selector looks classes up in a table."""
    classifier, images = small_classifier(), lattice_images(4)
    rts, target = BY_NAME["rts"].build(classifier), other_class(classifier, images)
    expected = adv2(classifier, rts, images, target, steps=2).adv_images
    assert torch.equal(adv2(classifier, rts, images, target.to(torch.uint8), steps=2).adv_images, expected)
