"""An attack: its perturbation, its stages and its rule for the best iterate."""

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
    """``steps`` moves of one kind; the perturbation carries over from the stage before.

    Attributes:
        step: the move.
        steps: number of moves, at least 1.
    """

    step: Step
    steps: int


class AttackRecipe(ABC):
    """An attack, or a recipe that becomes one once the interpreter is known; an evaluation runs a list of recipes.

    Attributes:
        name: for tables and log keys.
        schedule: ``fast``, ``paper``, or a name of one's own.
        needs_map: whether it aims at the map, and so needs an interpreter.
    """

    name: str
    schedule: str
    needs_map: bool

    @abstractmethod
    def against(self, interpreter: Interpreter | None) -> Attack:
        """The attack on an interpreter's maps.

        Args:
            interpreter: the victim's interpreter; None for an attack that ignores the map.

        Raises:
            TypeError: ``interpreter`` is of another type.
            ValueError: the recipe does not apply to this interpreter.
        """


class Attack(AttackRecipe):
    """A complete attack without its victim: the perturbation, the moves, and the rule for the best iterate.

    Args:
        name: for tables and log keys, such as ``pgd`` or ``adv2``.
        schedule: the name of the schedule, such as ``fast`` or ``paper``.
        perturbation: what may change.
        stages: run in order, at least one.
        min_confidence: an iterate counts as confident from this target probability on, in [0, 1); the authors' 0.8.
        restarts: number of runs, at least 1: the first from ``perturbation.init``, the others from
            ``perturbation.restart``. The best run of each image counts; see :class:`~lightning_adv2.attacks.best.Best`.
        stop: when a stage stops moving an image before its steps are over; None for never.

    Raises:
        ValueError: an argument is out of its range.
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
        """The attack itself, whatever the interpreter."""
        return self

    def staged(self, stages: Sequence[Stage]) -> Attack:
        """The same attack with other stages.

        Args:
            stages: at least one.

        Raises:
            ValueError: no stages, or a stage without steps.
        """
        return Attack(
            self.name, self.schedule, self.perturbation, stages, self.min_confidence, self.restarts, self.stop
        )

    @property
    def needs_gradient(self) -> bool:
        """Whether one of its steps follows a gradient."""
        return any(stage.step.needs_gradient for stage in self.stages)

    @property
    def needs_map_gradient(self) -> bool:
        """Whether one of its steps follows the gradient of the map."""
        return any(stage.step.needs_map and stage.step.needs_gradient for stage in self.stages)

    @property
    def steps(self) -> int:
        """The number of steps per image, at most, over all restarts."""
        return self.restarts * sum(stage.steps for stage in self.stages)


def check_restarts(restarts: int) -> None:
    """Raise a ValueError for less than one run.

    Args:
        restarts: number of runs.

    Raises:
        ValueError: names the argument and its range.
    """
    if restarts < 1:
        raise ValueError(f"restarts={restarts}: how often the stages run, at least 1")
