"""How much memory an image takes in each attack, and how many fit."""

from __future__ import annotations

import resource
import subprocess
import sys

import torch

from benchmarks.options import Options
from benchmarks.pairing import Row
from benchmarks.victims import Victim, imagenet
from lightning_adv2.attacks import (
    AcceleratedCopy,
    Stage,
    adv2_attack,
    adv2_mask,
    make_accelerated_copy,
    pgd,
    run_attack,
)
from lightning_adv2.attacks.footprint import step_bytes
from lightning_adv2.evaluation.batch_size import SHARE, free_memory
from lightning_adv2.interpreters import CAM, MASK, GradCAM, Gradient, IntegratedGradients, Interpreter, SmoothGrad

SIDE = 224
MEASURED = ("PGD", "CAM", "RTS, own encoder", "GRAD")
MIB = 2**20


def interpreters(victim: Victim) -> dict[str, Interpreter | None]:
    """By name; None for PGD."""
    return {
        "PGD": None, "CAM": CAM(), "Grad-CAM": GradCAM(), "RTS, shared encoder": victim.rts,
        "RTS, own encoder": victim.rts_own_encoder, "GRAD": Gradient(), "Integrated Gradients": IntegratedGradients(),
        "SmoothGrad": SmoothGrad(), "MASK": MASK(),
    }  # fmt: skip


def run(options: Options) -> list[Row]:
    """A row per interpreter: the graph's bytes, what a larger batch really took, and the batch that ``auto`` takes."""
    rows, free = [], free_memory(options.device)
    victim = imagenet(1, torch.device("cpu"), options.data, 64 if options.quick else SIDE)
    shown = {**interpreters(victim), "MASK, paper": MASK(), "MASK, paper, recomputed": MASK()}
    for name, interpreter in shown.items():
        if options.quick and "MASK" in name:
            continue  # a minute each
        attack = pgd() if interpreter is None else adv2_attack(interpreter)
        if "paper" in name:
            attack = adv2_mask("paper", checkpoint="recomputed" in name)
        plain = step_bytes(attack, AcceleratedCopy(victim.classifier, interpreter), victim.images[0])
        folded = step_bytes(
            attack, make_accelerated_copy(victim.classifier, interpreter, victim.images), victim.images[0]
        )
        least, most = 16, 40  # enough to be seen beside the networks and their copies
        measured = None
        if not options.quick and name in MEASURED:
            peaks = [_peak(options, name, count) for count in (least, most)]
            measured = (peaks[1] - peaks[0]) / (most - least)
        rows.append({
            "case": f"{victim.classifier.name}, {victim.images.shape[-1]} px", "what": name,
            "graph MiB": folded / MIB, "graph MiB, plain": plain / MIB,
            "measured MiB": "" if measured is None else measured / MIB, "fit": int(SHARE * free / folded),
            "free GiB": free / 2**30,
        })  # fmt: skip
    return rows


def _peak(options: Options, name: str, count: int) -> int:
    """Peak bytes of a process that attacks so many images at once: its own, for a peak never falls."""
    command = [sys.executable, "-m", "benchmarks.memory", name, str(count), str(options.device), str(options.data)]
    return int(subprocess.run(command, check=True, capture_output=True, text=True).stdout.splitlines()[-1])


def _attack(name: str, count: int, device: torch.device, options: Options) -> int:
    victim = imagenet(count, device, options.data)
    interpreter = interpreters(victim)[name]
    attack = pgd() if interpreter is None else adv2_attack(interpreter)
    short = attack.staged([Stage(attack.stages[-1].step, 2)])
    accelerated = make_accelerated_copy(victim.classifier, interpreter, victim.images)
    target_map = None
    if interpreter is not None:
        target_map = interpreter.explain(victim.classifier, victim.images, victim.target_class).attribution_map
    run_attack(
        short, victim.classifier, interpreter, victim.images, victim.target_class, target_map, accelerated=accelerated
    )
    if device.type == "cuda":
        return int(torch.cuda.max_memory_allocated(device))
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


if __name__ == "__main__":
    from pathlib import Path

    where = torch.device(sys.argv[3])
    print(_attack(sys.argv[1], int(sys.argv[2]), where, Options(where, Path(sys.argv[4]))))
