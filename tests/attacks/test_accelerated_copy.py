"""The fast copy of a victim: it agrees, shares what can be shared, and is given up where it does not agree."""

from __future__ import annotations

import threading
from copy import deepcopy

import pytest
import torch
from cases import BY_NAME, lattice_images, other_class, small_classifier, small_vit
from torch import Tensor, nn

from lightning_adv2.attacks import (
    Acceleration,
    Attack,
    GradientStep,
    PixelDelta,
    Ramp,
    Stage,
    TargetClass,
    adv2_cam,
    make_accelerated_copy,
    pgd,
    run_attack,
)
from lightning_adv2.functional.optim import Rule
from lightning_adv2.interpreters import CAM, MASK, RTS, GradCAM, Gradient
from lightning_adv2.interpreters.captum import Captum
from lightning_adv2.models import CifarResNet, Classifier, ResidualClassifier, TorchvisionClassifier, weights_hash
from lightning_adv2.types import Interpretation, State

IMAGES = lattice_images(4)


def test_cifar_logits_agree_within_1e_5(shared_data):
    classifier = CifarResNet(20, weights=str(shared_data / "cifar10" / "resnet20.safetensors"))
    images = lattice_images(16, side=32)
    accelerated = make_accelerated_copy(classifier, None, images)
    logits = classifier(images)
    assert (accelerated.classifier(images) - logits).abs().max() <= 1e-5 * logits.abs().max()
    assert not any(isinstance(m, nn.BatchNorm2d) for m in accelerated.classifier.modules())
    assert accelerated.classifier.conv1.weight.is_contiguous(memory_format=torch.channels_last)


def test_the_victim_is_not_touched():
    classifier, rts = small_classifier(), BY_NAME["rts"].build(small_classifier())
    before = weights_hash(classifier), weights_hash(rts)
    layout = [p.stride() for p in classifier.parameters()]
    accelerated = make_accelerated_copy(classifier, rts, IMAGES)
    assert (weights_hash(classifier), weights_hash(rts)) == before
    assert [p.stride() for p in classifier.parameters()] == layout
    assert all(p.requires_grad for p in classifier.parameters())
    assert not any(p.requires_grad for p in accelerated.classifier.parameters())
    own = {p.data_ptr() for m in (classifier, rts) for p in m.parameters()}
    assert not own & {p.data_ptr() for m in (accelerated.classifier, accelerated.interpreter) for p in m.parameters()}


def count_passes(network: Classifier, seen: list[int]) -> None:
    network.conv1.register_forward_hook(lambda module, inputs, output: seen.append(len(output)))


