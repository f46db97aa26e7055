"""Started by test_resume.py, to be killed: an evaluation that notes every attack that it begins."""

from __future__ import annotations

import sys
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).parents[1]))
sys.path.insert(0, str(Path(__file__).parents[2]))

from lab import attack_data, trainer, untrained_rts, victim

from benchmarks.kills import note_attacks
from lightning_adv2.attacks import adv2_cam, adv2_mask, pgd
from lightning_adv2.evaluation import AttackEvaluation
from lightning_adv2.interpreters import CAM, MASK
from lightning_adv2.modules import IDLS
from lightning_adv2.runtime.signals import Interruption

if __name__ == "__main__":
    torch.set_num_threads(1)
    folder, devices, kind = Path(sys.argv[1]), int(sys.argv[2]), sys.argv[3]
    note_attacks(folder)
    strategy = "ddp" if devices > 1 else "auto"
    if kind == "mask":  # one batch that takes minutes
        evaluation = AttackEvaluation([adv2_mask(schedule="paper")])
        module, data = IDLS(victim(), MASK()), attack_data(num_images=4, batch_size=2)
    else:
        evaluation = AttackEvaluation([pgd(steps=150), adv2_cam(steps=100)], seed=1)
        module, data = IDLS(victim(), [CAM(), untrained_rts()]), attack_data(num_images=13, batch_size=1)
    run = trainer(folder, Interruption(), evaluation, devices=devices, strategy=strategy)
    run.test(module, data, verbose=False)
