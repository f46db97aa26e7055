"""What a map costs, against the passes that it cannot do without, and against captum and pytorch-grad-cam."""

from __future__ import annotations

from importlib.util import find_spec
from typing import Any

import torch
from torch import Tensor

from benchmarks.options import Options
from benchmarks.pairing import Call, Row, paired
from benchmarks.victims import Victim, cifar, imagenet
from lightning_adv2.functional.attribution import integrated_gradients
from lightning_adv2.interpreters import CAM, GradCAM, Gradient, Interpreter

POINTS = 50
FORWARD, BACKWARD, INTEGRAL = "forward", "forward + backward", f"{POINTS} x (forward + backward)"


def run(options: Options) -> list[Row]:
    """A row per map and library."""
    rows = []
    rounds = 1 if options.quick else options.rounds
    for victim in (cifar(options.data, 64, options.device), imagenet(4, options.device, options.data)):
        rows += paired(victim.name, _cheap(victim), len(victim.images), rounds, options.device)
        if not options.quick:
            rows += paired(victim.name, _integral(victim), len(victim.images), max(1, rounds // 2), options.device)
    return rows


def _cheap(victim: Victim) -> dict[str, tuple[Call, str]]:
    classifier, images, target_class = victim.classifier, victim.images, victim.target_class

    def forward() -> None:
        with torch.no_grad():
            classifier(images)

    def explain(interpreter: Interpreter) -> Call:
        return lambda: interpreter.explain(classifier, images, target_class)

    calls: dict[str, tuple[Call, str]] = {
        FORWARD: (forward, FORWARD),
        BACKWARD: (lambda: _gradient(victim, images), BACKWARD),
        "CAM": (explain(CAM()), FORWARD),
        "Grad-CAM": (explain(GradCAM()), FORWARD),
        "GRAD": (explain(Gradient()), BACKWARD),
    }
    last = [m for m in classifier.modules() if isinstance(m, torch.nn.Sequential) and len(list(m.children()))][-2]
    if find_spec("captum"):
        from captum.attr import LayerGradCam, Saliency

        layer: Any = LayerGradCam(classifier, last)
        calls["Grad-CAM of captum"] = (lambda: layer.attribute(images, target_class), FORWARD)
        calls["GRAD of captum"] = (lambda: Saliency(classifier).attribute(images, target_class), BACKWARD)
    if find_spec("pytorch_grad_cam"):
        from pytorch_grad_cam import GradCAM as TheirGradCAM
        from pytorch_grad_cam.utils.model_targets import ClassifierOutputTarget

        theirs: Any = TheirGradCAM(classifier, [last])
        targets = [ClassifierOutputTarget(int(c)) for c in target_class]
        calls["Grad-CAM of pytorch-grad-cam"] = (lambda: theirs(images.clone().requires_grad_(), targets), FORWARD)
    return calls


def _integral(victim: Victim) -> dict[str, tuple[Call, str]]:
    classifier, images, target_class = victim.classifier, victim.images, victim.target_class

    def floor() -> None:
        for _ in range(POINTS):
            _gradient(victim, images)

    calls: dict[str, tuple[Call, str]] = {
        INTEGRAL: (floor, INTEGRAL),
        f"IG, {POINTS} points": (
            lambda: integrated_gradients(classifier, images, target_class, steps=POINTS),
            INTEGRAL,
        ),
    }
    if find_spec("captum"):
        from captum.attr import IntegratedGradients

        theirs: Any = IntegratedGradients(classifier)
        size = len(images)  # as many at once as we take; its default takes all points of all images at once
        calls[f"IG of captum, {size} at once"] = (
            lambda: theirs.attribute(images, target=target_class, n_steps=POINTS, internal_batch_size=size),
            INTEGRAL,
        )
    return calls


def _gradient(victim: Victim, images: Tensor) -> None:
    leaf = images.clone().requires_grad_()
    torch.autograd.grad(victim.classifier(leaf).sum(), leaf)
