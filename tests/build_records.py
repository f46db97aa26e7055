"""Records made by hand, so that every number of the tables can be worked out on paper."""

from __future__ import annotations

import torch

from lightning_adv2.results import AttackRecord, BatchRecord
from lightning_adv2.results.records import Role

NAMES = {"dataset": "drawn", "classifier": "tiny"}


def make_record(
    batch_index: int,
    image_id: list[str],
    already_wrong: list[str] | None = None,
    *,
    channels: int = 3,
    seed: int = 0,
    trace: bool = True,
    interpreter: str = "cam",
    place: int = 0,
    target: str = "benign",
) -> BatchRecord:
    """Random contents of the right shapes: pgd-fast without a trace, adv2-fast with one, and a control."""
    n, generator = len(image_id), torch.Generator().manual_seed(100 * seed + batch_index)
    more = torch.Generator().manual_seed(1000 + 100 * seed + batch_index)

    def attack(name: str, schedule: str, steps: int, role: Role) -> AttackRecord:
        shift = torch.randint(-7, 8, images.shape, generator=generator)
        adv_images = (images.int() + shift).clamp(0, 255).to(torch.uint8)
        valid = torch.ones(n, dtype=torch.bool)
        record = AttackRecord(
            name,
            schedule,
            steps,
            0.125 * (1 + batch_index),
            role=role,
            threat_model="linf",
            adv_images=adv_images,
            adv_map=torch.rand(n, 1, 4, 4, generator=generator),
            adv_predicted=torch.randint(3, (n,), generator=generator),
            confidence=torch.rand(n, generator=generator),
            valid=valid,
            size=shift.abs().flatten(1).amax(1) / 255,
            steps_taken=torch.full((n,), steps),
            adv_map_true_class=torch.rand(n, 1, 4, 4, generator=more),
            adv_map_target_class=torch.rand(n, 1, 4, 4, generator=more),
        )
        if role == "joint" and trace:
            record.trace = {
                k: torch.rand(steps, n, generator=generator) for k in ("confidence", "success", "l1", "iou")
            }
        return record

    images = torch.randint(256, (n, channels, 8, 8), generator=generator, dtype=torch.uint8)
    benign_map = torch.rand(n, 1, 4, 4, generator=generator)
    record = BatchRecord(
        batch_index,
        image_id,
        label=torch.randint(3, (n,), generator=generator),
        target_class=torch.randint(3, (n,), generator=generator),
        images=images,
        benign_map=benign_map,
        target_map=benign_map.clone(),
        already_wrong=already_wrong or [],
        attacks=[
            attack("noise", "control", 0, "control"),
            attack("pgd", "fast", 5, "class"),
            attack("adv2", "fast", 5, "joint"),
        ],
        benign_map_target_class=torch.rand(n, 1, 4, 4, generator=more),
        interpreter=interpreter,
        place=place,
        target=target,
    )
    if target != "benign":
        record.target_map = torch.rand(n, 1, 4, 4, generator=generator)
    return record
