"""Whether steps get slower: a fooled classifier's gradients run into denormal numbers, and a CPU into the mud."""

from __future__ import annotations

import statistics
import time
from itertools import pairwise

from benchmarks.options import Options
from benchmarks.pairing import Row
from benchmarks.victims import cifar
from lightning_adv2.attacks import adv2_cam, make_accelerated_copy, pgd, run_attack
from lightning_adv2.interpreters import CAM

STEPS, WINDOW = 1000, 50


def run(options: Options) -> list[Row]:
    """The last fifty steps of a thousand against the first."""
    steps = 2 * WINDOW if options.quick else STEPS
    victim = cifar(options.data, 8, options.device)
    cam = CAM()
    target_map = cam.explain(victim.classifier, victim.images, victim.target_class).attribution_map
    rows = []
    for name, interpreter, attack in (
        ("PGD, paper", None, pgd("paper", steps)),
        ("ADV2, CAM, paper", cam, adv2_cam("paper", steps, warm_start=1)),
    ):
        at = [time.perf_counter()]
        run_attack(
            attack, victim.classifier, interpreter, victim.images, victim.target_class,
            None if interpreter is None else target_map, on_step=lambda done, at=at: at.append(time.perf_counter()),
            accelerated=make_accelerated_copy(victim.classifier, interpreter, victim.images),
        )  # fmt: skip
        taken = [later - earlier for earlier, later in pairwise(at)]
        first, last = statistics.median(taken[:WINDOW]), statistics.median(taken[-WINDOW:])
        for what, value in ((f"first {WINDOW} steps", first), (f"last {WINDOW} of {steps}", last)):
            rows.append({
                "case": victim.name, "what": f"{name}, {what}", "floor": f"first {WINDOW} steps",
                "ms": value / len(victim.images) * 1000, "ratio": value / first,
            })  # fmt: skip
    return rows
