"""The joint attack that fits an interpreter."""

from __future__ import annotations

from collections.abc import Sequence
from copy import copy
from functools import singledispatch
from math import inf
from typing import Any

import torch
from torch import Tensor

from lightning_adv2.attacks.accelerated_copy import make_accelerated_copy
from lightning_adv2.attacks.active import EarlyStopping
from lightning_adv2.attacks.adaptive import MemberMaps
from lightning_adv2.attacks.attack import Attack, AttackRecipe, Stage, check_restarts
from lightning_adv2.attacks.checks import check_victim, checked_inputs, preset_attack
from lightning_adv2.attacks.engine import AttackResult, optimise
from lightning_adv2.attacks.objective import LossTerm, Ramp, TargetMap
from lightning_adv2.attacks.presets import (
    PAPER_ENCODER_WEIGHT,
    Schedule,
    adv2_cam,
    adv2_ensemble,
    adv2_grad,
    adv2_rts,
    is_paper,
    joint_name,
)
from lightning_adv2.attacks.steps import GradientStep
from lightning_adv2.attacks.threat_models import EPSILON, Pixels, ThreatModel
from lightning_adv2.functional.random import image_generators
from lightning_adv2.interpreters import (
    Ensemble,
    Gradient,
    IntegratedGradients,
    Interpreter,
    SmoothGrad,
    TrainableInterpreter,
)
from lightning_adv2.interpreters.checks import check_module
from lightning_adv2.models import Classifier, PaperReLU, Softplus, Surrogate
from lightning_adv2.types import Classes


@singledispatch
def adv2_attack(
    interpreter: Interpreter,
    schedule: Schedule = "fast",
    steps: int | None = None,
    threat_model: ThreatModel | None = None,
    name: str | None = None,
) -> Attack:
    """The ADV2 attack for an interpreter, by its type; an interpreter without an attack of its own gets that of CAM.

    A new interpreter registers its attack with ``@adv2_attack.register``: a function of these five arguments.

    Args:
        interpreter: the victim's interpreter.
        schedule: ``fast`` or ``paper``.
        steps: overrides the number of joint steps.
        threat_model: what may change; by default pixels within epsilon 0.031.
        name: for tables and log keys; by default ``adv2`` (``stadv-adv2``).

    Raises:
        TypeError: ``interpreter`` is no :class:`Interpreter`.
        ValueError: an unknown schedule, or ``steps`` below 1.
    """
    check_module("interpreter", interpreter, Interpreter)
    return adv2_cam(schedule, steps, threat_model, name)


@adv2_attack.register
def _(interpreter: Gradient, *args: Any, **options: Any) -> Attack:
    return adv2_grad(*args, **options)


@adv2_attack.register(IntegratedGradients)
@adv2_attack.register(SmoothGrad)
def _(
    interpreter: Interpreter, schedule: Schedule = "fast", steps: int | None = None, *args: Any, **options: Any
) -> Attack:
    # Many gradients a step: half as many steps keep the cost within reason.
    return adv2_grad(schedule, 50 if steps is None and schedule == "fast" else steps, *args, **options)


@adv2_attack.register
def _(interpreter: TrainableInterpreter, *args: Any, **options: Any) -> Attack:
    return adv2_rts(*args, **options)


@adv2_attack.register
def _(interpreter: Ensemble, schedule: Schedule = "fast", *args: Any, **options: Any) -> Attack:
    members = list(interpreter.modules())  # ensembles within it, too
    smooth = PaperReLU() if schedule == "paper" else Softplus()
    surrogate = smooth if any(isinstance(member, Gradient) for member in members) else None
    encoder_weight = (
        PAPER_ENCODER_WEIGHT if any(isinstance(member, TrainableInterpreter) for member in members) else 0.0
    )
    fitted: dict[str, Any] = {"surrogate": surrogate, "encoder_weight": encoder_weight}
    return adv2_ensemble(schedule, *args, **fitted | options)


