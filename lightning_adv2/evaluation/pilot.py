"""What a step of each attack costs, tried before the first batch, so that the time left is known early."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from lightning_adv2.attacks import AcceleratedCopy, Attack, Stage, run_attack
from lightning_adv2.evaluation.pace import Seconds, parts_of
from lightning_adv2.interpreters import Interpreter
from lightning_adv2.types import Batch

_STEPS = 2  # of each stage; the first has preparations in it


def pilot(
    classifier: Any,
    plan: Sequence[tuple[Interpreter, Sequence[Attack]]],
    batch: Batch,
    accelerated: Callable[[Interpreter | None], AcceleratedCopy],
) -> Seconds:
    """The seconds that a step of each stage takes, by two steps of each; empty where they do not run.

    Nothing of it is kept, and all that an attack draws comes from generators of its own.

    Args:
        classifier: the victim.
        plan: the interpreters, each with its attacks.
        batch: what will be attacked.
        accelerated: what attacks on an interpreter, or on the classifier alone, take their gradients through.
    """
    found = Seconds()
    images, label = batch["images"], batch["label"]
    try:
        for place, (interpreter, attacks) in enumerate(plan):
            shown = interpreter.explain(classifier, images, label).attribution_map.nan_to_num(0.0)
            for attack in attacks:
                if attack.needs_map or not place:
                    _try(found, attack, classifier, interpreter, images, label, shown, accelerated)
    except (RuntimeError, MemoryError, ValueError, TypeError):
        return Seconds()  # the attack itself meets the same, halves the batch or says what is wrong
    return found


def _try(
    found: Seconds,
    attack: Attack,
    classifier: Any,
    interpreter: Interpreter,
    images: Tensor,
    label: Tensor,
    shown: Tensor,
    accelerated: Callable[[Interpreter | None], AcceleratedCopy],
) -> None:
    aims = attack.needs_map
    for stage, part in zip(attack.stages, parts_of(interpreter.name, attack), strict=False):
        short = Attack(
            attack.name, attack.schedule, attack.perturbation, [Stage(stage.step, _STEPS)], attack.min_confidence
        )
        seen: list[float] = []

        def on_step(_: int, seen: list[float] = seen) -> None:
            if images.is_cuda:
                torch.cuda.synchronize(images.device)
            seen.append(time.monotonic())

        run_attack(
            short, classifier, interpreter if aims else None, images, (label + 1) % classifier.num_classes,
            shown if aims else None, accelerated=accelerated(interpreter if aims else None), on_step=on_step,
        )  # fmt: skip
        found.add(part.name, seen[-1] - seen[0], len(seen) - 1)
