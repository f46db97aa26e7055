"""How an attack moves: a step turns one iterate into the next and says what it saw on the way."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from contextlib import nullcontext
from copy import copy
from dataclasses import dataclass, replace
from typing import Self

import torch
from torch import Tensor

from lightning_adv2.attacks.objective import AttackInputs, Context, LossTerm, Ramp
from lightning_adv2.attacks.perturbation import Perturbation
from lightning_adv2.functional.optim import Rule
from lightning_adv2.models import Surrogate
from lightning_adv2.types import Interpretation, State, without_map

# A fooled classifier's cross entropy has gradients around exp(-margin), which become denormal numbers on their way to
# the input: a CPU then runs the same step ten times slower. The rules do not depend on the gradient's scale, and a
# power of two changes no digit of it.
GRADIENT_SCALE = 2.0**40


@dataclass
class Seen:
    """What a step evaluated *before* it moved.

    Attributes:
        adv_images: ``(B, C, H, W)``, detached.
        interpretation: detached; its map belongs to the smooth surrogate where the step uses one.
        finite: ``(B,)`` bool, False where loss or gradient was NaN or infinite (such an image did not move).
    """

    adv_images: Tensor
    interpretation: Interpretation
    finite: Tensor


class Step(ABC):
    """One kind of move; the plug for attacks that do not fit 'sum the terms, take the gradient'."""

    terms: tuple[LossTerm, ...]
    needs_map: bool

    def extended(self, terms: Sequence[LossTerm]) -> Self:
        """The same step with more to minimise."""
        other = copy(self)
        other.terms = (*self.terms, *terms)
        return other

    def at_its_peak(self) -> Step:
        """The step whose graph shows the memory needed: itself, unless part of it is only built on the way back."""
        return self

    @abstractmethod
    def init(self, inputs: AttackInputs, parameter: Tensor) -> State:
        """The step's own state at the start of a stage, every leaf with B first."""

    @abstractmethod
    def __call__(
        self, inputs: AttackInputs, perturbation: Perturbation, parameter: Tensor, state: State, progress: float
    ) -> tuple[Tensor, State, Seen]:
        """Next parameter, next state, and what was seen at the current parameter."""


class GradientStep(Step):
    """Descend the sum of the loss terms along a first-order rule, then project.

    Args:
        terms: what to minimise; without a term that needs the map, no map is computed.
        rule: from ``functional.optim``.
        step_size: in units of the parameter, over the stage.
        surrogate: smooth ReLU in which loss and gradient are computed; None uses the network as it is.
    """

    def __init__(
        self, terms: Sequence[LossTerm], rule: Rule, step_size: Ramp, surrogate: Surrogate | None = None
    ) -> None:
        self.terms, self.rule, self.step_size, self.surrogate = tuple(terms), rule, step_size, surrogate
        self.needs_map = any(term.needs_map for term in terms)

    def init(self, inputs: AttackInputs, parameter: Tensor) -> State:
        """The rule's state, and what the terms prepare."""
        return self.rule.init(parameter), tuple(term.prepare(inputs) for term in self.terms)

    def __call__(
        self, inputs: AttackInputs, perturbation: Perturbation, parameter: Tensor, state: State, progress: float
    ) -> tuple[Tensor, State, Seen]:
        """See :class:`Step`."""
        rule_state, prepared = state
        parameter = parameter.detach().requires_grad_()
        with torch.enable_grad(), self.surrogate or nullcontext():
            adv_images = perturbation.apply(inputs.images, parameter)
            interpretation = self._interpret(inputs, adv_images)
            context = Context(inputs, interpretation, progress, adv_images, parameter)
            loss = total_loss(self.terms, context, prepared)
            gradient, finite = loss_gradient(loss, parameter)
        update, rule_state = self.rule.update(gradient, rule_state)
        moved = perturbation.project(inputs.images, parameter.detach() + self.step_size(progress) * update)
        return moved, (rule_state, prepared), seen(adv_images, interpretation, finite)

    def _interpret(self, inputs: AttackInputs, adv_images: Tensor) -> Interpretation:
        if self.needs_map:
            assert inputs.interpreter is not None  # the engine checks
            result: Interpretation = inputs.interpreter(inputs.classifier, adv_images, inputs.target_class)
            return result
        return without_map(inputs.classifier(adv_images))


def total_loss(terms: Sequence[LossTerm], context: Context, prepared: Sequence[State]) -> Tensor:
    """The sum of the terms, ``(B,)``."""
    losses = [term(replace(context, prepared=own)) for term, own in zip(terms, prepared, strict=True)]
    return torch.stack(losses).sum(0)


def loss_gradient(loss: Tensor, parameter: Tensor) -> tuple[Tensor, Tensor]:
    """The gradient of each image's loss, up to a common factor, and where it is finite.

    sign(NaN) is 0 and Adam would spread a NaN for ever: such an image gets a zero gradient, stays and is reported.

    Args:
        loss: ``(B,)``.
        parameter: ``(B, ...)``, requires grad.

    Returns:
        ``(B, ...)`` and ``(B,)`` bool.
    """
    (gradient,) = torch.autograd.grad(loss.sum() * GRADIENT_SCALE, parameter)
    # The squares too: what overflows there would stop Adam, or a normalised step, without a word.
    finite = (gradient.flatten(1).square().sum(1).isfinite() & loss.isfinite()).detach()
    # As the parameter lies, however the network has its images.
    return torch.where(finite.view(-1, *[1] * (gradient.dim() - 1)), gradient, 0.0).contiguous(), finite


def seen(adv_images: Tensor, interpretation: Interpretation, finite: Tensor) -> Seen:
    """What a step reports, without its graph."""
    shown = Interpretation(interpretation.logits.detach(), interpretation.attribution_map.detach())
    return Seen(adv_images.detach(), shown, finite)