class ADV2(AttackRecipe):
    """The joint attack, in the form that fits the interpreter it meets (paper section 3); see :func:`adv2_attack`.

    Args:
        schedule: ``fast`` or ``paper``.
        steps: overrides the number of joint steps.
        threat_model: what may change; by default :class:`Pixels`, ``Spatial()`` for StAdv.
        name: for tables and log keys; by default ``adv2`` or ``stadv-adv2``.
        extra: further loss terms of the joint steps, such as :class:`SqueezedClass`.
        restarts: number of runs, first from the usual start and then from random starts; each image's best run counts.
        stop: stops moving an image that no longer improves; for the ``paper`` schedules.
        epsilon: L-infinity radius in units of the pixel range, in place of ``threat_model``; by default 0.031.
        map_weight: overrides the weight of the map loss beside the classification loss in every joint step: a number,
            or a :class:`Ramp` over each stage.
        surrogate: overrides the smooth ReLU in which the joint steps compute their gradients; ``models.PlainReLU`` for
            none.

    Raises:
        TypeError: ``threat_model`` is a class in an instance's place.
        ValueError: ``epsilon`` beside ``threat_model``, or an argument out of its range.
    """

    needs_map = True

    def __init__(
        self,
        schedule: Schedule = "fast",
        steps: int | None = None,
        threat_model: ThreatModel | None = None,
        name: str | None = None,
        extra: list[LossTerm] | None = None,
        restarts: int = 1,
        stop: EarlyStopping | None = None,
        *,
        epsilon: float | None = None,
        map_weight: float | Ramp | None = None,
        surrogate: Surrogate | None = None,
    ) -> None:
        is_paper(schedule)
        check_restarts(restarts)
        self.schedule: Schedule = schedule
        self.steps, self.threat_model = steps, _threat_model(threat_model, epsilon)
        self.map_weight, self.surrogate = _weight(map_weight), surrogate
        self.name = name or joint_name(self.threat_model)
        self.extra: Sequence[LossTerm] = tuple(extra or ())
        self.restarts, self.stop = restarts, stop

    def against(self, interpreter: Interpreter | None) -> Attack:
        """The attack on an interpreter's maps.

        Args:
            interpreter: the victim's interpreter.

        Raises:
            TypeError: ``interpreter`` is no :class:`Interpreter`, or the function registered for it does not fit.
            ValueError: there is no interpreter, or its attack has no map weight or surrogate to override.
        """
        if interpreter is None:
            raise ValueError(f"attack {self.name!r} aims at the map: give an interpreter")
        preset = adv2_attack.dispatch(type(interpreter))
        attack = preset_attack(preset, interpreter, self.schedule, self.steps, self.threat_model, self.name)
        attack = attack.staged([self._refit(stage) if stage.step.needs_map else stage for stage in attack.stages])
        attack.restarts, attack.stop = max(self.restarts, attack.restarts), self.stop or attack.stop
        return attack

    def _refit(self, stage: Stage) -> Stage:
        """A joint stage with the terms, weight and surrogate of this recipe."""
        # Only where there are terms: a step without a first move would get one.
        step = stage.step.extended(self.extra) if self.extra else copy(stage.step)
        asked = {name: value for name in ("map_weight", "surrogate") if (value := getattr(self, name)) is not None}
        if not asked:
            return Stage(step, stage.steps)
        if not isinstance(step, GradientStep):
            raise ValueError(
                f"{' and '.join(asked)}: this interpreter's attack takes {type(step).__name__}s, which have none; "
                "leave it out"
            )
        step.surrogate = self.surrogate or step.surrogate
        if self.map_weight is not None:
            step.set_terms([_weighed(term, self.map_weight) for term in step.terms])
            if not any(isinstance(term, (TargetMap, MemberMaps)) for term in step.terms):
                names = [type(term).__name__ for term in step.terms]
                raise ValueError(f"map_weight: none of the attack's terms {names} is a TargetMap; leave it out")
        return Stage(step, stage.steps)


def _weighed(term: LossTerm, weight: Ramp) -> LossTerm:
    """The term with this weight, if it compares maps with the target map; any other as it is."""
    if not isinstance(term, (TargetMap, MemberMaps)):
        return term
    other = copy(term)
    other.weight = weight
    return other


def _threat_model(threat_model: ThreatModel | None, epsilon: float | None) -> ThreatModel:
    """``threat_model`` where given, otherwise pixels within ``epsilon``."""
    if threat_model is not None and epsilon is not None:
        raise ValueError(
            f"epsilon={epsilon}: threat_model={type(threat_model).__name__}() is given as well; write it as "
            f"Pixels(epsilon={epsilon}), or leave threat_model out"
        )
    if isinstance(threat_model, type):
        raise TypeError(
            f"threat_model: got the class {threat_model.__name__}; give an instance: {threat_model.__name__}()"
        )
    return threat_model or Pixels(EPSILON if epsilon is None else epsilon)


