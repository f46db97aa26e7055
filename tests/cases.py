"""The case tables: a new interpreter or attack gets one row here, and with it every contract test."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torchvision.models import VisionTransformer
from toys import search

from lightning_adv2.attacks import (
    Attack,
    Pixels,
    Spatial,
    Stage,
    adv2_cam,
    adv2_ensemble,
    adv2_grad,
    adv2_rts,
    pgd,
    stadv,
)
from lightning_adv2.attacks.presets import Schedule
from lightning_adv2.attacks.presets_mask import adv2_mask
from lightning_adv2.interpreters import (
    CAM,
    LRP,
    MASK,
    RTS,
    Attention,
    Ensemble,
    GradCAM,
    Gradient,
    IntegratedGradients,
    Interpreter,
    SmoothGrad,
    Student,
)
from lightning_adv2.models import Classifier, PaperReLU, ResidualClassifier, Softplus, Surrogate, ViTClassifier

NUM_CLASSES = 4
SIDE = 16


def randomize_(module: nn.Module, generator: torch.Generator) -> None:
    """Give BatchNorm statistics and an affine part as if trained: at its initial values it hides mistakes."""
    with torch.no_grad():
        for m in module.modules():
            if isinstance(m, nn.BatchNorm2d):
                assert m.running_mean is not None
                assert m.running_var is not None
                m.running_mean.copy_(0.3 * torch.randn(m.num_features, generator=generator))
                m.running_var.copy_(0.3 + torch.rand(m.num_features, generator=generator))
                m.weight.copy_(0.7 + 0.6 * torch.rand(m.num_features, generator=generator))
                m.bias.copy_(0.3 * torch.randn(m.num_features, generator=generator))


def small_classifier(seed: int = 0, num_classes: int = NUM_CLASSES, dtype: torch.dtype = torch.float32) -> Classifier:
    """A random network that runs in a millisecond, sensitive enough for an attack to have something to do."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        classifier = ResidualClassifier(num_classes=num_classes, widths=(8, 12, 16), blocks=1)
    generator = torch.Generator().manual_seed(seed)
    randomize_(classifier, generator)
    with torch.no_grad():
        # Globally pooled features of random networks differ little between images: spread the logits.
        classifier.linear.weight.mul_(40)
        probe = torch.rand(64, 3, SIDE, SIDE, generator=generator)
        classifier.linear.bias.sub_(classifier(probe).mean(0))
    return classifier.to(dtype).eval()


def small_vit(
    seed: int = 0, num_classes: int = NUM_CLASSES, dtype: torch.dtype = torch.float32, side: int = SIDE
) -> ViTClassifier:
    """A random vision transformer of two blocks, 4 x 4 patches and spread logits."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        network = VisionTransformer(side, side // 4, 2, 2, 16, 24, num_classes=num_classes)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        # As initialised the class token and the head are zero, and the attention nearly uniform.
        for parameter in network.parameters():
            parameter.add_(0.3 * torch.randn(parameter.shape, generator=generator))
    return ViTClassifier("vit_tiny", num_classes=num_classes, network=network).to(dtype).eval()


def lattice_images(
    count: int, seed: int = 0, side: int = SIDE, dtype: torch.dtype = torch.float32, high: int = 255
) -> Tensor:
    """Smooth random images on the 8-bit lattice, with pixels at both ends of the range; ``high`` makes dark ones."""
    generator = torch.Generator().manual_seed(seed)
    coarse = torch.rand(count, 3, 4, 4, generator=generator)
    images = nn.functional.interpolate(coarse, size=(side, side), mode="bicubic", align_corners=False)
    images = (images + 0.1 * torch.randn(images.shape, generator=generator)) * high / 255
    return ((images.clamp(0, high / 255) * 255).round().to(dtype)) / 255


def other_class(classifier: Classifier, images: Tensor) -> Tensor:
    """For every image a class that the classifier does not see in it."""
    with torch.no_grad():
        return (classifier(images).argmax(1) + 1) % classifier.num_classes


@dataclass(frozen=True)
class InterpreterCase:
    """A row per interpreter.

    Attributes:
        name: for the test's id.
        build: takes the classifier explained.
        surrogates: with which smooth ReLU the gradient of the map is claimed to be right; None is the plain network.
        map_side: side of the map for an image's side.
        attack: its ready joint attack, as in ``ATTACKS``.
        classifier: builds the network explained, from keywords ``seed`` and ``dtype``.
    """

    name: str
    build: Callable[[Classifier], Interpreter]
    surrogates: tuple[Surrogate | None, ...]
    map_side: Callable[[int], int]
    attack: Callable[..., Attack]
    classifier: Callable[..., Classifier] = small_classifier


def build_rts(classifier: Classifier) -> RTS:
    """RTS with a random decoder in the classifier's precision; its encoder is another network of the same classes."""
    dtype = next(classifier.parameters()).dtype
    encoder = small_classifier(seed=7, num_classes=classifier.num_classes)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(11)
        rts = RTS(encoder, map_stride=2, width=6)
    generator = torch.Generator().manual_seed(12)
    for part in (rts.network.upsample, rts.network.reduce):
        randomize_(part, generator)
    with torch.no_grad():
        # As initialised all classes gate the features alike: an untrained selector.
        rts.network.embedding.weight.normal_(generator=generator)
        rts.network.output.weight.sub_(rts.network.output.weight.mean(1, keepdim=True))
        assert rts.network.output.bias is not None
        rts.network.output.bias.zero_()
    return rts.to(dtype).eval()


