"""What rounding does to single images: the same attack with other batches, threads and kernels, in float32 and float64.

Each way of computing gives the same numbers but for their last digits. What becomes of an image is compared with the
first way, in which all images are one batch on one thread, through the copy of the victim.
"""

from __future__ import annotations

import time
from typing import NamedTuple

import torch
from torch import Tensor

from benchmarks.options import Options
from benchmarks.pairing import Row
from lightning_adv2.attacks import adv2_attack, make_accelerated_copy, pgd, run_attack
from lightning_adv2.data import AttackDataModule, CIFAR10DataModule
from lightning_adv2.functional.agreement import map_iou
from lightning_adv2.functional.random import image_generators
from lightning_adv2.interpreters import CAM, Gradient, Interpreter
from lightning_adv2.models import CifarResNet

IMAGES = 24


class Way(NamedTuple):
    """How the same is computed."""

    batch: int
    threads: int
    copy: bool


WAYS = {
    "one batch, 1 thread, copy": Way(IMAGES, 1, True),
    "batches of 1": Way(1, 1, True),
    "batches of 8": Way(8, 1, True),
    "2 threads": Way(IMAGES, 2, True),
    "3 threads": Way(IMAGES, 3, True),
    "the victim itself": Way(IMAGES, 1, False),
}


def run(options: Options) -> list[Row]:
    """A row per interpreter, attack, precision and way."""
    count = 2 if options.quick else IMAGES
    root = options.data / "cifar10"
    victim = CifarResNet(20, weights=str(root / "resnet20.safetensors")).requires_grad_(False).eval()
    data = AttackDataModule(CIFAR10DataModule(root), num_images=count, batch_size=count)
    data.manifest_for(victim, torch.device("cpu"))
    batch = next(iter(data.test_dataloader()))
    rows, threads = [], torch.get_num_threads()
    for interpreter in (CAM(), Gradient()):
        for dtype in (torch.float32, torch.float64):
            classifier = victim.to(options.device, dtype)
            images, label, target_class = (batch[key].to(options.device) for key in ("images", "label", "target_class"))
            given = (classifier, interpreter.to(options.device, dtype).eval(), images.to(dtype), label, target_class)
            found = {name: _attacked(way, *given, quick=options.quick) for name, way in WAYS.items()}
            rows += _compared(interpreter.name.upper(), str(dtype).removeprefix("torch."), found)
    torch.set_num_threads(threads)
    return rows


def _attacked(
    way: Way, classifier: CifarResNet, interpreter: Interpreter, images: Tensor, label: Tensor, target_class: Tensor,
    quick: bool,
) -> dict[str, tuple[Tensor, Tensor, float]]:  # fmt: skip
    """Of each attack the adversarial images, the maps' IoU, and seconds per image."""
    torch.set_num_threads(way.threads)
    found = {}
    for name, attack in (("PGD", pgd()), ("ADV2, fast", adv2_attack(interpreter, steps=2 if quick else None))):
        parts, start = [], time.perf_counter()
        for index in torch.arange(len(images)).split(way.batch):
            own = images[index]
            target_map = interpreter.explain(classifier, own, label[index]).attribution_map
            result = run_attack(
                attack, classifier, interpreter if attack.needs_map else None, own, target_class[index],
                target_map if attack.needs_map else None,
                generators=image_generators(0, [str(i) for i in index.tolist()], "attack"),
                accelerated=make_accelerated_copy(classifier, interpreter, own) if way.copy else None,
            )  # fmt: skip
            predicted = classifier(result.adv_images).argmax(1)
            shown = interpreter.explain(classifier, result.adv_images, predicted).attribution_map
            parts.append((result.adv_images, map_iou(shown, target_map)))
        seconds = (time.perf_counter() - start) / len(images)
        found[name] = torch.cat([one for one, _ in parts]), torch.cat([iou for _, iou in parts]), seconds
    return found


def _compared(interpreter: str, precision: str, found: dict[str, dict[str, tuple[Tensor, Tensor, float]]]) -> list[Row]:
    rows = []
    first = next(iter(found.values()))
    for attack, (images, iou, _) in first.items():
        for name, others in found.items():
            other_images, other_iou, seconds = others[attack]
            apart = (other_iou - iou).abs()
            rows.append({
                "interpreter": interpreter, "attack": attack, "precision": precision, "computed": name,
                "equal images": int((other_images == images).flatten(1).all(1).sum()), "of": len(images),
                "mean IoU": float(other_iou.nanmean()), "largest difference": float(apart.nan_to_num(0.0).max()),
                "seconds per image": seconds,
            })  # fmt: skip
    return rows
