"""Started by the tests, in a terminal or a pipe: an evaluation with Lightning's rich bar."""

from __future__ import annotations

import sys
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).parents[1]))

from lab import attack_data, idls, trainer
from pytorch_lightning.callbacks import RichProgressBar

from lightning_adv2.attacks import adv2_cam, pgd
from lightning_adv2.evaluation import AttackEvaluation, progress

if __name__ == "__main__":
    torch.set_num_threads(1)
    progress.LINE_SECONDS = float(sys.argv[2])
    attacks = AttackEvaluation([pgd(steps=25), adv2_cam(steps=25)])
    quiet = sys.argv[3:] == ["quiet"]
    bars = [] if quiet else [RichProgressBar()]
    loop = trainer(Path(sys.argv[1]), attacks, *bars, enable_progress_bar=not quiet)
    print("begin", flush=True)
    loop.test(idls("cam"), attack_data(num_images=12), verbose=False)
