"""Started by test_confusion.py: the same test on several processes."""

from __future__ import annotations

import re
import sys
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).parents[1]))

from lab import WIDTHS, shapes, trainer, victim

from lightning_adv2.interpreters import CAM
from lightning_adv2.models import ResidualClassifier
from lightning_adv2.modules import IDLS, ClassifierModule
from lightning_adv2.studies import ConfusionMatrix


def peak() -> float:
    """Of this process's resident memory, in MB."""
    return int(re.search(r"VmHWM:\s+(\d+)", Path("/proc/self/status").read_text())[1]) / 1024  # type: ignore[index]


if __name__ == "__main__":
    torch.set_num_threads(1)
    folder, devices = Path(sys.argv[1]), int(sys.argv[2])
    run = trainer(folder, ConfusionMatrix(), devices=devices, strategy="ddp")
    if sys.argv[3:] != ["many"]:
        run.test(ClassifierModule(victim()), shapes(batch_size=4), verbose=False)
        sys.exit()
    source = shapes(batch_size=4)
    type(source).class_titles = tuple(map(str, range(10_000)))  # type: ignore[assignment]
    module = IDLS(ResidualClassifier(num_classes=10_000, widths=WIDTHS, stem_stride=2), CAM())
    before = peak()
    run.test(module, source, verbose=False)
    (folder / f"grown_{run.global_rank}").write_text(str(peak() - before))
