"""Started by test_noise.py: the same noise and transfer studies on 1, 2 or 3 processes."""

from __future__ import annotations

import sys
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).parents[1]))

from lab import attack_data, idls, short_attacks, trainer

from lightning_adv2.evaluation import AttackEvaluation
from lightning_adv2.studies import NoiseEvaluation, TransferEvaluation

if __name__ == "__main__":
    torch.set_num_threads(1)  # the order of a sum depends on the number of threads
    folder, devices = Path(sys.argv[1]), int(sys.argv[2])
    strategy = "ddp" if devices > 1 else "auto"
    noise, transfer = NoiseEvaluation(), TransferEvaluation()
    callbacks = AttackEvaluation(short_attacks("grad")), noise, transfer
    run = trainer(folder / "all", *callbacks, devices=devices, strategy=strategy)
    run.test(idls("cam", "grad", "rts"), attack_data(), verbose=False)
    (folder / f"rows_{run.global_rank}.txt").write_text(repr((noise.findings, transfer.rows)))
    few = NoiseEvaluation(max_images=5)
    run = trainer(folder / "five", few, devices=devices, strategy=strategy)
    run.test(idls("cam"), attack_data(), verbose=False)
