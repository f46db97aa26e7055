"""The attacker's objective: loss terms with weights that may change over a stage (paper section 3.1)."""

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
    """The arguments of a loss term.

    Attributes:
        inputs: of the attack, B images.
        interpretation: of the current iterate.
        progress: the share of the stage that is done, in [0, 1].
        adv_images: ``(B, C, H, W)`` in [0, 1], the current iterate.
        parameter: ``(B, ...)``, the perturbation's.
        prepared: the term's own :meth:`LossTerm.prepare` at the start of the stage.
    """

    inputs: AttackInputs
    interpretation: Interpretation
    progress: float
    adv_images: Tensor
    parameter: Tensor
    prepared: State = ()


@dataclass(frozen=True)
class Ramp:
    """A number that moves linearly from ``start`` to ``end`` over a stage.

    Attributes:
        start: at progress 0.
        end: at progress 1.
    """

    start: float
    end: float

    def __call__(self, progress: float) -> float:
        """The value at a progress.

        Args:
            progress: in [0, 1].
        """
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
        """The weighted loss.

        Args:
            context: of B images.

        Returns:
            ``(B,)``.
        """
        return self.weight(context.progress) * self.loss(context)

    def prepare(self, inputs: AttackInputs) -> State:
        """The term's state for a stage, for ``context.prepared``; called once, at the start of the stage.

        Args:
            inputs: of B images.

        Returns:
            Every leaf with B first; ``()`` unless a term overrides it.
        """
        return ()

    @abstractmethod
    def loss(self, context: Context) -> Tensor:
        """The unweighted loss.

        Args:
            context: of B images.

        Returns:
            ``(B,)``.
        """


class TargetClass(LossTerm):
    """l_prd: cross entropy towards the target class, optionally with label smoothing (paper section 3.1).

    Args:
        weight: see :class:`LossTerm`.
        smoothing: rho in [0, 1); each image's target probability is drawn from U(1 - rho, 1) at every step (section
            3.2).
    """

    needs_map = False

    def __init__(self, weight: float | Ramp = 1.0, smoothing: Ramp | None = None) -> None:
        super().__init__(weight)
        self.smoothing = smoothing

    def loss(self, context: Context) -> Tensor:
        """-log f_ct(x) (paper section 3.1).

        Args:
            context: of B images.

        Returns:
            ``(B,)`` in nats, >= 0.
        """
        logits, target = context.interpretation.logits, context.inputs.target_class
        if self.smoothing is None:
            return cross_entropy(logits, target)
        rho = self.smoothing(context.progress)
        drawn = per_image(lambda g: rho * torch.rand((), generator=g), context.inputs.generators, logits)
        return cross_entropy(logits, smoothed_target(target, logits.shape[1], drawn))


class TargetMap(LossTerm):
    """l_int: mean squared difference between the map and the target map (Eqn 4 per pixel)."""

    def loss(self, context: Context) -> Tensor:
        """Mean squared difference of the two maps (Eqn 4 per pixel).

        Args:
            context: of B images, with a target map.

        Returns:
            ``(B,)`` in [0, 1].

        Raises:
            ValueError: map and target map are of different sizes.
        """
        target_map = context.inputs.target_map
        assert target_map is not None  # the engine checks
        return map_mse(context.interpretation.attribution_map, target_map)


class EncoderClass(LossTerm):
    """l_enc: the RTS encoder, too, shall see the target class (section 3.4; the authors' weight is 0.1)."""

    def loss(self, context: Context) -> Tensor:
        """Cross entropy of the encoder's own logits towards the target class (section 3.4).

        Args:
            context: of B images, explained by RTS or another interpreter with an encoder.

        Returns:
            ``(B,)`` in nats, >= 0.

        Raises:
            ValueError: the interpreter has no encoder.
        """
        if "encoder_logits" not in context.interpretation.aux:
            name = type(context.inputs.interpreter).__name__
            raise ValueError(f"EncoderClass needs an interpreter with an encoder of its own (RTS), not {name}")
        return cross_entropy(context.interpretation.aux["encoder_logits"], context.inputs.target_class)


class FlowSmoothness(LossTerm):
    """l_flow: neighbouring pixels shall move alike (StAdv, Eqn 4; the paper's weight is 0.0005); for ``FlowField``."""

    needs_map = False

    def loss(self, context: Context) -> Tensor:
        """Sum of the differences of neighbouring pixels' flows (StAdv, Eqn 4).

        Args:
            context: of B images, its parameter a flow ``(B, 2, H, W)`` in pixels.

        Returns:
            ``(B,)`` in pixels, >= 0.
        """
        return flow_smoothness(context.parameter)