def build_student(classifier: Classifier) -> Student:
    """A student with a random head in the classifier's precision; its encoder is another network for the classes."""
    encoder = small_classifier(seed=7, num_classes=classifier.num_classes)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(11)
        student = Student(encoder, map_stride=2, width=6)
    with torch.no_grad():
        # As initialised the maps are all but constant.
        student.network.output.weight.mul_(4)
    return student.to(next(classifier.parameters()).dtype).eval()


def attack_many_gradients(schedule: Schedule = "fast", **options: Any) -> Attack:
    """The joint attack on maps that are means of many gradients: 50 fast steps."""
    return adv2_grad(schedule, **({"steps": 50} if schedule == "fast" else {}) | options)


def attack_ensemble(schedule: Schedule = "fast", **options: Any) -> Attack:
    """The joint attack on an ensemble with a gradient in it."""
    return adv2_ensemble(schedule, surrogate=PaperReLU() if schedule == "paper" else Softplus(), **options)


# Their derivative is exact, so that finite differences can judge what is made of it; a relative one holds the scale.
SMOOTH = PaperReLU(relative=False), Softplus(50.0, relative=False)

INTERPRETERS = (
    InterpreterCase("grad", lambda classifier: Gradient(pool=2), SMOOTH, lambda side: side // 2, adv2_grad),
    InterpreterCase("cam", lambda classifier: CAM(), (None, SMOOTH[1]), lambda side: side // 4, adv2_cam),
    InterpreterCase("rts", build_rts, (None,), lambda side: side // 2, adv2_rts),
    InterpreterCase("student", build_student, (None,), lambda side: side // 2, adv2_rts),
    InterpreterCase(
        "ig",
        lambda classifier: IntegratedGradients(steps=3, pool=2),
        (None, *SMOOTH),
        lambda side: side // 2,
        attack_many_gradients,
    ),
    InterpreterCase(
        "smoothgrad",
        lambda classifier: SmoothGrad(samples=2, pool=2),
        SMOOTH,
        lambda side: side // 2,
        attack_many_gradients,
    ),
    InterpreterCase("gradcam", lambda classifier: GradCAM(), (None, SMOOTH[1]), lambda side: side // 4, adv2_cam),
    InterpreterCase(
        "ensemble",
        lambda classifier: Ensemble([Gradient(pool=2), CAM()]),
        SMOOTH,
        lambda side: side // 2,
        attack_ensemble,
    ),
    InterpreterCase("lrp", lambda classifier: LRP(pool=2), (None, SMOOTH[0]), lambda side: side // 2, adv2_cam),
    InterpreterCase(
        "mask",
        lambda classifier: MASK(iterations=6, start=0.5),
        (None, SMOOTH[1]),
        lambda side: side // 4,
        adv2_mask,
    ),
)
# What only a transformer has; apart, because the rows above serve tests that take a small CNN.
VIT_INTERPRETERS = (
    InterpreterCase(
        "attention", lambda classifier: Attention(), (None,), lambda side: side // 4, adv2_cam, classifier=small_vit
    ),
    InterpreterCase(
        "grad-vit",
        lambda classifier: Gradient(pool=2),
        (None,),
        lambda side: side // 2,
        adv2_grad,
        classifier=small_vit,
    ),
)
BY_NAME = {case.name: case for case in INTERPRETERS}


@dataclass(frozen=True)
class AttackCase:
    """A row per attack preset.

    Attributes:
        name: for the test's id.
        build: keyword ``epsilon`` -> the attack, at its full number of steps.
        interpreter: the interpreter that it is made for, by name; None where it ignores the map.
        spatial: it moves pixels about, and so has no epsilon.
    """

    name: str
    build: Callable[..., Attack]
    interpreter: str | None
    spatial: bool = False

    def short(self, steps_per_stage: int = 4, epsilon: float = 0.031) -> Attack:
        """The same attack with few steps in each of its stages, so that the contract tests take seconds."""
        full = self.build(epsilon=epsilon)
        stages = [Stage(stage.step, min(stage.steps, steps_per_stage)) for stage in full.stages]
        return Attack(full.name, full.schedule, full.perturbation, stages, full.min_confidence)


JOINT = (
    ("grad", adv2_grad),
    ("cam", adv2_cam),
    ("rts", adv2_rts),
    ("student", adv2_rts),
    ("ensemble", attack_ensemble),
    ("mask", adv2_mask),
)
SCHEDULES = ("fast", "paper")

ATTACKS = (
    AttackCase("search", lambda epsilon: search(epsilon=epsilon), "cam"),
    *(AttackCase(f"pgd-{s}", lambda epsilon, s=s: pgd(s, epsilon=epsilon), None) for s in SCHEDULES),
    *(AttackCase(f"stadv-{s}", lambda epsilon, s=s: stadv(s), None, spatial=True) for s in SCHEDULES),
    *(
        AttackCase(f"adv2_{name}-{s}", lambda epsilon, p=p, s=s: p(s, threat_model=Pixels(epsilon)), name)
        for name, p in JOINT
        for s in SCHEDULES
    ),
    *(
        AttackCase(f"stadv_{name}-{s}", lambda epsilon, p=p, s=s: p(s, threat_model=Spatial()), name, spatial=True)
        for name, p in JOINT
        for s in SCHEDULES
    ),
)
