"""Started by test_detection.py: the same detection study on 1 or 2 processes, and one that fails on rank 0."""

from __future__ import annotations

import sys
from pathlib import Path

import torch
from torch import Tensor

sys.path.insert(0, str(Path(__file__).parents[1]))

from lab import attack_data, idls, short_attacks, trainer

from lightning_adv2.attacks import pgd
from lightning_adv2.detectors import LID, Detector, FeatureSqueezing
from lightning_adv2.evaluation import AttackEvaluation
from lightning_adv2.functional.squeeze import MedianFilter
from lightning_adv2.interpreters import Interpreter
from lightning_adv2.models import Classifier
from lightning_adv2.studies.detection import DetectionEvaluation


class Broken(Detector):
    """Fails, and only the process that computes can know."""

    name = "broken"

    def score(self, classifier: Classifier, interpreter: Interpreter, images: Tensor) -> Tensor:
        raise ArithmeticError("broken detector")


if __name__ == "__main__":
    torch.set_num_threads(1)  # the order of a sum depends on the number of threads
    folder, devices = Path(sys.argv[1]), int(sys.argv[2])
    strategy = "ddp" if devices > 1 else "auto"
    detectors: list[Detector] = [FeatureSqueezing([MedianFilter(3)]), LID(k=4, attack=pgd(steps=3))]
    study = DetectionEvaluation(detectors, 14)
    run = trainer(folder, AttackEvaluation(short_attacks()), study, devices=devices, strategy=strategy)
    run.test(idls(), attack_data(), verbose=False)
    (folder / f"rows_{run.global_rank}.txt").write_text(repr(study.rows))
    broken = DetectionEvaluation([Broken()], 5)
    run = trainer(folder / "broken", AttackEvaluation(short_attacks()), broken, devices=devices, strategy=strategy)
    try:
        run.test(idls(), attack_data(), verbose=False)
    except ArithmeticError as error:
        (folder / f"error_{run.global_rank}.txt").write_text(str(error))
