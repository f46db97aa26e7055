"""What a step of each attack costs, tried before the first batch, so that the time left is known early."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any

import torch

from lightning_adv2.attacks import AcceleratedCopy, Attack, AttackInputs, Stage, checked_inputs, optimise
from lightning_adv2.evaluation.attack_batch import Copies
from lightning_adv2.evaluation.pace import Seconds, parts_of
from lightning_adv2.interpreters import Interpreter
from lightning_adv2.types import Batch

_STEPS = 2  # of each stage; the first has preparations in it


def pilot(
    classifier: Any,
    plan: Sequence[tuple[Interpreter, Sequence[Attack]]],
    batch: Batch,
    copies: Copies,
) -> Seconds:
    """The seconds that a step of each stage takes, by two steps of each; empty where they do not run.

    Nothing of it is kept, and all that an attack draws comes from generators of its own.

    Args:
        classifier: the victim.
        plan: the interpreters, each with its attacks.
        batch: what will be attacked.
        copies: makes the copies of the victim that the attacks take their gradients through.
    """
    found = Seconds()
    images, label = batch["images"], batch["label"]
    try:
        target_class = (label + 1) % classifier.num_classes
        for index, (interpreter, attacks) in enumerate(plan):
            shown = interpreter.explain(classifier, images, label).attribution_map.nan_to_num(0.0)
            for attack in attacks:
                if attack.needs_map:
                    inputs = checked_inputs(classifier, interpreter, images, target_class, shown)
                elif not index:
                    inputs = checked_inputs(classifier, None, images, target_class)
                else:
                    continue  # runs once for all interpreters
                _try(found, attack, inputs, interpreter.name, copies(inputs.interpreter))
    except (RuntimeError, MemoryError, ValueError, TypeError):
        return Seconds()  # the attack itself meets the same, halves the batch or says what is wrong
    return found


def _try(found: Seconds, attack: Attack, inputs: AttackInputs, name: str, accelerated: AcceleratedCopy) -> None:
    for stage, part in zip(attack.stages, parts_of(name, attack), strict=False):
        short = Attack(
            attack.name, attack.schedule, attack.perturbation, [Stage(stage.step, _STEPS)], attack.min_confidence
        )
        seen: list[float] = []

        def on_step(_: int, seen: list[float] = seen) -> None:
            if inputs.images.is_cuda:
                torch.cuda.synchronize(inputs.images.device)
            seen.append(time.monotonic())

        optimise(short, inputs, accelerated=accelerated, on_step=on_step)
        found.add(part.name, seen[-1] - seen[0], len(seen) - 1)
