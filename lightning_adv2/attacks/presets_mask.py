"""The ready joint attack on MASK (paper section 3.6)."""

from __future__ import annotations

from typing import Any

from lightning_adv2.attacks.attack import Attack, Stage
from lightning_adv2.attacks.bilevel import BilevelStep
from lightning_adv2.attacks.dispatch import adv2_attack
from lightning_adv2.attacks.objective import Ramp, TargetClass
from lightning_adv2.attacks.presets import Schedule, is_paper, joint_name, or_default
from lightning_adv2.attacks.response import ResponseStep
from lightning_adv2.attacks.steps import GradientStep
from lightning_adv2.attacks.threat_models import Pixels, ThreatModel
from lightning_adv2.interpreters import MASK

# The authors' ceilings of the second move, each for half of the joint steps.
PAPER_MAP_STEPS = (0.08, 0.04)
# The class is reached by then: only keep it 2 logits ahead of the next, and move the map in long steps that decay
# (8 images of CIFAR-10: IoU 0.68 against 0.64 at a constant 0.3).
FAST_POLISH: dict[str, Any] = {"class_step": 0.0, "map_step": Ramp(0.5, 0.02), "kappa": 2.0, "reset": 5}


def adv2_mask(
    schedule: Schedule = "fast",
    steps: int | None = None,
    threat_model: ThreatModel | None = None,
    name: str | None = None,
    warm_start: int | None = None,
    **devices: Any,
) -> Attack:
    """ADV2 against MASK (paper section 3.6).

    Args:
        schedule: ``paper`` is Algorithm 1: 400 classification steps, then 1,000 joint steps, the second half with a
            halved ceiling on the map's step. ``fast``: 60 first-order steps on the network's responses to masks, then
            60 of Algorithm 1 for the map alone, with a fresh mask every 5 steps.
        steps: overrides the number of joint steps.
        threat_model: what may change; by default pixels within epsilon 0.031.
        name: for tables and log keys; by default ``adv2`` (``stadv-adv2``).
        warm_start: overrides the number of classification steps before the joint steps; 0 for none.
        devices: options of :class:`BilevelStep` (``paper``) or :class:`ResponseStep` (``fast``).

    Raises:
        TypeError: an option that the step does not have.
        ValueError: an unknown schedule, ``steps`` below 1, or an option out of its range.
    """
    threat_model = threat_model or Pixels()
    paper = is_paper(schedule)
    published = threat_model.paper_steps or (400, 1000)
    warm = warm_start if warm_start is not None else (published[0] if paper else 0)
    joint = or_default(steps, published[1] if paper else 120)
    move, stages = (threat_model.paper if paper else threat_model.fast), []
    if warm:
        first = GradientStep([TargetClass(), *threat_model.terms], move.rule, move.step_size)
        stages.append(Stage(first, warm))
    if paper:
        ceilings = (devices.pop("map_step"),) * 2 if "map_step" in devices else PAPER_MAP_STEPS
        halves = zip(ceilings, (joint - joint // 2, joint // 2), strict=True)
        terms = [TargetClass(), *threat_model.terms]
        stages += [Stage(BilevelStep(map_step=top, terms=terms, **devices), n) for top, n in halves if n]
    else:
        polish = joint // 2
        stages.append(
            Stage(ResponseStep(move.rule, move.step_size, terms=threat_model.terms, **devices), joint - polish)
        )
        if polish:
            stages.append(Stage(BilevelStep(**FAST_POLISH), polish))
    return Attack(name or joint_name(threat_model), schedule, threat_model.perturbation, stages)


@adv2_attack.register
def _(interpreter: MASK, *args: Any, **options: Any) -> Attack:
    return adv2_mask(*args, **options)
