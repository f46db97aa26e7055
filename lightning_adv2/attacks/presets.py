"""The ready attacks: plain functions that a reader follows in a minute.

Two schedules each. ``paper``: the published step counts, weights and devices. ``fast``, the default: normalised steps
with a short memory that decay to nothing, which reach better maps in a fifth of the steps or less. Map weights act on
the mean square over the map's pixels.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import singledispatch
from typing import Literal, get_args

import torch
from torch import Tensor

from lightning_adv2.attacks.engine import Attack, AttackResult, Preset, Stage, check_victim, run_attack
from lightning_adv2.attacks.frameworks import EPSILON, Framework, Move, Pixels, Spatial
from lightning_adv2.attacks.objective import EncoderClass, LossTerm, Ramp, TargetClass, TargetMap
from lightning_adv2.attacks.steps import GradientStep
from lightning_adv2.functional import optim
from lightning_adv2.functional.random import image_generators
from lightning_adv2.interpreters import RTS, Gradient, Interpreter
from lightning_adv2.models import Classifier, PaperReLU, Softplus, Surrogate

Schedule = Literal["fast", "paper"]

PAPER_MAP_WEIGHT = Ramp(5.0, 10.0)
PAPER_ENCODER_WEIGHT = 0.1
FAST_MAP_WEIGHT = 50.0


def pgd(
    schedule: Schedule = "fast", steps: int | None = None, epsilon: float = EPSILON, name: str | None = None
) -> Attack:
    """PGD towards the target class alone (paper section 4, baseline).

    Args:
        schedule: ``paper`` takes 1,000 sign steps of 1/255; ``fast`` 50 steps of the fast rule.
        steps: overrides the number of steps.
        epsilon: L-infinity radius.
        name: for tables and log keys; by default ``pgd``.
    """
    return _class_only(Pixels(epsilon), schedule, _or(steps, 1000 if _is_paper(schedule) else 50), name or "pgd")


def stadv(
    schedule: Schedule = "fast", steps: int | None = None, tau: float = 0.0005, name: str | None = None
) -> Attack:
    """StAdv towards the target class alone (Xiao et al. 2018; paper appendix).

    Args:
        schedule: ``paper`` takes 800 steps, as many as its joint attack; ``fast`` 50 of the fast rule.
        steps: overrides the number of steps.
        tau: weight of the flow's roughness.
        name: for tables and log keys; by default ``stadv``.
    """
    return _class_only(Spatial(tau), schedule, _or(steps, 800 if _is_paper(schedule) else 50), name or "stadv")


def adv2_cam(
    schedule: Schedule = "fast",
    steps: int | None = None,
    framework: Framework | None = None,
    name: str | None = None,
    warm_start: int | None = None,
) -> Attack:
    """ADV2 against CAM and its relatives, whose maps have a slope as they are (section 3.3).

    Args:
        schedule: ``paper`` takes 400 classification steps, then 1,000 joint ones; ``fast`` 50 joint ones.
        steps: overrides the number of joint steps.
        framework: what may change; by default pixels within epsilon 0.031.
        name: for tables and log keys; by default ``adv2`` (``stadv-adv2``).
        warm_start: overrides the number of classification steps before the joint ones.
    """
    return _joint(framework, schedule, _or(steps, 50), (400, _or(steps, 1000)), name=name, warm_start=warm_start)


def adv2_rts(
    schedule: Schedule = "fast",
    steps: int | None = None,
    framework: Framework | None = None,
    name: str | None = None,
    warm_start: int | None = None,
    encoder_weight: float = PAPER_ENCODER_WEIGHT,
) -> Attack:
    """ADV2 against RTS, with the encoder loss (section 3.4).

    Args:
        schedule: ``paper`` takes 300 classification steps, then 1,000 joint ones; ``fast`` 100 joint ones.
        steps: overrides the number of joint steps.
        framework: what may change; by default pixels within epsilon 0.031.
        name: for tables and log keys; by default ``adv2`` (``stadv-adv2``).
        warm_start: overrides the number of classification steps before the joint ones.
        encoder_weight: of l_enc; 0 leaves it out.
    """
    extra = [EncoderClass(encoder_weight)] if encoder_weight else []
    # 100 steps bear a longer memory: IoU 0.93 against 0.91 on drawn shapes.
    return _joint(
        framework, schedule, _or(steps, 100), (300, _or(steps, 1000)), extra,
        memory=0.8, name=name, warm_start=warm_start,
    )  # fmt: skip


def adv2_grad(
    schedule: Schedule = "fast",
    steps: int | None = None,
    framework: Framework | None = None,
    name: str | None = None,
    warm_start: int | None = None,
    surrogate: Surrogate | None = None,
    smoothing: bool | None = None,
) -> Attack:
    """ADV2 against GRAD and its relatives, through a smooth ReLU (section 3.2).

    Args:
        schedule: ``paper`` takes 300 classification steps, then 301, 201, 101 and 101 joint ones with growing map
            weight, h(z), and label smoothing from 0.05 to 0.01; ``fast`` 100 joint ones with softplus.
        steps: overrides the number of joint steps (``fast`` only).
        framework: what may change; by default pixels within epsilon 0.031.
        name: for tables and log keys; by default ``adv2`` (``stadv-adv2``).
        warm_start: overrides the number of classification steps before the joint ones.
        surrogate: overrides the smooth ReLU; ``models.PlainReLU`` for none.
        smoothing: overrides whether labels are smoothed.
    """
    framework = framework or Pixels()
    rhos = (0.05, 0.04, 0.03, 0.02, 0.01)
    if not _is_paper(schedule):
        rho = Ramp(rhos[0], rhos[-1]) if smoothing else None
        # The gradient's map is rougher: IoU 0.82 from 2/255 against 0.76 from 4/255.
        return _joint(
            framework, schedule, _or(steps, 100), (0, 0), surrogate=surrogate or Softplus(50.0), pace=0.5, rho=rho,
            name=name, warm_start=warm_start,
        )  # fmt: skip
    if steps is not None:
        raise ValueError(f"steps={steps}: the paper's schedule for GRAD has four fixed stages; leave it out")
    surrogate = surrogate or PaperReLU()
    if framework.paper_steps is not None:
        rho = Ramp(rhos[0], rhos[-1]) if smoothing in (None, True) else None
        return _joint(framework, schedule, 0, (0, 0), surrogate=surrogate, rho=rho, name=name, warm_start=warm_start)
    stages = _stages(framework, framework.paper, [TargetClass()], 300 if warm_start is None else warm_start)
    for i, (weight, count) in enumerate([(0.001, 301), (0.004, 201), (0.01, 101), (0.05, 101)]):
        rho = Ramp(rhos[i], rhos[i + 1]) if smoothing in (None, True) else None
        # Published for the sum over the 56 x 56 map of a 224-px image; per pixel it holds at any size.
        joint = [TargetClass(smoothing=rho), TargetMap(weight * 56**2)]
        stages += _stages(framework, framework.paper, joint, count, surrogate)
    return Attack(name or _joint_name(framework), schedule, framework.perturbation, stages)


def _class_only(framework: Framework, schedule: Schedule, steps: int, name: str) -> Attack:
    move = framework.paper if _is_paper(schedule) else framework.fast
    return Attack(name, schedule, framework.perturbation, _stages(framework, move, [TargetClass()], steps))


def _joint(
    framework: Framework | None,
    schedule: Schedule,
    fast_steps: int,
    paper_steps: tuple[int, int],
    extra: Sequence[LossTerm] = (),
    *,
    surrogate: Surrogate | None = None,
    memory: float | None = None,
    pace: float = 1.0,
    rho: Ramp | None = None,
    name: str | None = None,
    warm_start: int | None = None,
) -> Attack:
    """Classification steps, then joint ones, under either schedule."""
    framework = framework or Pixels()
    if _is_paper(schedule):
        warm, steps = framework.paper_steps or paper_steps
        move, weight = framework.paper, PAPER_MAP_WEIGHT
    else:
        warm, steps, weight = 0, fast_steps, Ramp(FAST_MAP_WEIGHT, FAST_MAP_WEIGHT)
        rule = framework.fast.rule if memory is None else optim.adam(memory, memory)
        move = Move(rule, Ramp(pace * framework.fast.step_size.start, 0.0))
    joint = [TargetClass(smoothing=rho), TargetMap(weight), *extra]
    stages = _stages(framework, move, [TargetClass()], warm if warm_start is None else warm_start)
    stages += _stages(framework, move, joint, steps, surrogate)
    return Attack(name or _joint_name(framework), schedule, framework.perturbation, stages)


def _stages(
    framework: Framework, move: Move, terms: Sequence[LossTerm], steps: int, surrogate: Surrogate | None = None
) -> list[Stage]:
    """One stage, or none for no steps."""
    step = GradientStep([*terms, *framework.terms], move.rule, move.step_size, surrogate)
    return [Stage(step, steps)] if steps else []


def _or(steps: int | None, default: int) -> int:
    if steps is not None and steps < 1:
        raise ValueError(f"steps={steps}: a stage takes at least one step; leave it out for {default}")
    return default if steps is None else steps


def _joint_name(framework: Framework) -> str:
    return f"{framework.prefix}-adv2" if framework.prefix else "adv2"


def _is_paper(schedule: str) -> bool:
    if schedule not in get_args(Schedule):
        raise ValueError(f"schedule={schedule!r}: take one of {', '.join(get_args(Schedule))}")
    return schedule == "paper"


@singledispatch
def adv2_attack(
    interpreter: Interpreter,
    schedule: Schedule = "fast",
    steps: int | None = None,
    framework: Framework | None = None,
    name: str | None = None,
) -> Attack:
    """The ready ADV2 attack for an interpreter, by its type; without one of its own, the joint attack of CAM.

    A new interpreter registers its attack with ``@adv2_attack.register``.
    """
    return adv2_cam(schedule, steps, framework, name)


@adv2_attack.register
def _(
    interpreter: Gradient,
    schedule: Schedule = "fast",
    steps: int | None = None,
    framework: Framework | None = None,
    name: str | None = None,
) -> Attack:
    return adv2_grad(schedule, steps, framework, name)


@adv2_attack.register
def _(
    interpreter: RTS,
    schedule: Schedule = "fast",
    steps: int | None = None,
    framework: Framework | None = None,
    name: str | None = None,
) -> Attack:
    return adv2_rts(schedule, steps, framework, name)


class ADV2(Preset):
    """The joint attack, in the form that fits whatever interpreter it meets; see :func:`adv2_attack`.

    Args:
        schedule: ``fast`` or ``paper``.
        steps: overrides the number of joint steps.
        framework: what may change; by default pixels within epsilon 0.031, ``Spatial()`` for StAdv.
        name: for tables and log keys; by default ``adv2`` or ``stadv-adv2``.
    """

    needs_map = True

    def __init__(
        self,
        schedule: Schedule = "fast",
        steps: int | None = None,
        framework: Framework | None = None,
        name: str | None = None,
    ) -> None:
        _is_paper(schedule)
        self.schedule: Schedule = schedule
        self.steps, self.framework = steps, framework or Pixels()
        self.name = name or _joint_name(self.framework)

    def against(self, interpreter: Interpreter | None) -> Attack:
        """The attack on this interpreter's maps."""
        if interpreter is None:
            raise ValueError(f"attack {self.name!r} aims at the map: give an interpreter")
        return adv2_attack(interpreter, self.schedule, self.steps, self.framework, self.name)


