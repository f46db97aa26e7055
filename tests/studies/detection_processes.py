"""Started by test_detection.py: the same detection study on 1 or 2 processes, and one whose detector fails."""

from __future__ import annotations

import sys
from collections.abc import Mapping
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
from lightning_adv2.results.records import BatchRecord
from lightning_adv2.results.summary import Row
from lightning_adv2.studies import DetectionEvaluation
from lightning_adv2.studies.subject import Subject


class Noted(DetectionEvaluation):
    """Notes which batches this process scores."""

    scored: list[int] = []  # noqa: RUF012

    def observe(self, batch: Mapping[str, BatchRecord], subject: Subject) -> list[Row]:
        self.scored.append(next(iter(batch.values())).batch_index)
        return super().observe(batch, subject)


class Broken(Detector):
    """Fails."""

    name = "broken"

    def score(self, classifier: Classifier, interpreter: Interpreter, images: Tensor) -> Tensor:
        raise ArithmeticError("broken detector")


if __name__ == "__main__":
    torch.set_num_threads(1)  # the order of a sum depends on the number of threads
    folder, devices = Path(sys.argv[1]), int(sys.argv[2])
    strategy = "ddp" if devices > 1 else "auto"
    detectors: list[Detector] = [FeatureSqueezing([MedianFilter(3)]), LID(k=4, attack=pgd(steps=3))]
    study = Noted(detectors, 14)
    run = trainer(folder, AttackEvaluation(short_attacks()), study, devices=devices, strategy=strategy)
    run.test(idls(), attack_data(), verbose=False)
    (folder / f"rows_{run.global_rank}.txt").write_text(repr(study.rows))
    (folder / f"scored_{run.global_rank}.txt").write_text(" ".join(map(str, study.scored)))
    broken = DetectionEvaluation([Broken()], 5)
    run = trainer(folder / "broken", AttackEvaluation(short_attacks()), broken, devices=devices, strategy=strategy)
    try:
        run.test(idls(), attack_data(), verbose=False)
    except ArithmeticError as error:
        (folder / f"error_{run.global_rank}.txt").write_text(str(error))
