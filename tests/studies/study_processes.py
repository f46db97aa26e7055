"""Started by test_proposition.py: the studies that read an evaluation's records, on 1 or 2 processes."""

from __future__ import annotations

import sys
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).parents[1]))

from lab import attack_data, idls, trainer

from lightning_adv2.attacks.targets import RandomPatch
from lightning_adv2.evaluation import AttackEvaluation
from lightning_adv2.studies import AttackCurves, ClassifierTransferEvaluation, GapEvaluation, PropositionEvaluation
from studies.test_classifier_transfer import second
from studies.test_curves import curve_attacks

if __name__ == "__main__":
    torch.set_num_threads(1)  # the order of a sum depends on the number of threads
    folder, devices = Path(sys.argv[1]), int(sys.argv[2])
    bound, transfer = PropositionEvaluation(steps=8), ClassifierTransferEvaluation([second()], ["other"])
    curves, gap = AttackCurves(), GapEvaluation()
    attack = AttackEvaluation(curve_attacks(), target=RandomPatch())
    strategy = "ddp" if devices > 1 else "auto"
    run = trainer(folder, attack, bound, transfer, curves, gap, devices=devices, strategy=strategy)
    run.test(idls("cam", "rts"), attack_data(), verbose=False)
    known = (bound.rows, transfer.rows, curves.rows, gap.rows)
    (folder / f"rows_{run.global_rank}.txt").write_text(repr(known))
