"""The only attack loop: stages in order, once per restart, the best iterate of each image kept, the victim unchanged.

Iterates of a stage without a map (PGD, a warm start) have no score and are not candidates; the last iterate always is.

The loop uses no collectives, train mode, ``.grad``, hooks or global random numbers, so that it can be called from a
notebook, inside ``training_step`` under DDP, or from any other framework.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import partial

import torch
from torch import Generator, Tensor

from lightning_adv2.attacks.accelerated_copy import AcceleratedCopy
from lightning_adv2.attacks.active import ActiveSet, Watch
from lightning_adv2.attacks.attack import Attack, Stage
from lightning_adv2.attacks.best import Best, evaluate_logits, rank
from lightning_adv2.attacks.checks import check_aim, checked_inputs
from lightning_adv2.attacks.objective import AttackInputs
from lightning_adv2.interpreters import Interpreter
from lightning_adv2.models import Classifier
from lightning_adv2.types import Classes, Interpretation, without_map


@dataclass
class AttackResult:
    """The result of an attack, measured on the 8-bit images by the unmodified network (all but ``trace``).

    Attributes:
        adv_images: ``(B, C, H, W)`` in [0, 1], legal and exactly storable in 8 bits.
        success: ``(B,)`` bool, classified as the target class.
        confidence: ``(B,)`` in [0, 1], probability of the target class.
        score: ``(B,)`` in [0, 1], l_int to the target map (0 where the attack has no map).
        attribution_map: ``(B, 1, h, w)`` in [0, 1] for the target class; empty where the attack has no map.
        valid: ``(B,)`` bool, False where loss, gradient or result was NaN or infinite at some step of any run.
        norm: ``(B,)``, of the perturbation, in its unit: ``attack.perturbation.unit``.
        steps_taken: ``(B,)`` int64, over all restarts.
        last_images: like ``adv_images``, after the last step of the last run, for an attack that continues there.
        trace: ``confidence``, ``success``, ``l1``, ``iou``, each ``(T, B)``, as the attack saw them at each step that
            had a map: through the smooth surrogate, where it uses one. Of the first run only.
    """

    adv_images: Tensor
    success: Tensor
    confidence: Tensor
    score: Tensor
    attribution_map: Tensor
    valid: Tensor
    norm: Tensor
    steps_taken: Tensor
    last_images: Tensor
    trace: dict[str, Tensor] = field(default_factory=dict)


def run_attack(
    attack: Attack,
    classifier: Classifier,
    interpreter: Interpreter | None,
    images: Tensor,
    target_class: Classes,
    target_map: Tensor | None = None,
    *,
    generators: Sequence[Generator] | None = None,
    start: Tensor | None = None,
    accelerated: AcceleratedCopy | None = None,
    on_step: Callable[[int], None] | None = None,
) -> AttackResult:
    """Attack a batch: the result of the attack's stages on each image.

    Args:
        attack: see ``attacks.presets`` and :func:`~lightning_adv2.attacks.adv2_attack`.
        classifier: the victim; must be in eval mode.
        interpreter: the victim's interpreter, in eval mode; None where the attack ignores the map.
        images: ``(B, C, H, W)`` in [0, 1].
        target_class: ``(B,)`` whole numbers in [0, K), or one for all images.
        target_map: ``(B, 1, h, w)`` in [0, 1], of the interpreter's map size; None where the attack ignores the map.
        generators: B CPU generators; by default seeded by the index in the batch.
        start: ``(B, ...)``, the perturbation's parameter that the first run starts from, once it is projected; by
            default ``perturbation.init``. Later random numbers are the same with and without it.
        accelerated: a faster copy of the victim that gradients are taken through, from
            :func:`~lightning_adv2.attacks.make_accelerated_copy`; by default the victim itself, which decides the
            result in any case.
        on_step: called with the number of steps done, over all restarts, for progress bars.

    Raises:
        TypeError: an argument is of another type; names it.
        ValueError: shapes, ranges or modes do not fit; names the argument.
        RuntimeError: under ``torch.inference_mode``.
    """
    inputs = checked_inputs(classifier, interpreter, images, target_class, target_map, generators)
    return optimise(attack, inputs, start=start, accelerated=accelerated, on_step=on_step)


def optimise(
    attack: Attack,
    inputs: AttackInputs,
    *,
    start: Tensor | None = None,
    accelerated: AcceleratedCopy | None = None,
    on_step: Callable[[int], None] | None = None,
) -> AttackResult:
    """Attack a batch whose inputs are checked: :func:`run_attack` without the checks of the inputs.

    Args:
        attack: the attack, fitted to the interpreter.
        inputs: of B images, from :func:`~lightning_adv2.attacks.checked_inputs`. The attack draws from the generators,
            so that a second attack needs new generators.
        start: ``(B, ...)``, as in :func:`run_attack`.
        accelerated: as in :func:`run_attack`.
        on_step: as in :func:`run_attack`.

    Raises:
        ValueError: the attack needs an interpreter or a target map that the inputs lack, the interpreter's gradient is
            not correct, or ``start`` is no parameter of the perturbation.
    """
    check_aim(attack, inputs)
    images, perturbation = inputs.images, attack.perturbation
    seen = inputs if accelerated is None else _through(accelerated, inputs)
    first = perturbation.init(images, inputs.generators)
    if start is not None:
        check_start(start, first)
        first = perturbation.project(images, start.detach().to(first))
    keep = partial(Best, inputs, first, attack.min_confidence, by_map=attack.needs_map)
    final, valid = keep(), torch.ones_like(inputs.target_class, dtype=torch.bool)
    planned, trace, taken = 0, {}, torch.zeros_like(inputs.target_class)
    for run in range(attack.restarts):
        parameter, best = perturbation.restart(images, inputs.generators) if run else first, keep()
        for stage in attack.stages:
            on_stage = None if on_step is None else partial(_counted, on_step, planned)
            parameter, finite, moves = _run_stage(attack, stage, seen, parameter, best, on_stage)
            valid, taken, planned = valid & finite, taken + moves, planned + stage.steps
        # The loop ranked the iterates by the accelerated copy or the surrogate; the victim itself decides between both.
        last = perturbation.apply(images, parameter).detach(), parameter.detach()
        candidates = [(best.adv_images, best.parameter), last] if best.trace else [last]
        for adv_images, at in candidates:
            final.offer(adv_images, at, _reported(inputs, adv_images))
        if best.trace and not run:
            trace = {key: torch.stack([row[key] for row in best.trace]) for key in best.trace[0]}
    valid &= final.confidence.isfinite() & final.score.isfinite()
    return AttackResult(
        adv_images=final.adv_images,
        success=final.success & valid,
        confidence=final.confidence,
        score=final.score,
        attribution_map=final.attribution_map,
        valid=valid,
        norm=perturbation.norm(images, final.parameter),
        steps_taken=taken,
        last_images=last[0],
        trace=trace,
    )


def _through(accelerated: AcceleratedCopy, inputs: AttackInputs) -> AttackInputs:
    """The inputs with the copy in the victim's place; the interpreter stays where the copy has none."""
    interpreter = None if inputs.interpreter is None else accelerated.interpreter or inputs.interpreter
    return replace(inputs, classifier=accelerated.classifier, interpreter=interpreter)


