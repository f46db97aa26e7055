"""``python -m benchmarks.verifying``: seconds of verify against the number of images, on small records made up.

The time per image must not grow with their number.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from pathlib import Path

import torch

from lightning_adv2.audit.verify import verify
from lightning_adv2.files.sums import write_sums
from lightning_adv2.results import AttackRecord, BatchRecord, make_stamp, write_record, write_results
from lightning_adv2.results.run import read_run
from lightning_adv2.runtime.experiment import claim

ATTACKS = (("noise", "control", 0), ("target_class", "control", 0), ("pgd", "fast", 3), ("adv2", "fast", 3))
ROLES = {"pgd": "class", "adv2": "joint"}
CLASSES = [str(index) for index in range(10)]


def make_run(folder: Path, count: int, batch_size: int = 32, side: int = 8) -> Path:
    """A finished run of two interpreters over ``count`` drawn images of ``side`` pixels, without figures."""
    names = {"cam": {}, "grad": {}}
    about = {"dataset": "drawn", "classifier": "none", "classes": CLASSES, "stage": "test", "selected": count,
             "passed_over": {}}  # fmt: skip
    experiment = claim(folder / "records", {"interpreters": names}, about)
    for start in range(0, count, batch_size):
        ids = [f"image/{index:06d}.png" for index in range(start, min(count, start + batch_size))]
        for place, name in enumerate(names):
            record = _record(start // batch_size, ids, side)
            record.interpreter, record.place, record.experiment = name, place, experiment
            write_record(record, folder / "records")
    write_results(folder, read_run(folder).summary, make_stamp())
    write_sums(folder)
    return folder


def _record(index: int, ids: list[str], side: int) -> BatchRecord:
    n, generator = len(ids), torch.Generator().manual_seed(index)
    label = torch.randint(len(CLASSES), (n,), generator=generator)
    target = (label + 1) % len(CLASSES)
    images = torch.randint(8, 248, (n, 3, side, side), generator=generator, dtype=torch.uint8)
    benign, asked = (torch.rand(n, 1, 4, 4, generator=generator) for _ in range(2))
    attacks = []
    for name, schedule, steps in ATTACKS:
        clean = name == "target_class"
        adv = images if clean else images + torch.randint(0, 8, images.shape, generator=generator, dtype=torch.uint8)
        adv_map = torch.rand(n, 1, 4, 4, generator=generator)
        record = AttackRecord(
            name, schedule, steps, 0.5, role=ROLES.get(name, "control"), threat_model="none" if clean else "linf",
            adv_images=adv, adv_map=asked if clean else adv_map,
            adv_predicted=label if schedule == "control" else target,
            confidence=torch.full((n,), 0.05 if schedule == "control" else 0.95),
            valid=torch.ones(n, dtype=torch.bool),
            size=(adv.int() - images.int()).abs().flatten(1).amax(1) / 255,
            steps_taken=torch.full((n,), steps),
            adv_map_true_class=benign if clean else adv_map, adv_map_target_class=asked if clean else adv_map,
            epsilon=0.0 if clean else 0.031,
        )  # fmt: skip
        if name == "adv2":
            keys = ("confidence", "success", "l1", "iou")
            record.trace = {key: torch.ones(steps, n) for key in keys}
        attacks.append(record)
    return BatchRecord(
        index, ids, label=label, target_class=target, images=images, benign_map=benign, target_map=benign.clone(),
        already_wrong=[], attacks=attacks, benign_map_target_class=asked,
        interpreter="",
    )  # fmt: skip


def seconds_of(run: Path) -> float:
    """How long verify takes.

    Raises:
        RuntimeError: it finds something wrong.
    """
    start = time.process_time()
    found, _ = verify(run)
    if found:
        raise RuntimeError(found[0])
    return time.process_time() - start


def main() -> None:
    """A line for each number of images."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.verifying", description=__doc__)
    parser.add_argument("counts", nargs="*", type=int, default=[1000, 4000, 16000])
    for count in parser.parse_args().counts:
        with tempfile.TemporaryDirectory() as folder:
            seconds = seconds_of(make_run(Path(folder), count))
            print(f"{count:6d} images: {seconds:6.2f} s of CPU, {1000 * seconds / count:.2f} ms an image", flush=True)


if __name__ == "__main__":
    main()
