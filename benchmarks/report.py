"""``python -m benchmarks.report``: what the report of an evaluation takes, whatever the number of its images.

Records are drawn at random: maps of 112 px as GRAD's are, three attacks, five images to a record of 3.8 MB. Of each
size a process of its own writes the report as an evaluation's end does (tables, figures, page), and another one the
page as ``lightning-adv2 report RUN`` does; each tells its peak resident memory, and its CPU seconds without those of
its imports.
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import tempfile
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from lightning_adv2.report.compare import report
from lightning_adv2.report.finish import finish
from lightning_adv2.report.run_report import write_report
from lightning_adv2.results import AttackRecord, BatchRecord, make_stamp, write_record
from lightning_adv2.results.run import read_run
from lightning_adv2.runtime.experiment import claim

SIDE, STEPS, BATCH = 112, 100, 5
_ATTACKS = (("noise", "control", 0), ("pgd", "fast", STEPS), ("adv2", "fast", STEPS))
_ROLES = {"pgd": "class", "adv2": "joint"}


def draw(index: int, count: int) -> BatchRecord:
    """A record of so many random images, of which PGD and ADV2 fool nine in ten."""
    generator = torch.Generator().manual_seed(index)

    def maps() -> torch.Tensor:
        return torch.rand(count, 1, SIDE, SIDE, generator=generator)

    def classes() -> torch.Tensor:
        return torch.randint(1000, (count,), generator=generator)

    label, target_class = classes(), classes()
    images = torch.randint(256, (count, 3, SIDE, SIDE), generator=generator, dtype=torch.uint8)
    benign_map, attacks = maps(), []
    for name, schedule, steps in _ATTACKS:
        shift = torch.randint(-7, 8, images.shape, generator=generator)
        fooled = torch.rand(count, generator=generator) < (0.9 if steps else 0.0)
        curves = ("confidence", "success", "l1", "iou") if name == "adv2" else ()
        attacks.append(
            AttackRecord(
                name, schedule, steps, 1.0, role=_ROLES.get(name, "control"), threat_model="linf",
                adv_images=(images + shift).clamp(0, 255).to(torch.uint8), adv_map=maps(),
                adv_predicted=torch.where(fooled, target_class, label),
                confidence=torch.rand(count, generator=generator), valid=torch.ones(count, dtype=torch.bool),
                trace={n: torch.rand(steps, count, generator=generator) for n in curves},
                size=torch.full((count,), 7 / 255), steps_taken=torch.full((count,), steps),
                adv_map_true_class=maps(), adv_map_target_class=maps(),
            )
        )  # fmt: skip
    return BatchRecord(
        index, [f"image_{index * BATCH + i:06d}" for i in range(count)], label=label,
        target_class=target_class, images=images, benign_map=benign_map, target_map=benign_map.clone(),
        already_wrong=[], attacks=attacks, benign_map_target_class=maps(), interpreter="grad",
    )  # fmt: skip


def make(folder: Path, images: int) -> None:
    """A run's folder with as many images."""
    about = {"dataset": "random", "classifier": "none", "classes": [f"class {i}" for i in range(1000)], "stage": "test",
             "selected": images, "passed_over": {}}  # fmt: skip
    experiment = claim(folder / "records", {"interpreters": {"grad": {}}}, about)
    for index in range(images // BATCH):
        write_record(replace(draw(index, BATCH), experiment=experiment), folder / "records")


def end(folder: Path) -> None:
    """What an evaluation does once its last record is there."""
    run = read_run(folder)
    write_report(run, make_stamp())
    assert finish(run)


def work(name: str, folder: Path) -> None:
    """One part, and what it took."""
    imports, start = time.process_time(), time.perf_counter()
    if name == "end":
        end(folder)
    elif name == "report":
        report([folder])
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    cpu = time.process_time()
    found = {"part": name, "peak MB": peak, "CPU s": cpu - imports, "imports' CPU s": imports}
    print(json.dumps(found | {"wall s": time.perf_counter() - start}))


def main() -> None:
    """Measure all sizes and write JSON."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.report", description=__doc__)
    parser.add_argument("--sizes", type=int, nargs="+", default=[100, 1000, 10_000], help="images")
    parser.add_argument("--folder", type=Path, help="where records lie for the while: 0.8 GB for 1,000 images")
    parser.add_argument("--output", type=Path, default=Path(__file__).parent / "results")
    parser.add_argument("--worker", nargs=2, help=argparse.SUPPRESS)
    options = parser.parse_args()
    torch.set_num_threads(1)
    if options.worker is not None:
        work(options.worker[0], Path(options.worker[1]))
        return
    rows: list[dict[str, Any]] = []
    for images in options.sizes:
        with tempfile.TemporaryDirectory(dir=options.folder) as temporary:
            folder = Path(temporary) / "run"
            make(folder, images)
            size = sum(path.stat().st_size for path in folder.rglob("*.safetensors"))
            for part in ("imports alone", "end", "report"):
                command = [sys.executable, "-m", "benchmarks.report", "--worker", part, str(folder)]
                done = subprocess.run(command, capture_output=True, text=True, check=True)
                row = json.loads(done.stdout.splitlines()[-1])
                rows.append({"images": images, "records' GB": size / 1e9, **row})
                print(json.dumps(rows[-1]), flush=True)
    options.output.mkdir(parents=True, exist_ok=True)
    content = {"stamp": make_stamp(), "rows": rows}
    (options.output / "report.json").write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
