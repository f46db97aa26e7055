"""Started by test_processes.py: the same evaluations on 1, 2 or 3 processes."""

from __future__ import annotations

import sys
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).parents[1]))

from lab import attack_data, shapes, short_attacks, trainer, untrained_rts, victim

from lightning_adv2.attacks.targets import RandomPatch
from lightning_adv2.evaluation import AttackEvaluation
from lightning_adv2.interpreters import CAM, Interpreter
from lightning_adv2.modules import IDLS
from lightning_adv2.studies import MapQualityEvaluation

if __name__ == "__main__":
    torch.set_num_threads(1)  # the order of a sum depends on the number of threads
    folder, devices = Path(sys.argv[1]), int(sys.argv[2])
    strategy = "ddp" if devices > 1 else "auto"
    for num_images in (13, 2):
        interpreter: Interpreter = CAM() if num_images == 13 else untrained_rts()
        callbacks = AttackEvaluation(short_attacks(interpreter.name), seed=1), MapQualityEvaluation(order=False)
        run = trainer(folder / str(num_images), *callbacks, devices=devices, strategy=strategy)
        run.test(IDLS(victim(), interpreter), attack_data(num_images=num_images), verbose=False)
    several = IDLS(victim(), [untrained_rts(), CAM()])
    callbacks = AttackEvaluation(short_attacks(), seed=1, target=RandomPatch()), MapQualityEvaluation(order=False)
    run = trainer(folder / "several", *callbacks, devices=devices, strategy=strategy)
    run.test(several, attack_data(num_images=5, batch_size=2), verbose=False)
    # Lightning's own sampler pads: 35 images in batches of 16 become 36 on two processes.
    padded = trainer(folder / "padded", AttackEvaluation(short_attacks()), devices=devices, strategy=strategy)
    padded.test(IDLS(victim(), CAM()), shapes(), verbose=False)
