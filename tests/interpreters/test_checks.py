"""Wrong arguments of an explanation, and wrong answers of networks, are refused by name."""

from __future__ import annotations

import pytest
import torch
import torchvision
from cases import BY_NAME, INTERPRETERS, lattice_images, small_classifier
from torch import Tensor, nn
from toys import LogitsAndFeatures, OneConvolution

from lightning_adv2.interpreters import CAM, MASK, Ensemble, GradCAM, Gradient, Interpreter
from lightning_adv2.models import weights_hash
from lightning_adv2.types import Interpretation

TARGET = torch.tensor([1, 0, 1, 3])
each = pytest.mark.parametrize("case", INTERPRETERS, ids=lambda case: case.name)


@each
@pytest.mark.parametrize("given", ["uint8", "int32", "list", "one"])
def test_indices_of_any_type_give_the_same_map(case, given):
    """Four images of four classes: a mask would fit, and another class be explained."""
    classifier, images = small_classifier(), lattice_images(4)
    interpreter, target = case.build(classifier), TARGET
    if given == "one":
        target = torch.full((4,), 3)
    asked = {"uint8": target.to(torch.uint8), "int32": target.int(), "list": target.tolist(), "one": 3}[given]
    expected = interpreter.explain(classifier, images, target).attribution_map
    assert torch.equal(interpreter.explain(classifier, images, asked).attribution_map, expected)
    assert torch.equal(interpreter(classifier, images, asked).attribution_map, expected)


def test_booleans_are_refused_everywhere():
    classifier, images = small_classifier(), lattice_images(4)
    rts = BY_NAME["rts"].build(classifier)
    for call in (
        lambda: CAM()(classifier, images, TARGET.bool()),
        lambda: CAM().explain(classifier, images, TARGET.bool()),
        lambda: rts.maps(images, TARGET.bool()),
    ):
        with pytest.raises(ValueError, match=r"class_idx.*mask"):
            call()


def test_the_entry_of_an_interpreter_is_not_overridden():
    with pytest.raises(TypeError, match=r"Other: write forward"):
        type("Other", (CAM,), {"__call__": lambda self: None})


@pytest.mark.parametrize(
    ("images", "message"),
    [
        (torch.zeros(4, 3, 16, 16, dtype=torch.uint8), r"uint8.*float\(\) / 255"),
        (torch.zeros(3, 16, 16), r"\(3, 16, 16\).*images\[None\]"),
        (255 * torch.ones(4, 3, 16, 16), r"images: values lie in \[255, 255\].*divide"),
        (torch.full((4, 3, 16, 16), -1.7), r"images: values.*normalisation"),
        (torch.zeros(4, 16, 16, 3), r"images: \(4, 16, 16, 3\).*permute\(0, 3, 1, 2\)"),
        (torch.zeros(4, 3, 16, 16, dtype=torch.float64), "images: torch.float64.*classifier.*float32"),
    ],
)
def test_images_that_do_not_fit_are_refused_by_name(images, message):
    for interpreter in (CAM(), Gradient(), MASK(iterations=1)):
        with pytest.raises(ValueError, match=message):
            interpreter.explain(small_classifier(), images, TARGET)


def test_images_of_another_kind_are_refused_by_name():
    with pytest.raises(TypeError, match=r"images: expected a tensor.*ndarray"):
        CAM().explain(small_classifier(), torch.zeros(4, 3, 16, 16).numpy(), TARGET)


def test_rounding_beyond_the_range_is_no_error_to_an_explanation_and_nan_hides_nothing():
    images = lattice_images(4).clamp(max=0.5)
    images[0, 0, 0, 0] = 1 + 1e-6
    assert CAM().explain(small_classifier(), images, TARGET).attribution_map.isfinite().all()
    images[1, 0, 0, 0], images[2, 0, 0, 0] = float("nan"), 200.0
    with pytest.raises(ValueError, match=r"200.*divide"):
        CAM().explain(small_classifier(), images, TARGET)


@pytest.mark.parametrize("wrong", [4, -1, [0, 1, 2, 300]])
def test_classes_that_there_are_not_are_refused_by_name(wrong):
    """A negative index would silently count from the last class."""
    with pytest.raises(ValueError, match=r"class_idx.*0 to 3"):
        CAM().explain(small_classifier(), lattice_images(4), wrong)


@pytest.mark.parametrize("interpreter", [CAM(), GradCAM(), Gradient(), MASK(iterations=1)], ids=lambda one: one.name)
def test_a_classifier_with_one_logit_is_refused_with_the_remedy(interpreter):
    with pytest.raises(ValueError, match=r"1 class.*zeros_like.*num_classes = 2"):
        interpreter.explain(OneConvolution(logits=1), lattice_images(2), 0)


@pytest.mark.parametrize("target", [0, 7])
def test_another_number_of_classes_than_logits_is_refused(target):
    with pytest.raises(ValueError, match=r"classifier: its logits are \(2, 4\).*num_classes is 10"):
        CAM().explain(OneConvolution(num_classes=10), lattice_images(2), target)