def _reported(inputs: AttackInputs, adv_images: Tensor) -> Interpretation:
    """Logits and map of the victim itself; an empty map where there is no target map."""
    if inputs.interpreter is not None and inputs.target_map is not None:
        return inputs.interpreter.explain(inputs.classifier, adv_images, inputs.target_class)
    with torch.no_grad():
        return without_map(inputs.classifier(adv_images))


def _run_stage(
    attack: Attack,
    stage: Stage,
    inputs: AttackInputs,
    parameter: Tensor,
    best: Best,
    on_step: Callable[[int], None] | None,
) -> tuple[Tensor, Tensor, Tensor]:
    """One stage: where it ends, where all of it was finite ``(B,)``, and each image's number of steps ``(B,)``."""
    active = ActiveSet(inputs, parameter, stage.step.init(inputs, parameter))
    watch = None if attack.stop is None else Watch(attack.stop, best.rank)
    ranks, finite, moves = best.rank, torch.ones_like(best.success), torch.zeros_like(inputs.target_class)
    for k in range(stage.steps):
        progress, at, rows = k / max(stage.steps - 1, 1), active.parameter, active.rows
        active.parameter, active.state, seen = stage.step(
            active.inputs, attack.perturbation, at, active.state, progress
        )
        finite = active.spread(seen.finite & (finite if rows is None else finite[rows]), finite)
        moves = moves + 1 if rows is None else moves.index_add(0, rows, torch.ones_like(rows))
        if stage.step.needs_map:
            best.offer(seen.adv_images, at, seen.interpretation, rows)
        if on_step is not None:
            on_step(k + 1)
        if watch is None:
            continue
        outcome = evaluate_logits(seen.interpretation.logits, active.inputs.target_class)
        ranks = active.spread(rank(**outcome, min_confidence=attack.min_confidence), ranks)
        finished = watch.see(best.rank if stage.step.needs_map else ranks)
        if finished is not None:
            active.leave(finished)
        if not active:
            if stage.step.needs_map:  # a trace has a row for each step
                best.trace += best.trace[-1:] * (stage.steps - k - 1)
            break
    return active.everywhere, finite, moves


def _counted(on_step: Callable[[int], None], before: int, done: int) -> None:
    """Report a stage's steps as the attack's."""
    on_step(before + done)


def check_start(start: Tensor, first: Tensor) -> None:
    """Raise a ValueError for a start that is no parameter like ``first``.

    Args:
        start: the perturbation's parameter ``(B, ...)`` that a caller gives.
        first: the perturbation's own first parameter ``(B, ...)``.

    Raises:
        ValueError: another shape, NaN or infinity.
    """
    if start.shape != first.shape:
        raise ValueError(
            f"start: expected the perturbation's parameter {tuple(first.shape)}, got {tuple(start.shape)}; "
            "give one row per image, or leave it out"
        )
    if not bool(start.isfinite().all()):
        raise ValueError("start: holds NaN or infinity; leave out the start, or set such values to 0")
