"""Compiled networks lose second derivatives: they are found, however they were compiled, and refused by name."""

from __future__ import annotations

import pytest
import torch
from cases import BY_NAME, lattice_images, other_class, small_classifier
from torch import Tensor, nn

from lightning_adv2.attacks import adv2
from lightning_adv2.interpreters import CAM
from lightning_adv2.models import ResidualClassifier, compiled_part

IMAGES = lattice_images(2)
TARGET = torch.tensor([1, 2])
# AOTAutograd takes the derivatives whatever the backend; this backend builds in no time.
BACKEND = "aot_eager"


class Decorated(ResidualClassifier):
    """With a method that is compiled in the class."""

    @torch.compile(backend=BACKEND)
    def forward_head(self, features: Tensor) -> Tensor:
        return super().forward_head(features)


def whole() -> nn.Module:
    return torch.compile(small_classifier(), backend=BACKEND)


def in_place() -> nn.Module:
    classifier = small_classifier()
    classifier.compile(backend=BACKEND)
    return classifier


def one_part() -> nn.Module:
    classifier = small_classifier()
    classifier.layer2.compile(backend=BACKEND)
    return classifier


def replaced_part() -> nn.Module:
    classifier = small_classifier()
    classifier.layer2 = torch.compile(classifier.layer2, backend=BACKEND)
    return classifier


def one_method() -> nn.Module:
    classifier = small_classifier()
    classifier.forward_features = torch.compile(classifier.forward_features, backend=BACKEND)
    return classifier


COMPILED = {
    whole: "",
    in_place: "",
    one_part: "layer2",
    replaced_part: "layer2",
    one_method: "",
    lambda: Decorated(widths=(4, 8)): "",
}


@pytest.mark.parametrize(
    ("build", "path"), COMPILED.items(), ids=["whole", "in_place", "part", "replaced", "method", "class"]
)
def test_what_is_compiled_is_found(build, path):
    assert compiled_part(build()) == path


@pytest.mark.filterwarnings("ignore:.*torch.jit.*:FutureWarning", "ignore:.*torch.jit.*:DeprecationWarning")
def test_a_scripted_network_is_found():
    classifier = small_classifier()
    classifier.layer3 = torch.jit.script(nn.Sequential(nn.Conv2d(12, 16, 3), nn.ReLU()))
    assert compiled_part(classifier) == "layer3"


def test_plain_networks_are_not_compiled():
    assert compiled_part(small_classifier()) is None
    assert compiled_part(small_classifier(), frozenset({"forward"})) is None


@pytest.mark.parametrize("name", ["grad", "ig", "smoothgrad", "gradcam", "lrp", "mask", "ensemble"])
@pytest.mark.parametrize("build", [in_place, one_part])
def test_maps_of_derivatives_are_refused_where_their_gradient_is_wanted(name, build):
    classifier = build()
    interpreter = BY_NAME[name].build(small_classifier())
    with pytest.raises(TypeError, match=r"compiled.*_orig_mod"):
        interpreter(classifier, IMAGES.clone().requires_grad_(), TARGET)


@pytest.mark.parametrize("name", ["grad", "ig", "gradcam", "cam"])
def test_maps_that_are_only_shown_are_the_plain_networks(name):
    interpreter = BY_NAME[name].build(small_classifier())
    expected = interpreter.explain(small_classifier(), IMAGES, TARGET).attribution_map
    found = interpreter.explain(one_part(), IMAGES, TARGET).attribution_map
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)


def test_an_attack_that_takes_first_derivatives_is_right():
    plain, compiled, images = small_classifier(), one_part(), lattice_images(2)
    target_class = other_class(plain, images)
    found = adv2(compiled, CAM(), images, target_class)
    expected = adv2(plain, CAM(), images, target_class)
    assert torch.equal(found.success, expected.success)
    torch.testing.assert_close(found.attribution_map, expected.attribution_map, atol=0.05, rtol=0)


def test_an_attack_on_a_map_of_derivatives_is_refused_by_name():
    with pytest.raises(TypeError, match="its part 'layer2' is compiled"):
        adv2(one_part(), BY_NAME["grad"].build(small_classifier()), IMAGES, TARGET)
