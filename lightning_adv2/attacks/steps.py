"""Steps: the moves of an attack, each from one iterate to the next, with a report of the iterate it started from."""

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
    """A step's report of the iterate from which it moved.

    Attributes:
        adv_images: ``(B, C, H, W)`` in [0, 1], detached.
        interpretation: detached; its map belongs to the smooth surrogate where the step uses one.
        finite: ``(B,)`` bool, False where loss or gradient was NaN or infinite (such an image did not move).
    """

    adv_images: Tensor
    interpretation: Interpretation
    finite: Tensor


class Step(ABC):
    """A kind of move; the plug for attacks that are not a gradient step on a sum of terms.

    Public attributes of the object are part of the experiment (``runtime.describe``); those of the class are not.

    Attributes:
        terms: minimised; :meth:`set_terms` sets them.
        needs_gradient: whether the step follows the gradient of the classifier or of the map; False for a search, which
            may therefore attack an interpreter that is not differentiable.
        takes_map_terms: whether terms may need the map; False for a step that makes its own map loss.
    """

    terms: tuple[LossTerm, ...] = ()
    needs_gradient = True
    takes_map_terms = True

    @property
    def needs_map(self) -> bool:
        """Whether the step reports maps: by default, if one of its terms needs the map."""
        return any(term.needs_map for term in self.terms)

    def set_terms(self, terms: Sequence[LossTerm]) -> None:
        """Set the terms; the only place where they change. A step that cannot take all terms overrides this method.

        Args:
            terms: minimised.

        Raises:
            ValueError: the step cannot take a term.
        """
        names = [] if self.takes_map_terms else [type(term).__name__ for term in terms if term.needs_map]
        if names:
            raise ValueError(f"terms: this step makes its own map loss and shows the others no map; leave out {names}")
        self.terms = tuple(terms)

    def extended(self, terms: Sequence[LossTerm]) -> Self:
        """The same step with further terms.

        Args:
            terms: minimised as well.

        Raises:
            ValueError: see :meth:`set_terms`.
        """
        other = copy(self)
        other.set_terms((*self.terms, *terms))
        return other

    def at_its_peak(self) -> Step:
        """The step whose graph has this step's memory: itself, unless part of the graph is made in backward."""
        return self

    @abstractmethod
    def init(self, inputs: AttackInputs, parameter: Tensor) -> State:
        """The step's own state at the start of a stage.

        Args:
            inputs: of B images.
            parameter: ``(B, ...)``, the perturbation's.

        Returns:
            Every leaf with B first.

        Raises:
            ValueError: the step does not apply to these inputs.
        """

    @abstractmethod
    def __call__(
        self, inputs: AttackInputs, perturbation: Perturbation, parameter: Tensor, state: State, progress: float
    ) -> tuple[Tensor, State, Seen]:
        """One move.

        Args:
            inputs: of B images.
            perturbation: applies and projects the parameter.
            parameter: ``(B, ...)``, the current one.
            state: from :meth:`init` or the last move.
            progress: the share of the stage that is done, in [0, 1].

        Returns:
            The next parameter ``(B, ...)``, the next state, and the report of the current parameter.
        """


class GradientStep(Step):
    """Descends the sum of the loss terms by a first-order rule, then projects (paper section 3.1, Eqn 2).

    Args:
        terms: minimised; without a term that needs the map, no map is computed.
        rule: from ``functional.optim``.
        step_size: in units of the parameter, over the stage.
        surrogate: smooth ReLU in which loss and gradient are computed; None uses the network as it is.
    """

    needs_map = False  # of an object an attribute, which is part of its experiment

    def __init__(
        self, terms: Sequence[LossTerm], rule: Rule, step_size: Ramp, surrogate: Surrogate | None = None
    ) -> None:
        self.rule, self.step_size, self.surrogate = rule, step_size, surrogate
        self.set_terms(terms)

    def set_terms(self, terms: Sequence[LossTerm]) -> None:
        """Set the terms, and with them whether a map is computed.

        Args:
            terms: minimised.
        """
        super().set_terms(terms)
        self.needs_map = any(term.needs_map for term in self.terms)

    def init(self, inputs: AttackInputs, parameter: Tensor) -> State:
        """The rule's state and the terms' prepared states, every leaf with B first.

        Args:
            inputs: of B images.
            parameter: ``(B, ...)``, the perturbation's.

        Raises:
            ValueError: a term does not apply to these inputs.
        """
        return self.rule.init(parameter), tuple(term.prepare(inputs) for term in self.terms)

    def __call__(
        self, inputs: AttackInputs, perturbation: Perturbation, parameter: Tensor, state: State, progress: float
    ) -> tuple[Tensor, State, Seen]:
        """The next parameter ``(B, ...)``, the next state and the report.

        For the arguments see :class:`Step`.

        Raises:
            ValueError: a term does not apply to these inputs.
        """
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
    """The sum of the weighted terms (l_adv, paper section 3.1).

    Args:
        terms: at least one.
        context: of B images.
        prepared: each term's :meth:`LossTerm.prepare`.

    Returns:
        ``(B,)``.

    Raises:
        ValueError: not as many prepared states as terms.
    """
    losses = [term(replace(context, prepared=own)) for term, own in zip(terms, prepared, strict=True)]
    return torch.stack(losses).sum(0)


def loss_gradient(loss: Tensor, parameter: Tensor) -> tuple[Tensor, Tensor]:
    """The gradient of each image's loss, up to a common factor, and whether it is finite.

    sign(NaN) is 0, and Adam would keep a NaN in its state: an image without a finite gradient gets a zero gradient,
    stays and is reported.

    Args:
        loss: ``(B,)``.
        parameter: ``(B, ...)``, requires grad.

    Returns:
        ``(B, ...)`` and ``(B,)`` bool.
    """
    (gradient,) = torch.autograd.grad(loss.sum() * GRADIENT_SCALE, parameter)
    # The squares too: an overflow there would silently stop Adam, or a normalised step.
    finite = (gradient.flatten(1).square().sum(1).isfinite() & loss.isfinite()).detach()
    # In the parameter's memory layout, whatever the network's.
    return torch.where(finite.view(-1, *[1] * (gradient.dim() - 1)), gradient, 0.0).contiguous(), finite


def seen(adv_images: Tensor, interpretation: Interpretation, finite: Tensor) -> Seen:
    """The report of a step, without its graph.

    Args:
        adv_images: ``(B, C, H, W)`` in [0, 1], the iterate.
        interpretation: of the iterate.
        finite: ``(B,)`` bool.
    """
    shown = Interpretation(interpretation.logits.detach(), interpretation.attribution_map.detach())
    return Seen(adv_images.detach(), shown, finite)
