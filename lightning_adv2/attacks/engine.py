"""The only attack loop: stages in order, the best iterate of each image kept, nothing in the victim changed.

Iterates of a stage without a map (PGD, a warm start) have no score and are not candidates; the last one always is.

Nothing in here uses collectives, train mode, ``.grad``, hooks or the global random numbers, so that it can be called
from a notebook, inside ``training_step`` under DDP, or from any other framework.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import torch
from torch import Generator, Tensor

from lightning_adv2.attacks.checks import check_inputs, check_victim
from lightning_adv2.attacks.objective import Problem
from lightning_adv2.attacks.perturbation import Perturbation
from lightning_adv2.attacks.steps import Step
from lightning_adv2.functional.agreement import map_iou, map_l1
from lightning_adv2.functional.losses import map_mse
from lightning_adv2.functional.random import image_generators
from lightning_adv2.interpreters import Interpreter
from lightning_adv2.models import Classifier


@dataclass(frozen=True)
class Stage:
    """``steps`` moves of one kind; the perturbation carries over from the stage before."""

    step: Step
    steps: int


class Preset(ABC):
    """What an evaluation is asked to run: an attack, or a recipe that becomes one when the interpreter is known."""

    name: str
    schedule: str
    needs_map: bool
    """Whether it aims at the map, and so needs an interpreter."""

    @abstractmethod
    def against(self, interpreter: Interpreter | None) -> Attack:
        """The attack on this interpreter's maps."""


class Attack(Preset):
    """Everything that defines an attack but the victim: what may change, how it moves, what is kept.

    Args:
        name: for tables and log keys, such as ``pgd`` or ``adv2``.
        schedule: which of its ready schedules this is, such as ``fast`` or ``paper``.
        perturbation: what may change.
        stages: run in order.
        min_confidence: an iterate counts as confident from this target probability on (the authors' 0.8).
    """

    def __init__(
        self, name: str, schedule: str, perturbation: Perturbation, stages: Sequence[Stage], min_confidence: float = 0.8
    ) -> None:
        if not stages or any(stage.steps < 1 for stage in stages):
            raise ValueError(f"stages={[s.steps for s in stages]}: at least one stage, each of at least one step")
        if not 0 <= min_confidence < 1:
            raise ValueError(f"min_confidence={min_confidence}: a probability, in [0, 1)")
        self.name, self.schedule = name, schedule
        self.perturbation, self.stages, self.min_confidence = perturbation, tuple(stages), min_confidence
        self.needs_map = any(stage.step.needs_map for stage in self.stages)

    def against(self, interpreter: Interpreter | None) -> Attack:
        """Itself: it is ready."""
        return self

    @property
    def steps(self) -> int:
        """Gradient steps per image."""
        return sum(stage.steps for stage in self.stages)


@dataclass
class AttackResult:
    """What an attack leaves, judged on the 8-bit image by the unmodified network (all but ``trace``).

    Attributes:
        adv_images: ``(B, C, H, W)``, legal and exactly storable in 8 bits.
        success: ``(B,)`` bool, classified as the target class.
        confidence: ``(B,)``, probability of the target class.
        score: ``(B,)``, l_int to the target map (0 where the attack has no map).
        attribution_map: ``(B, 1, h, w)`` for the target class; empty where the attack has no map.
        valid: ``(B,)`` bool, False where loss, gradient or result was NaN or infinite at some step.
        size: ``(B,)``, of the perturbation, in its own unit.
        steps_taken: ``(B,)`` int64.
        trace: ``confidence``, ``success``, ``l1``, ``iou``, each ``(T, B)``, as the attack saw them at each step that
            had a map: through the smooth surrogate, where it uses one.
    """

    adv_images: Tensor
    success: Tensor
    confidence: Tensor
    score: Tensor
    attribution_map: Tensor
    valid: Tensor
    size: Tensor
    steps_taken: Tensor
    trace: dict[str, Tensor] = field(default_factory=dict)


