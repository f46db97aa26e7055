"""Started by test_localization.py: the same localisation study on 1 or 2 processes."""

from __future__ import annotations

import sys
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).parents[1]))

from lab import attack_data, idls, trainer

from lightning_adv2.studies import LocalizationEvaluation

if __name__ == "__main__":
    torch.set_num_threads(1)  # the order of a sum depends on the number of threads
    folder, devices = Path(sys.argv[1]), int(sys.argv[2])
    study = LocalizationEvaluation(examples=3)
    run = trainer(folder, study, devices=devices, strategy="ddp" if devices > 1 else "auto")
    run.test(idls("cam", "grad"), attack_data(), verbose=False)
    (folder / f"rows_{run.global_rank}.txt").write_text(repr(study.rows))
