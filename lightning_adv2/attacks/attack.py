"""What an attack is: what may change, how it moves, what is kept."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass

from lightning_adv2.attacks.active import EarlyStopping
from lightning_adv2.attacks.perturbation import Perturbation
from lightning_adv2.attacks.steps import Step
from lightning_adv2.interpreters import Interpreter


@dataclass(frozen=True)
class Stage:
    """``steps`` moves of one kind; the perturbation carries over from the stage before."""

    step: Step
    steps: int


class AttackRecipe(ABC):
    """What an evaluation is asked to run: an attack, or a recipe that becomes one when the interpreter is known."""

    name: str
    schedule: str
    needs_map: bool
    """Whether it aims at the map, and so needs an interpreter."""

    @abstractmethod
    def against(self, interpreter: Interpreter | None) -> Attack:
        """The attack on this interpreter's maps."""


class Attack(AttackRecipe):
    """Everything that defines an attack but the victim: what may change, how it moves, what is kept.

    Args:
        name: for tables and log keys, such as ``pgd`` or ``adv2``.
        schedule: which of its ready schedules this is, such as ``fast`` or ``paper``.
        perturbation: what may change.
        stages: run in order.
        min_confidence: an iterate counts as confident from this target probability on (the authors' 0.8).
        restarts: how often to run the stages: first from ``perturbation.init``, then from ``perturbation.restart``.
            The best run of each image counts; see :class:`~lightning_adv2.attacks.best.Best`.
        stop: when a stage leaves an image as it is, before its steps are over; None for never.
    """

    def __init__(
        self,
        name: str,
        schedule: str,
        perturbation: Perturbation,
        stages: Sequence[Stage],
        min_confidence: float = 0.8,
        restarts: int = 1,
        stop: EarlyStopping | None = None,
    ) -> None:
        if not stages or any(stage.steps < 1 for stage in stages):
            raise ValueError(f"stages={[s.steps for s in stages]}: at least one stage, each of at least one step")
        if not 0 <= min_confidence < 1:
            raise ValueError(f"min_confidence={min_confidence}: a probability, in [0, 1)")
        check_restarts(restarts)
        self.name, self.schedule = name, schedule
        self.perturbation, self.stages = perturbation, tuple(stages)
        self.min_confidence, self.restarts, self.stop = min_confidence, restarts, stop
        self.needs_map = any(stage.step.needs_map for stage in self.stages)

    def against(self, interpreter: Interpreter | None) -> Attack:
        """Itself: it is ready."""
        return self

    def staged(self, stages: Sequence[Stage]) -> Attack:
        """The same attack in other stages."""
        return Attack(
            self.name, self.schedule, self.perturbation, stages, self.min_confidence, self.restarts, self.stop
        )

    @property
    def steps(self) -> int:
        """Gradient steps per image at most, over all restarts."""
        return self.restarts * sum(stage.steps for stage in self.stages)


def check_restarts(restarts: int) -> None:
    """Raise a ValueError for less than one run."""
    if restarts < 1:
        raise ValueError(f"restarts={restarts}: how often the stages run, at least 1")
