"""What the attacker wants: loss terms with weights that may change over a stage."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Generator, Tensor

from lightning_adv2.functional.flow import flow_smoothness
from lightning_adv2.functional.losses import cross_entropy, map_mse, smoothed_target
from lightning_adv2.functional.random import per_image
from lightning_adv2.interpreters import Interpreter
from lightning_adv2.models import Classifier
from lightning_adv2.types import Interpretation, State


@dataclass
class AttackInputs:
    """The victim and the images of one batch under attack.

    Attributes:
        classifier: the victim, in eval mode.
        interpreter: the victim's interpreter, in eval mode; None where only the classifier is attacked.
        images: ``(B, C, H, W)`` in [0, 1], benign.
        target_class: ``(B,)`` int64 in [0, K), c_t.
        target_map: ``(B, 1, h, w)`` in [0, 1], m_t; None where only the classifier is attacked.
        generators: B CPU generators, for all random numbers of the attack.
    """

    classifier: Classifier
    interpreter: Interpreter | None
    images: Tensor
    target_class: Tensor
    target_map: Tensor | None = None
    generators: Sequence[Generator] = ()


@dataclass
class Context:
    """What a loss term sees.

    Attributes:
        inputs: what is attacked.
        interpretation: of the current iterate.
        progress: how far the stage has come, in [0, 1].
        adv_images: ``(B, C, H, W)``, the current iterate.
        parameter: ``(B, ...)``, the perturbation's.
        prepared: what the term itself made of the inputs when the stage began.
    """

    inputs: AttackInputs
    interpretation: Interpretation
    progress: float
    adv_images: Tensor
    parameter: Tensor
    prepared: State = ()


@dataclass(frozen=True)
class Ramp:
    """A weight that moves linearly from ``start`` to ``end`` over a stage."""

    start: float
    end: float

    def __call__(self, progress: float) -> float:
        """The value at ``progress`` in [0, 1]."""
        return self.start + (self.end - self.start) * progress


class LossTerm(ABC):
    """A per-image loss, minimised, times its weight.

    Args:
        weight: a number, or a :class:`Ramp` over the stage.
    """

    needs_map = True

    def __init__(self, weight: float | Ramp = 1.0) -> None:
        self.weight = weight if isinstance(weight, Ramp) else Ramp(weight, weight)

    def __call__(self, context: Context) -> Tensor:
        """Weighted loss ``(B,)``."""
        return self.weight(context.progress) * self.loss(context)

    def prepare(self, inputs: AttackInputs) -> State:
        """Once a stage: what the term wants to find in ``context.prepared``; every leaf with B first."""
        return ()

    @abstractmethod
    def loss(self, context: Context) -> Tensor:
        """Unweighted loss ``(B,)``."""


class TargetClass(LossTerm):
    """l_prd: cross entropy towards the target class, with label smoothing on demand.

    Args:
        weight: see :class:`LossTerm`.
        smoothing: rho; each image's target probability is drawn from U(1 - rho, 1) at every step (section 3.2).
    """

    needs_map = False

    def __init__(self, weight: float | Ramp = 1.0, smoothing: Ramp | None = None) -> None:
        super().__init__(weight)
        self.smoothing = smoothing

    def loss(self, context: Context) -> Tensor:
        """Cross entropy."""
        logits, target = context.interpretation.logits, context.inputs.target_class
        if self.smoothing is None:
            return cross_entropy(logits, target)
        rho = self.smoothing(context.progress)
        drawn = per_image(lambda g: rho * torch.rand((), generator=g), context.inputs.generators, logits)
        return cross_entropy(logits, smoothed_target(target, logits.shape[1], drawn))


class TargetMap(LossTerm):
    """l_int: mean square difference between the map and the target map (Eqn 4 per pixel)."""

    def loss(self, context: Context) -> Tensor:
        """Mean square difference."""
        target_map = context.inputs.target_map
        assert target_map is not None  # the engine checks
        return map_mse(context.interpretation.attribution_map, target_map)


class EncoderClass(LossTerm):
    """l_enc: the RTS encoder, too, must see the target class (section 3.4; the authors weigh it 0.1)."""

    def loss(self, context: Context) -> Tensor:
        """Cross entropy of the encoder's own logits."""
        if "encoder_logits" not in context.interpretation.aux:
            name = type(context.inputs.interpreter).__name__
            raise ValueError(f"EncoderClass needs an interpreter with an encoder of its own (RTS), not {name}")
        return cross_entropy(context.interpretation.aux["encoder_logits"], context.inputs.target_class)


class FlowSmoothness(LossTerm):
    """l_flow: neighbouring pixels shall move alike (StAdv; the paper weighs it 0.0005). Needs a ``FlowField``."""

    needs_map = False

    def loss(self, context: Context) -> Tensor:
        """Sum over all neighbouring pixels of how differently they move."""
        return flow_smoothness(context.parameter)