@pytest.mark.parametrize("interpreter", [CAM(), GradCAM(), Gradient(), MASK(iterations=1)], ids=lambda one: one.name)
def test_a_classifier_that_returns_no_tensor_is_refused(interpreter):
    with pytest.raises(TypeError, match=r"classifier: LogitsAndFeatures returns a tuple.*logits"):
        interpreter.explain(LogitsAndFeatures(), lattice_images(2), 0)


def test_another_network_than_a_classifier_is_refused_where_it_does_not_do():
    network = nn.Sequential(nn.Flatten(), nn.Linear(3 * 16 * 16, 4)).eval()
    with pytest.raises(
        TypeError, match=r"classifier: expected an instance of Classifier.*got Sequential.*forward_head"
    ):
        CAM().explain(network, lattice_images(2), 0)
    assert Gradient().explain(network, lattice_images(2), 0).attribution_map.shape == (2, 1, 8, 8)
    with pytest.raises(TypeError, match=r"classifier: got the class OneConvolution; give an instance"):
        CAM().explain(OneConvolution, lattice_images(2), 0)


class Wrong(Interpreter):
    """Returns what it was made with."""

    def __init__(self, result: object) -> None:
        super().__init__()
        self.result = result

    def forward(self, classifier, images, class_idx, state=()):
        return self.result(classifier(images))


@pytest.mark.parametrize(
    ("result", "error", "message"),
    [
        (lambda logits: (logits, logits), TypeError, "Wrong.forward returns a tuple.*Interpretation"),
        (lambda logits: None, TypeError, "Wrong.forward returns a NoneType"),
        (lambda logits: Interpretation(logits, None), TypeError, "attribution_map of Wrong is NoneType"),
        (lambda logits: Interpretation(logits, torch.ones(2, 1, 4, 4).int()), TypeError, "attribution_map.*int32"),
        (lambda logits: Interpretation(logits, torch.ones(2, 4, 4)), ValueError, r"attribution_map.*\(2, 4, 4\)"),
        (lambda logits: Interpretation(logits, torch.ones(2, 3, 4, 4)), ValueError, r"return \(2, 1, h, w\)"),
        (lambda logits: Interpretation(logits[:1], torch.ones(2, 1, 4, 4)), ValueError, r"logits are \(1, 4\)"),
        (lambda logits: Interpretation(logits.T, torch.ones(2, 1, 4, 4)), ValueError, r"logits are \(4, 2\)"),
        (lambda logits: Interpretation(logits, 1.5 * torch.ones(2, 1, 4, 4)), ValueError, r"lies in \[1.5, 1.5\]"),
        (lambda logits: Interpretation(logits, -torch.ones(2, 1, 4, 4)), ValueError, "attribution_map.*minmax"),
    ],
)
def test_an_interpreter_that_returns_something_else_is_refused_by_name(result, error, message):
    with pytest.raises(error, match=message):
        Wrong(result).explain(small_classifier(), lattice_images(2), 0)


class Drawing(nn.Module):
    """Draws in train mode, without parameters or buffers."""

    def forward(self, x: Tensor) -> Tensor:
        return x * (1 + torch.rand(len(x), 1, 1, 1)) if self.training else x


@pytest.mark.parametrize(
    "part",
    [
        nn.BatchNorm2d(6),
        nn.Dropout(0.5),
        nn.Dropout2d(0.5),
        nn.AlphaDropout(0.5),
        nn.RReLU(),
        torchvision.ops.StochasticDepth(0.5, "row"),
        torchvision.ops.DropBlock2d(0.1, 3),
        Drawing(),
    ],
    ids=lambda part: type(part).__name__,
)
def test_a_part_in_train_mode_is_refused_before_anything_changes(part):
    classifier, images = OneConvolution(middle=part), lattice_images(2)
    CAM().explain(classifier, images, 0)
    before = weights_hash(classifier)
    part.train()
    with pytest.raises(ValueError, match=r"classifier: body.1 is in train mode; call classifier.eval\(\)"):
        CAM().explain(classifier, images, 0)
    assert part.training
    assert weights_hash(classifier) == before


def test_interpreters_without_weights_may_be_in_any_mode_and_others_not():
    classifier, images = small_classifier(), lattice_images(2)
    several = Ensemble([CAM(), Gradient()]).train()
    assert several.explain(classifier, images, 0).attribution_map.isfinite().all()
    rts = BY_NAME["rts"].build(classifier)
    rts.network.train()
    before = weights_hash(rts)
    for interpreter in (rts, Ensemble([CAM(), rts])):
        with pytest.raises(ValueError, match=r"interpreter: .*network.* is in train mode"):
            interpreter.explain(classifier, images, 0)
    assert weights_hash(rts) == before


@pytest.mark.parametrize("norm", [nn.BatchNorm2d, nn.SyncBatchNorm], ids=lambda kind: kind.__name__)
def test_batch_norm_without_statistics_is_refused(norm):
    with pytest.raises(ValueError, match=f"body.1 is a {norm.__name__} without statistics"):
        CAM().explain(OneConvolution(middle=norm(6, track_running_stats=False)), lattice_images(3), 0)
    alone = nn.InstanceNorm2d(6)  # its statistics are an image's own
    assert CAM().explain(OneConvolution(middle=alone), lattice_images(3), 0).attribution_map.isfinite().all()
