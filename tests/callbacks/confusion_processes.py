"""Started by test_confusion.py: the same test on several processes."""

from __future__ import annotations

import sys
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).parents[1]))

from callbacks.lab import shapes, trainer, victim
from lightning_adv2.callbacks import ConfusionMatrix
from lightning_adv2.modules import ClassifierModule

if __name__ == "__main__":
    torch.set_num_threads(1)
    folder, devices = Path(sys.argv[1]), int(sys.argv[2])
    run = trainer(folder, ConfusionMatrix(), devices=devices, strategy="ddp")
    run.test(ClassifierModule(victim()), shapes(batch_size=4), verbose=False)
