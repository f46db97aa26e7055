"""What an attack of ``cases.ATTACKS`` is tried on."""

from __future__ import annotations

import torch
from cases import BY_NAME, AttackCase, lattice_images, other_class, small_classifier
from torch import Tensor

from lightning_adv2.attacks import AcceleratedCopy, Attack, AttackResult, run_attack
from lightning_adv2.functional.random import image_generators
from lightning_adv2.interpreters import Interpreter
from lightning_adv2.models import Classifier

NAMES = list("abcde")


class Setting:
    """A victim, five images and all that an attack needs."""

    def __init__(self, case: AttackCase, dtype: torch.dtype = torch.float64, high: int = 255) -> None:
        self.classifier: Classifier = small_classifier(dtype=dtype)
        self.images = lattice_images(len(NAMES), seed=8, dtype=dtype, high=high)
        self.target_class = other_class(self.classifier, self.images)
        self.interpreter: Interpreter | None = None
        self.target_map: Tensor | None = None
        if case.interpreter is not None:
            self.interpreter = BY_NAME[case.interpreter].build(self.classifier)
            seen = (self.target_class - 1) % self.classifier.num_classes
            self.target_map = self.interpreter.explain(self.classifier, self.images, seen).attribution_map

    def run(
        self, attack: Attack, which: list[int] | None = None, accelerated: AcceleratedCopy | None = None
    ) -> AttackResult:
        index = torch.tensor(which if which is not None else range(len(NAMES)))
        return run_attack(
            attack,
            self.classifier,
            self.interpreter,
            self.images[index],
            self.target_class[index],
            None if self.target_map is None else self.target_map[index],
            generators=image_generators(0, [NAMES[i] for i in index], "attack"),
            accelerated=accelerated,
        )