def adv2(
    classifier: Classifier,
    interpreter: Interpreter,
    images: Tensor,
    target_class: Tensor,
    *,
    target_map: Tensor | None = None,
    schedule: Schedule = "fast",
    framework: Framework | None = None,
    seed: int = 0,
) -> AttackResult:
    """Attack the classifier and its map together, in one line.

    Args:
        classifier: the victim.
        interpreter: explains the victim; the attack fits itself to it.
        images: ``(B, C, H, W)`` in [0, 1].
        target_class: ``(B,)``, what the images shall be taken for.
        target_map: ``(B, 1, h, w)`` in [0, 1]; by default the benign map, for the class that the victim sees now.
        schedule: ``fast`` or ``paper``.
        framework: what may change; by default pixels within epsilon 0.031.
        seed: for what the attack draws.

    Returns:
        The adversarial images, on 8-bit levels, and how well they do; see :class:`AttackResult`.
    """
    check_victim(classifier, interpreter)
    if target_map is None:
        with torch.no_grad():
            predicted = classifier(images).argmax(1)
        benign = interpreter.explain(classifier, images, predicted)
        target_map = benign.attribution_map
    generators = image_generators(seed, [str(i) for i in range(len(images))], "attack")
    attack = adv2_attack(interpreter, schedule, framework=framework)
    return run_attack(attack, classifier, interpreter, images, target_class, target_map, generators=generators)
