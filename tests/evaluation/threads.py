"""Started by test_threads.py: one evaluation on so many processes, whose number of threads the environment decides."""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

from lab import WIDTHS, shapes, trainer

from lightning_adv2.attacks import adv2_grad, pgd
from lightning_adv2.data import AttackDataModule
from lightning_adv2.evaluation import AttackEvaluation
from lightning_adv2.interpreters import Gradient
from lightning_adv2.models import ResidualClassifier
from lightning_adv2.modules import IDLS

if __name__ == "__main__":
    folder, weights, devices, threads = Path(sys.argv[1]), sys.argv[2], int(sys.argv[3]), int(sys.argv[4]) or None
    classifier = ResidualClassifier(num_classes=7, widths=WIDTHS, stem_stride=2, weights=weights)
    evaluation = AttackEvaluation([pgd(steps=8), adv2_grad(steps=20)], seed=1, threads=threads)
    run = trainer(folder, evaluation, devices=devices, strategy="ddp" if devices > 1 else "auto")
    data = AttackDataModule(shapes(num_test=120), num_images=37, batch_size=4)
    run.test(IDLS(classifier, Gradient()), data, verbose=False)
