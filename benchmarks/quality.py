"""What an attack reaches for how much work: IoU and ASR against gradient evaluations and seconds, on real images.

Evaluations are counted where they happen: images that pass through the classifier in the loop.
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
from matplotlib.figure import Figure
from torch import Tensor

from benchmarks.options import Options
from benchmarks.pairing import Row
from lightning_adv2.attacks import (
    ADV2,
    AcceleratedCopy,
    AttackRecipe,
    EarlyStopping,
    Spatial,
    make_accelerated_copy,
    run_attack,
)
from lightning_adv2.data import AttackDataModule, CIFAR10DataModule
from lightning_adv2.functional.agreement import map_iou, map_l1
from lightning_adv2.functional.random import image_generators
from lightning_adv2.interpreters import CAM, MASK, RTS, Gradient, Interpreter
from lightning_adv2.models import CifarResNet

RTS_WEIGHTS = Path("runs/rts_cifar10/rts.safetensors")
STOP = EarlyStopping(patience=50, tolerance=1e-3)


def run(options: Options) -> list[Row]:
    """A row per interpreter and schedule; the curves go to ``results/quality_<device>.png``."""
    root = options.data / "cifar10"
    file = str(root / "resnet20.safetensors")
    classifier = CifarResNet(20, weights=file).requires_grad_(False).to(options.device)
    data = AttackDataModule(CIFAR10DataModule(root), num_images=4 if options.quick else 128, batch_size=64)
    data.manifest_for(classifier, options.device)
    batches = [batch for batch in data.test_dataloader() if len(batch["images"])]
    rows, curves = [], {}
    for name, interpreter, recipes, count in _cases(options, file):
        interpreter.to(options.device)
        images = torch.cat([batch["images"] for batch in batches])[:count].to(options.device)
        label = torch.cat([batch["label"] for batch in batches])[:count].to(options.device)
        target_class = torch.cat([batch["target_class"] for batch in batches])[:count].to(options.device)
        target_map = interpreter.explain(classifier, images, label).attribution_map
        accelerated = make_accelerated_copy(classifier, interpreter, images)
        for schedule, recipe in recipes.items():
            row, curve = _measure(recipe, accelerated, (classifier, interpreter, images, target_class, target_map))
            rows.append({"case": name, "schedule": schedule, "images": len(images), **row})
            curves[name, schedule] = curve
            print(json.dumps(rows[-1]), flush=True)
    if not options.quick:
        path = Path(__file__).parent / "results" / f"quality_{options.device.type}.png"
        path.parent.mkdir(exist_ok=True)
        _draw(curves).savefig(path, dpi=120)
    return rows


def _cases(options: Options, weights: str) -> Iterator[tuple[str, Interpreter, dict[str, AttackRecipe], int]]:
    steps = 2 if options.quick else None

    def recipes(*, stopping: bool = True, spatial: bool = False) -> dict[str, AttackRecipe]:
        threat_model = Spatial() if spatial else None
        found: dict[str, AttackRecipe] = {"fast": ADV2("fast", steps, threat_model)}
        if not options.quick:
            found["paper"] = ADV2("paper", threat_model=threat_model)
            if stopping:
                found["paper, plateau"] = ADV2("paper", threat_model=threat_model, stop=STOP)
        return found

    yield "CAM", CAM(), recipes(), 128
    if RTS_WEIGHTS.exists():
        yield "RTS", RTS(CifarResNet(20, weights=weights), map_stride=2, weights=str(RTS_WEIGHTS)), recipes(), 128
    yield "CAM, StAdv", CAM(), recipes(spatial=True), 128
    yield "GRAD", Gradient(), recipes(), 128
    yield "MASK", MASK(), recipes(stopping=False), 8


def _measure(
    recipe: AttackRecipe, accelerated: AcceleratedCopy, victim: tuple[CifarResNet, Interpreter, Tensor, Tensor, Tensor]
) -> tuple[Row, tuple[Tensor, Tensor]]:
    classifier, interpreter, images, target_class, target_map = victim
    attack, count = recipe.against(interpreter), len(images)
    generators = image_generators(0, [str(i) for i in range(count)], "attack")
    seen: list[int] = []
    start = time.perf_counter()
    with counted(accelerated, seen):
        result = run_attack(
            attack, classifier, interpreter, images, target_class, target_map, generators=generators,
            accelerated=accelerated, on_step=lambda done: seen.append(0),
        )  # fmt: skip
    taken = time.perf_counter() - start
    iou = map_iou(result.attribution_map, target_map)  # NaN where both maps are empty
    row = {
        "evaluations": sum(seen) / count, "seconds": taken / count, "ASR": float(result.success.float().mean()),
        "confidence": float(result.confidence.mean()), "IoU": float(iou.nanmean()),
        "L1": float(map_l1(result.attribution_map, target_map).mean()),
    }  # fmt: skip
    # Evaluations so far at each step with a map, which are the last ones.
    marks = [i for i, passed in enumerate(seen) if not passed]
    done = torch.tensor([sum(seen[:mark]) for mark in marks]) / count
    iou = result.trace["iou"].mean(1).cpu()
    return row, (done[-len(iou) :], iou[: len(done)])


@contextmanager
def counted(accelerated: AcceleratedCopy, seen: list[int]) -> Iterator[None]:
    """Note how many images pass through the accelerated copy's classifier, pass by pass."""
    normalize = accelerated.classifier.normalize

    def count(images: Tensor) -> Tensor:
        seen.append(len(images))
        return normalize(images)

    accelerated.classifier.normalize = count  # type: ignore[method-assign]
    try:
        yield
    finally:
        accelerated.classifier.normalize = normalize  # type: ignore[method-assign]


def _draw(curves: dict[tuple[str, str], tuple[Tensor, Tensor]]) -> Figure:
    names = list(dict.fromkeys(name for name, _ in curves))
    figure = Figure(figsize=(3 * len(names), 3), layout="constrained")
    for place, name in enumerate(names, start=1):
        axes = figure.add_subplot(1, len(names), place)
        for schedule in dict.fromkeys(one for _, one in curves):
            if (name, schedule) in curves:
                axes.plot(*(part.numpy() for part in curves[name, schedule]), label=schedule)
        axes.set(title=name, xscale="log", ylim=(0, 1), xlabel="evaluations per image")
        if place == 1:
            axes.set_ylabel("IoU of the iterates, as the loop sees them")
            axes.legend()
    return figure
