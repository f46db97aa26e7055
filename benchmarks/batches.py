"""Whether larger batches are faster, and what larger images cost."""

from __future__ import annotations

import torch

from benchmarks.options import Options
from benchmarks.pairing import Row, seconds
from benchmarks.victims import Victim, cifar, imagenet
from lightning_adv2.attacks import Stage, adv2_cam, make_accelerated_copy, run_attack
from lightning_adv2.interpreters import CAM

STEPS = 10


def run(options: Options) -> list[Row]:
    """A row per batch size and image size: ADV2 on CAM, the milliseconds of an image's step."""
    cuda = options.device.type == "cuda"
    batches = (1, 2) if options.quick else (1, 4, 16, 64, 128, 512) if cuda else (1, 4, 16, 64, 128)
    sides = (64,) if options.quick else (64, 112, 224, 448) if cuda else (64, 112, 224)
    small = [cifar(options.data, batch, options.device) for batch in batches]
    large = [imagenet(32 if cuda else 2, options.device, options.data, side) for side in sides]
    return [_row(victim, options.device) for victim in [*small, *large]]


def _row(victim: Victim, device: torch.device) -> Row:
    full = adv2_cam()
    attack = full.staged([Stage(full.stages[-1].step, STEPS)])
    cam = CAM()
    target_map = cam.explain(victim.classifier, victim.images, victim.target_class).attribution_map
    accelerated = make_accelerated_copy(victim.classifier, cam, victim.images)
    given = victim.classifier, cam, victim.images, victim.target_class, target_map

    def attacked() -> None:
        run_attack(attack, *given, accelerated=accelerated)

    attacked()
    times = sorted(seconds(attacked, device) for _ in range(3))
    return {"case": victim.name, "what": attack.name, "ms": times[1] / STEPS / len(victim.images) * 1000}
