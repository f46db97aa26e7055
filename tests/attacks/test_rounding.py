"""How far an image's result depends on kernels and threads: stated in docs/faq.md."""

from __future__ import annotations

from typing import NamedTuple

import pytest
import torch
from lab import interpreter, test_batch, victim
from torch import Tensor

from lightning_adv2.attacks import adv2_attack, make_accelerated_copy, run_attack
from lightning_adv2.functional.agreement import map_iou
from lightning_adv2.functional.random import image_generators
from lightning_adv2.runtime.threads import computing_with

COUNT = 24


class Way(NamedTuple):
    """How the same is computed."""

    batch: int
    threads: int
    copy: bool


WAYS = [Way(1, 1, True), Way(8, 3, True), Way(COUNT, 1, False)]


def attacked(way: Way, name: str, dtype: torch.dtype) -> tuple[Tensor, Tensor, Tensor]:
    """Adversarial images, successes, and the maps' IoU."""
    network, explains, batch, parts = victim().to(dtype), interpreter(name).to(dtype).eval(), test_batch(), []
    images, label = batch["images"][:COUNT].to(dtype), batch["label"][:COUNT]
    with computing_with(way.threads):
        for index in torch.arange(COUNT).split(way.batch):
            own, generators = images[index], image_generators(0, [str(i) for i in index.tolist()], "attack")
            target_map = explains.explain(network, own, label[index]).attribution_map
            result = run_attack(
                adv2_attack(explains, steps=60), network, explains, own, (label[index] + 1) % 7, target_map,
                generators=generators, accelerated=make_accelerated_copy(network, explains, own) if way.copy else None,
            )  # fmt: skip
            parts.append((result.adv_images, result.success, map_iou(result.attribution_map, target_map)))
    images, success, iou = (torch.cat(part) for part in zip(*parts, strict=True))
    return images, success, iou


@pytest.mark.parametrize("name", ["cam", "grad"])
def test_promise_3_in_double_precision_images_do_not_depend_on_batch_threads_or_copy(name: str) -> None:
    images, success, _ = attacked(Way(COUNT, 1, True), name, torch.float64)
    for way in WAYS:
        other, also, _ = attacked(way, name, torch.float64)
        assert torch.equal(images, other), way
        assert torch.equal(success, also), way


@pytest.mark.parametrize("name", ["cam", "grad"])
def test_promise_3_in_single_precision_successes_are_the_same_and_means_are_near(name: str) -> None:
    _, success, iou = attacked(Way(COUNT, 1, True), name, torch.float32)
    for way in WAYS:
        _, also, other = attacked(way, name, torch.float32)
        assert torch.equal(success, also), way
        assert (iou - other).abs().nan_to_num(0.0).max() < 0.4, way
        assert abs(iou.nanmean() - other.nanmean()) < 0.06, way
