"""What a step of an attack costs, against forward + backward through the plain network and against other toolboxes."""

from __future__ import annotations

from importlib.util import find_spec
from typing import Any

import torch
from torch import Tensor

from benchmarks.options import Options
from benchmarks.pairing import Call, Row, now, paired
from benchmarks.victims import Victim, cifar, imagenet
from lightning_adv2.attacks import Acceleration, Attack, Stage, adv2_attack, make_accelerated_copy, pgd, run_attack
from lightning_adv2.interpreters import CAM, Gradient, Interpreter

PLAIN = Acceleration(fold_batchnorm=False, channels_last=False)
FLOOR, FLOOR_RTS = "forward + backward", "forward + backward, classifier and RTS"


def run(options: Options) -> list[Row]:
    """A row per attack; ``plain`` without the fast copy of the victim."""
    rows = []
    for victim, steps, rounds in _cases(options):
        calls = _floors(victim, steps)
        for name, interpreter, floor in _interpreters(victim):
            attack = pgd() if interpreter is None else adv2_attack(interpreter)
            ways = {name: Acceleration(), f"{name}, plain": PLAIN}
            if options.device.type == "cuda":
                ways[f"{name}, bfloat16"] = Acceleration(bfloat16=True)
            if options.compile:
                ways[f"{name}, compiled"] = Acceleration(compile=True)
                if options.device.type == "cuda":
                    ways[f"{name}, bfloat16, compiled"] = Acceleration(bfloat16=True, compile=True)
            for way, acceleration in ways.items():
                if name == "ADV2, GRAD" and acceleration.compile:
                    continue  # second derivatives
                calls[way] = (_attack(victim, attack, interpreter, acceleration, steps), floor)
        calls |= _peers(victim, steps)
        rows += paired(victim.name, calls, len(victim.images) * steps, rounds, options.device)
    return rows


def _cases(options: Options) -> list[tuple[Victim, int, int]]:
    """Victim, steps per call and rounds."""
    if options.device.type == "cuda":
        sizes = (8,) if options.quick else (128, 256)
        large = [(imagenet(batch, options.device, options.data), 10, options.rounds) for batch in sizes]
        return [(cifar(options.data, 512, options.device), 20, options.rounds), *large]
    small = cifar(options.data, 64, options.device)
    if options.quick:
        return [(small, 2, 1)]
    return [(small, 10, options.rounds), (imagenet(4, options.device, options.data), 3, max(1, options.rounds // 2))]


def _interpreters(victim: Victim) -> list[tuple[str, Interpreter | None, str]]:
    return [
        ("PGD", None, FLOOR),
        ("ADV2, CAM", CAM(), FLOOR),
        ("ADV2, RTS on the classifier's features", victim.rts, FLOOR_RTS),
        ("ADV2, RTS with an encoder of its own", victim.rts_own_encoder, FLOOR_RTS),
        ("ADV2, GRAD", Gradient(), FLOOR),
    ]


def _floors(victim: Victim, steps: int) -> dict[str, tuple[Call, str]]:
    def classify() -> None:
        for _ in range(steps):
            leaf = victim.images.clone().requires_grad_()
            torch.autograd.grad(victim.classifier(leaf).sum(), leaf)

    def explain() -> None:
        for _ in range(steps):
            leaf = victim.images.clone().requires_grad_()
            maps, _, logits = victim.rts.network(leaf, victim.target_class)
            torch.autograd.grad(victim.classifier(leaf).sum() + maps.sum() + logits.sum(), leaf)

    return {FLOOR: (classify, FLOOR), FLOOR_RTS: (explain, FLOOR_RTS)}


def _attack(
    victim: Victim, attack: Attack, interpreter: Interpreter | None, acceleration: Acceleration, steps: int
) -> Call:
    """The attack's steps but for the first; the copy of the victim is made before, as in an evaluation."""
    short = attack.staged([Stage(attack.stages[-1].step, steps + 1)])
    target_map = None
    if interpreter is not None:
        target_map = interpreter.explain(victim.classifier, victim.images, victim.target_class).attribution_map
    accelerated = make_accelerated_copy(victim.classifier, interpreter, victim.images, acceleration)
    given = victim.classifier, interpreter, victim.images, victim.target_class, target_map

    def call() -> float:
        at: list[float] = []
        device = victim.images.device
        run_attack(
            short,
            *given,
            accelerated=accelerated,
            on_step=lambda k: at.append(now(device)) if k in (1, steps + 1) else None,
        )
        return at[1] - at[0]

    return call


def _peers(victim: Victim, steps: int) -> dict[str, tuple[Call, str]]:
    """PGD of other toolboxes on the same network, where they are installed.

    They ask for old versions of common packages: ``pip install --no-deps torchattacks foolbox eagerpy GitPython gitdb
    smmap``.
    """
    found: dict[str, tuple[Call, str]] = {}
    images, target_class = victim.images, victim.target_class
    if find_spec("torchattacks"):
        import torchattacks

        theirs: Any = torchattacks.PGD(victim.classifier, eps=0.031, alpha=1 / 255, steps=steps, random_start=False)
        theirs.set_mode_targeted_by_label(quiet=True)
        found["PGD of torchattacks"] = (lambda: theirs(images, target_class), FLOOR)
    if find_spec("foolbox"):
        import foolbox

        model = foolbox.PyTorchModel(victim.classifier, bounds=(0, 1), device=images.device)
        other = foolbox.attacks.LinfPGD(rel_stepsize=1 / 255 / 0.031, steps=steps, random_start=False)

        def foolbox_pgd() -> Tensor:
            clipped: Tensor = other.run(
                model, images, foolbox.criteria.TargetedMisclassification(target_class), epsilon=0.031
            )
            return clipped

        found["PGD of foolbox"] = (foolbox_pgd, FLOOR)
    return found
