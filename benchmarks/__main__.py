"""``python -m benchmarks``: what one attack step costs, as a ratio to its floor.

The floor of a gradient attack is one forward and one backward pass to the input with frozen weights. Every round times
floor and candidates in turn, so that a slow moment of the machine hits all of them; the median of the paired ratios is
reported.
"""

from __future__ import annotations

import argparse
import json
import platform
import statistics
import time
from collections.abc import Callable
from pathlib import Path

import torch
from rich.console import Console
from rich.progress import track
from rich.table import Table

from lightning_adv2.attacks import Attack, Stage, adv2_attack, pgd, run_attack
from lightning_adv2.interpreters import CAM, RTS, Gradient, Interpreter
from lightning_adv2.models import CifarResNet, Classifier, TorchvisionClassifier

STEPS = 8


def seconds_per_step(call: Callable[[], object], device: torch.device) -> float:
    """Wall-clock seconds of one call."""
    if device.type == "cuda":
        torch.cuda.synchronize()
    start = time.perf_counter()
    call()
    if device.type == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter() - start


def candidates(
    classifier: Classifier, interpreters: list[Interpreter], images: torch.Tensor
) -> dict[str, Callable[[], object]]:
    """Floor and attacks, each as one call of ``STEPS`` steps."""
    target_class = torch.zeros(len(images), dtype=torch.int64, device=images.device)

    def floor() -> None:
        for _ in range(STEPS):
            leaf = images.clone().requires_grad_()
            torch.autograd.grad(classifier(leaf).sum(), leaf)

    def attack(chosen: Attack, interpreter: Interpreter | None) -> Callable[[], object]:
        target_map = None
        if interpreter is not None:
            target_map = interpreter.explain(classifier, images, target_class).attribution_map
        return lambda: run_attack(chosen, classifier, interpreter, images, target_class, target_map)

    calls: dict[str, Callable[[], object]] = {"floor": floor, "pgd": attack(pgd(steps=STEPS), None)}
    for interpreter in interpreters:
        chosen = adv2_attack(interpreter)
        short = Attack(chosen.name, chosen.schedule, chosen.perturbation, [Stage(chosen.stages[-1].step, STEPS)])
        calls[f"adv2 {interpreter.name}"] = attack(short, interpreter)
    return calls


def main() -> None:
    """Time everything and write JSON."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--large", action="store_true", help="also ResNet-50 at 224 px (minutes on a CPU)")
    parser.add_argument("--output", type=Path, default=Path("benchmarks/results"))
    options = parser.parse_args()
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    torch.manual_seed(0)
    small = CifarResNet(20).requires_grad_(False).to(device)
    rts = RTS(CifarResNet(20), map_stride=2).requires_grad_(False).to(device)
    images = torch.rand(64, 3, 32, 32, device=device)
    cases = {"resnet20, 32 px, batch 64": candidates(small, [CAM(), rts, Gradient()], images)}
    if options.large:
        large = TorchvisionClassifier("resnet50").requires_grad_(False).to(device)
        images = torch.rand(2, 3, 224, 224, device=device)
        cases["resnet50, 224 px, batch 2"] = candidates(large, [CAM(), Gradient()], images)
    table = Table(
        title=f"milliseconds per image and step; ratio to forward + backward ({device})", title_justify="left"
    )
    for heading in ("case", "what", "ms", "ratio (median)", "min", "max"):
        table.add_column(heading, justify="left" if heading in ("case", "what") else "right")
    results = []
    for case, calls in cases.items():
        batch = int(case.rsplit(" ", 1)[1])
        for call in calls.values():
            call()
        times: dict[str, list[float]] = {name: [] for name in calls}
        for _ in track(range(options.rounds), description=case):
            for name, call in calls.items():
                times[name].append(seconds_per_step(call, device))
        for name, values in times.items():
            ratios = [value / floor for value, floor in zip(values, times["floor"], strict=True)]
            row = {
                "case": case,
                "what": name,
                "ms_per_image_step": statistics.median(values) / STEPS / batch * 1000,
                "ratio": statistics.median(ratios),
                "ratio_min": min(ratios),
                "ratio_max": max(ratios),
            }
            results.append(row)
            shown = [f"{row[key]:.2f}" for key in ("ms_per_image_step", "ratio", "ratio_min", "ratio_max")]
            table.add_row(case, name, *shown)
    Console().print(table)
    options.output.mkdir(parents=True, exist_ok=True)
    machine = {
        "device": torch.cuda.get_device_name() if device.type == "cuda" else platform.processor() or platform.machine(),
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
        "rounds": options.rounds,
    }
    path = options.output / f"steps_{device.type}.json"
    path.write_text(json.dumps({"machine": machine, "rows": results}, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