def test_an_encoder_with_the_classifiers_weights_shares_its_pass():
    classifier = small_classifier()
    rts = RTS(deepcopy(classifier), map_stride=2, width=6)
    accelerated = make_accelerated_copy(classifier, rts, IMAGES)
    assert accelerated.interpreter.network.encoder is accelerated.classifier
    seen: list[int] = []
    count_passes(accelerated.classifier, seen)
    target_class = torch.zeros(4, dtype=torch.int64)
    shown = accelerated.interpreter(accelerated.classifier, IMAGES, target_class)
    assert seen == [4]
    plain = rts(classifier, IMAGES, target_class)
    torch.testing.assert_close(shown.logits, plain.logits, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(shown.attribution_map, plain.attribution_map, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("change", ["weights", "normalisation", "head"])
def test_another_encoder_is_kept(change):
    classifier = small_classifier()
    encoder = deepcopy(classifier)
    with torch.no_grad():
        {"weights": encoder.conv1.weight, "normalisation": encoder.mean, "head": encoder.linear.bias}[change].add_(1e-3)
    accelerated = make_accelerated_copy(classifier, RTS(encoder, map_stride=2, width=6), IMAGES)
    assert accelerated.interpreter.network.encoder is not accelerated.classifier


class ReadTwice(ResidualClassifier):
    """Its first convolution is read by its BatchNorm and, unseen, by a sum: folding makes another network of it."""

    def _stem(self, x: Tensor) -> Tensor:
        y = self.conv1(x)
        return nn.functional.relu(self.bn1(y) + y)


def test_a_copy_that_differs_is_given_up():
    classifier = ReadTwice(widths=(4, 8))
    with torch.no_grad():
        classifier.bn1.weight.fill_(3.0)
    with pytest.warns(UserWarning, match="is not folded: logits"):
        accelerated = make_accelerated_copy(classifier, None, IMAGES)
    assert isinstance(accelerated.classifier.bn1, nn.BatchNorm2d), "it is not folded, but still laid out"
    assert accelerated.classifier.conv1.weight.is_contiguous(memory_format=torch.channels_last)


class Detached(nn.Module):
    """The identity, whose copy hands part of the gradient back only: the values agree."""

    share = 0.0

    def forward(self, x: Tensor) -> Tensor:
        return (1 - self.share) * x + self.share * x.detach()

    def __deepcopy__(self, memo: dict[int, object]) -> Detached:
        other = Detached().train(self.training)
        other.share = 0.5
        return other


class Copied(ResidualClassifier):
    """Its copy has the same logits and another gradient."""

    def __init__(self) -> None:
        super().__init__(widths=(4, 8))
        self.shortcut = Detached()

    def _stem(self, x: Tensor) -> Tensor:
        y = nn.functional.relu(self.bn1(self.conv1(x)))
        return y + self.shortcut(y)


@pytest.mark.parametrize("interpreter", [None, CAM(), Gradient(pool=2)])
def test_a_copy_whose_gradients_differ_is_given_up(interpreter):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        classifier = Copied().eval()
    with pytest.warns(UserWarning, match="the logits' gradient by"):
        accelerated = make_accelerated_copy(classifier, interpreter, IMAGES)
    assert accelerated.classifier is classifier


class Halved(CAM):
    """Its copy has the same map, and a gradient that is half of it."""

    def __init__(self) -> None:
        super().__init__()
        self.identity = Detached().eval()

    def forward(self, classifier: Classifier, images: Tensor, class_idx: Tensor, state: State = ()):
        shown = super().forward(classifier, images, class_idx, state)
        return Interpretation(shown.logits, self.identity(shown.attribution_map))


def test_a_copy_whose_maps_gradient_differs_is_given_up():
    classifier, interpreter = small_classifier(), Halved()
    with pytest.warns(UserWarning, match="the map's gradient by 5.0e-01"):
        accelerated = make_accelerated_copy(classifier, interpreter, IMAGES)
    assert accelerated.interpreter is interpreter


def test_what_bfloat16_spoils_is_still_folded(shared_data):
    """MASK's optimisation multiplies bfloat16's rounding."""
    classifier = CifarResNet(20, weights=str(shared_data / "cifar10" / "resnet20.safetensors"))
    with pytest.warns(UserWarning, match="mask is not computed in bfloat16: maps by"):
        accelerated = make_accelerated_copy(
            classifier, MASK(iterations=10), lattice_images(2, side=32), Acceleration(bfloat16=True)
        )
    assert not any(isinstance(m, nn.BatchNorm2d) for m in accelerated.classifier.modules())
    torch.testing.assert_close(accelerated.classifier(IMAGES), classifier(IMAGES), rtol=1e-4, atol=1e-4)


def test_an_interpreter_that_is_not_attacked_is_not_copied():
    assert make_accelerated_copy(small_classifier(), Captum("Saliency"), IMAGES).interpreter is None


def test_the_victim_judges_even_where_the_twin_is_another_network():
    classifier, other = small_classifier(), small_classifier(seed=3)
    target_class = other_class(classifier, IMAGES)
    accelerated = make_accelerated_copy(other, None, IMAGES)
    result = run_attack(pgd(steps=5), classifier, None, IMAGES, target_class, accelerated=accelerated)
    logits = classifier(result.adv_images)
    assert torch.equal(result.success, logits.argmax(1) == target_class)


def test_bfloat16_maps_agree_to_a_few_per_cent_and_the_image_is_legal():
    classifier, cam = small_classifier(), CAM()
    target_class = other_class(classifier, IMAGES)
    target_map = cam.explain(classifier, IMAGES, target_class).attribution_map
    accelerated = make_accelerated_copy(classifier, cam, IMAGES, Acceleration(bfloat16=True))
    shown = accelerated.interpreter(accelerated.classifier, IMAGES, target_class)
    assert shown.logits.dtype == shown.attribution_map.dtype == torch.float32
    difference = (shown.attribution_map - target_map).abs().mean()
    assert 0 < difference < 0.03
    result = run_attack(adv2_cam(steps=4), classifier, cam, IMAGES, target_class, target_map, accelerated=accelerated)
    assert torch.equal((result.adv_images * 255).round() / 255, result.adv_images)
    assert (result.adv_images - IMAGES).abs().max() <= 0.031 + 1e-6


@pytest.mark.slow
def test_compiled_where_first_derivatives_suffice(recwarn):
    classifier = small_classifier()
    for interpreter in (None, CAM(), GradCAM(), BY_NAME["rts"].build(classifier)):
        accelerated = make_accelerated_copy(classifier, interpreter, IMAGES, Acceleration(compile=True))
        assert not [w for w in recwarn if "acceleration" in str(w.message)]
        torch.testing.assert_close(accelerated.classifier(IMAGES), classifier(IMAGES), rtol=1e-4, atol=1e-4)
    with pytest.warns(UserWarning, match="grad is not compiled"):
        accelerated = make_accelerated_copy(classifier, Gradient(pool=2), IMAGES, Acceleration(compile=True))
    shown = accelerated.interpreter(
        accelerated.classifier, IMAGES.clone().requires_grad_(), torch.zeros(4, dtype=torch.int64)
    )
    torch.autograd.grad(shown.attribution_map.sum(), shown.logits, allow_unused=True)


def test_large_networks_of_torchvision_agree():
    for name in ("resnet18", "densenet121", "mobilenet_v2"):
        classifier = TorchvisionClassifier(name, num_classes=7)
        images = lattice_images(2, side=64)
        accelerated = make_accelerated_copy(classifier, CAM(), images)
        logits = classifier(images)
        assert (accelerated.classifier(images) - logits).abs().max() <= 1e-4 * logits.abs().max().clamp(min=1)


class Locked(ResidualClassifier):
    """Cannot be copied."""

    def __init__(self) -> None:
        super().__init__(widths=(4, 8))
        self.lock = threading.Lock()


def test_what_cannot_be_copied_is_attacked_itself():
    classifier = Locked()
    with pytest.warns(UserWarning, match="is not copied: TypeError: cannot pickle"):
        assert make_accelerated_copy(classifier, None, IMAGES).classifier is classifier


def test_with_nothing_asked_for_the_victim_is_its_own_twin(recwarn):
    classifier = small_classifier()
    accelerated = make_accelerated_copy(
        classifier, CAM(), IMAGES, Acceleration(fold_batchnorm=False, channels_last=False)
    )
    assert accelerated.classifier is classifier
    assert not recwarn


def test_a_victim_in_train_mode_is_refused_and_stays_as_it_is():
    classifier = small_classifier().train()
    before = weights_hash(classifier)
    with pytest.raises(ValueError, match="train mode"):
        make_accelerated_copy(classifier, None, IMAGES)
    assert weights_hash(classifier) == before


class Temperate(ResidualClassifier):
    """Of the same weights, another function."""

    temperature = 20.0

    def forward_head(self, features: Tensor) -> Tensor:
        return super().forward_head(features) / self.temperature


def test_an_encoder_that_only_looks_like_the_classifier_is_noticed():
    classifier = Temperate(widths=(8, 12, 16)).eval()
    encoder = deepcopy(classifier)
    encoder.temperature = 1.0
    with pytest.warns(UserWarning, match="the encoder's logits"):
        accelerated = make_accelerated_copy(classifier, RTS(encoder, map_stride=2, width=6), IMAGES)
    assert accelerated.classifier is classifier


def test_a_rule_that_wants_plain_memory_gets_it():
    """``view`` is what people write."""
    seen = []

    def update(gradient: Tensor, state: tuple) -> tuple[Tensor, tuple]:
        seen.append(gradient.view(len(gradient), -1).norm(dim=1))
        return -gradient.sign(), state

    classifier = small_classifier()
    step = GradientStep([TargetClass()], Rule(lambda parameter: (), update), Ramp(1 / 255, 1 / 255))
    attack = Attack("mine", "fast", PixelDelta(), [Stage(step, 3)])
    target_class = other_class(classifier, IMAGES)
    run_attack(
        attack, classifier, None, IMAGES, target_class, accelerated=make_accelerated_copy(classifier, None, IMAGES)
    )
    assert len(seen) == 3


def test_bfloat16_reaches_a_transformer():
    classifier = small_vit()
    accelerated = make_accelerated_copy(classifier, None, IMAGES, Acceleration(bfloat16=True))
    assert (accelerated.classifier(IMAGES) - classifier(IMAGES)).abs().max() > 0