def run_attack(
    attack: Attack,
    classifier: Classifier,
    interpreter: Interpreter | None,
    images: Tensor,
    target_class: Tensor,
    target_map: Tensor | None = None,
    *,
    generators: Sequence[Generator] | None = None,
    on_step: Callable[[int], None] | None = None,
) -> AttackResult:
    """Attack a batch.

    Args:
        attack: what to do; see ``attacks.presets``.
        classifier: the victim; must be in eval mode.
        interpreter: the victim's interpreter, in eval mode; None where the attack ignores the map.
        images: ``(B, C, H, W)`` in [0, 1].
        target_class: ``(B,)`` int64 in [0, K).
        target_map: ``(B, 1, h, w)`` in [0, 1], of the interpreter's map size.
        generators: one per image; by default seeded by the position in the batch.
        on_step: called with the number of steps done, for progress bars.

    Raises:
        ValueError: shapes, ranges or modes do not fit; names the argument.
        RuntimeError: under ``torch.inference_mode``.
    """
    check_victim(classifier, interpreter)
    check_inputs(attack.name, attack.needs_map, classifier, interpreter, images, target_class, target_map)
    images, target_class = images.detach(), target_class.detach()
    target_map = None if target_map is None else target_map.detach()
    if generators is None:
        generators = image_generators(0, [str(i) for i in range(len(images))], "attack")
    problem = Problem(classifier, interpreter, images, target_class, target_map, generators)
    parameter = attack.perturbation.init(images, generators)
    best = _Best(attack.min_confidence, images, parameter, target_class, target_map)
    valid = torch.ones(len(images), dtype=torch.bool, device=images.device)
    done = 0
    for stage in attack.stages:
        state = stage.step.init(problem, parameter)
        for k in range(stage.steps):
            progress = k / max(stage.steps - 1, 1)
            at = parameter
            parameter, state, seen = stage.step(problem, attack.perturbation, parameter, state, progress)
            valid &= seen.finite
            if stage.step.needs_map:
                best.offer(seen.adv_images, at, seen.interpretation.logits, seen.interpretation.attribution_map)
            done += 1
            if on_step is not None:
                on_step(done)
    # The loop judged by the surrogate where there is one; the last word has the network itself, on both candidates.
    last = attack.perturbation.apply(images, parameter).detach(), parameter.detach()
    final = _Best(attack.min_confidence, images, parameter, target_class, target_map)
    candidates = [(best.adv_images, best.parameter), last] if best.trace else [last]
    for candidate, at in candidates:
        if interpreter is not None and target_map is not None:
            judged = interpreter.explain(classifier, candidate, target_class)
            final.offer(candidate, at, judged.logits, judged.attribution_map)
        else:
            with torch.no_grad():
                final.offer(candidate, at, classifier(candidate), None)
    trace = {key: torch.stack([row[key] for row in best.trace]) for key in best.trace[0]} if best.trace else {}
    valid &= final.confidence.isfinite() & final.score.isfinite()
    return AttackResult(
        adv_images=final.adv_images,
        success=final.success & valid,
        confidence=final.confidence,
        score=final.score,
        attribution_map=final.attribution_map,
        valid=valid,
        size=attack.perturbation.size(images, final.parameter),
        steps_taken=torch.full_like(target_class, done),
        trace=trace,
    )


class _Best:
    """The best iterate of each image: confident ones first, by map loss; then successful ones; then the most likely."""

    def __init__(
        self,
        min_confidence: float,
        images: Tensor,
        parameter: Tensor,
        target_class: Tensor,
        target_map: Tensor | None,
    ) -> None:
        self.min_confidence, self.target_class, self.target_map = min_confidence, target_class, target_map
        count = len(images)
        self.adv_images, self.parameter = images, parameter.detach()
        self.rank = images.new_full((count,), float("inf"))
        self.success = torch.zeros(count, dtype=torch.bool, device=images.device)
        self.confidence = images.new_zeros(count)
        self.score = images.new_zeros(count)
        self.attribution_map = images.new_zeros(target_map.shape if target_map is not None else (count, 1, 0, 0))
        self.trace: list[dict[str, Tensor]] = []

    def offer(self, adv_images: Tensor, parameter: Tensor, logits: Tensor, attribution_map: Tensor | None) -> None:
        confidence = logits.softmax(1).gather(1, self.target_class[:, None])[:, 0]
        success = logits.argmax(1) == self.target_class
        if attribution_map is not None and self.target_map is not None:
            score = map_mse(attribution_map, self.target_map)
            l1, iou = map_l1(attribution_map, self.target_map), map_iou(attribution_map, self.target_map)
            self.trace.append({"confidence": confidence, "success": success, "l1": l1, "iou": iou})
        else:
            score = torch.zeros_like(confidence)
        confident = success & (confidence >= self.min_confidence)
        # Scores lie in [0, 1], so the three tiers do not overlap; NaN ranks behind everything.
        rank = torch.where(confident, score, torch.where(success, 2 + score, 5 - confidence))
        rank = torch.where(confidence.isfinite() & score.isfinite(), rank, 9.0)
        better = rank < self.rank
        wide = better.view(-1, 1, 1, 1)
        self.rank = torch.where(better, rank, self.rank)
        self.adv_images = torch.where(wide, adv_images, self.adv_images)
        self.parameter = torch.where(wide, parameter.detach(), self.parameter)
        self.success = torch.where(better, success, self.success)
        self.confidence = torch.where(better, confidence, self.confidence)
        self.score = torch.where(better, score, self.score)
        if attribution_map is not None and self.target_map is not None:
            self.attribution_map = torch.where(wide, attribution_map, self.attribution_map)