def _weight(map_weight: float | Ramp | None) -> Ramp | None:
    """The weight over a stage; a ValueError for one that is negative or not finite."""
    if map_weight is None:
        return None
    ramp = map_weight if isinstance(map_weight, Ramp) else Ramp(map_weight, map_weight)
    if not (0 <= ramp.start < inf and 0 <= ramp.end < inf):
        raise ValueError(f"map_weight={map_weight}: give a number of at least 0; the fast schedule takes 50")
    return ramp


def with_constant_step(attack: Attack, step_size: float) -> Attack:
    """The same attack in steps of constant size, to continue from the end of an earlier attack on the image.

    AID's warm start takes such steps, as ATTA does (Zheng et al. 2020).

    Args:
        attack: of gradient steps.
        step_size: in units of the perturbation's parameter, > 0.

    Raises:
        TypeError: the attack has steps of another kind, whose size has another meaning.
        ValueError: ``step_size`` is not positive.
    """
    if step_size <= 0:
        raise ValueError(f"step_size={step_size}: give more than 0; 2/255 is the default of AID's warm start")
    stages = []
    for stage in attack.stages:
        if not isinstance(stage.step, GradientStep):
            raise TypeError(
                f"attack {attack.name!r} takes {type(stage.step).__name__}s; only a GradientStep has a step size "
                "to keep constant: take an attack of gradient steps, such as that on CAM or RTS"
            )
        step = copy(stage.step)
        step.step_size = Ramp(step_size, step_size)
        stages.append(Stage(step, stage.steps))
    return attack.staged(stages)


def adv2(
    classifier: Classifier,
    interpreter: Interpreter,
    images: Tensor,
    target_class: Classes,
    *,
    target_map: Tensor | None = None,
    schedule: Schedule = "fast",
    steps: int | None = None,
    epsilon: float | None = None,
    threat_model: ThreatModel | None = None,
    restarts: int = 1,
    map_weight: float | Ramp | None = None,
    surrogate: Surrogate | None = None,
    seed: int = 0,
) -> AttackResult:
    """Attack the classifier and its map together (ADV2, paper section 3).

    Args:
        classifier: the victim, in eval mode.
        interpreter: explains the victim, in eval mode; the attack fits itself to it.
        images: ``(B, C, H, W)`` in [0, 1].
        target_class: ``(B,)`` whole numbers in [0, K), the classes that the attack aims at, or one class for all
            images.
        target_map: ``(B, 1, h, w)`` in [0, 1]; by default the benign map, for the class predicted.
        schedule: ``fast`` or ``paper``.
        steps: overrides the number of joint steps.
        epsilon: L-infinity radius in units of the pixel range; by default 0.031.
        threat_model: what may change, in place of ``epsilon``: ``Pixels(...)``, or ``Spatial()`` for StAdv.
        restarts: number of runs; each image's best run counts.
        map_weight: overrides the weight of the map loss; see :class:`ADV2`.
        surrogate: overrides the smooth ReLU of attacks on gradients; see :class:`ADV2`.
        seed: of the attack's random numbers.

    Returns:
        The adversarial images, on 8-bit levels, and their measures; see :class:`AttackResult`.

    Raises:
        TypeError: an argument is of another type; names it.
        ValueError: shapes, ranges, modes or settings do not fit; names the argument.
        RuntimeError: under ``torch.inference_mode``.
    """
    check_victim(classifier, interpreter)
    recipe = ADV2(
        schedule, steps, threat_model, restarts=restarts, epsilon=epsilon, map_weight=map_weight, surrogate=surrogate
    )
    attack = recipe.against(interpreter)
    inputs = checked_inputs(classifier, interpreter, images, target_class, target_map)
    inputs.generators = image_generators(seed, [str(i) for i in range(len(images))], "attack")
    if target_map is None:
        with torch.no_grad():
            predicted = classifier(images).argmax(1)
        inputs.target_map = interpreter.explain(classifier, images, predicted).attribution_map
    return optimise(attack, inputs, accelerated=make_accelerated_copy(classifier, interpreter, images))
