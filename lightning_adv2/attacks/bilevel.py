"""The attack on MASK, whose map is itself the result of an optimisation (paper section 3.6, Algorithm 1)."""

from __future__ import annotations

from collections.abc import Sequence
from copy import copy
from functools import partial
from typing import Self

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from lightning_adv2.attacks.objective import AttackInputs, Context, LossTerm, Ramp, TargetClass
from lightning_adv2.attacks.perturbation import Perturbation
from lightning_adv2.attacks.steps import Seen, Step, loss_gradient, seen, total_loss
from lightning_adv2.functional.classes import of_class
from lightning_adv2.functional.losses import map_mse
from lightning_adv2.interpreters import MASK
from lightning_adv2.models import Classifier
from lightning_adv2.types import Interpretation, State, without_map


class BilevelStep(Step):
    """Algorithm 1: a step on the class, then a step on the map that the inner optimisation is about to reach.

    1. The parameter moves by ``class_step`` against the L2-normalised gradient of l_prd.
    2. The mask takes ``plain`` Adam steps, then ``unrolled`` Adam steps that keep their graph: the interpreter's own
       steps, at its final rate (``MASK(lr_end=1)`` keeps the authors' constant rate).
    3. The parameter moves against the L2-normalised gradient of the map loss at the unrolled masks, by the largest
       step, found by bisection, that keeps the target class ahead of the second class by ``kappa`` logits.
    4. Every ``reset`` steps the mask is replaced by a fresh map, and Adam's memory is damped.

    Maps of iterates between two resets belong to a mask that lags behind. So with ``reset`` only fresh maps are
    reported; in between a step repeats its last report.

    Args:
        class_step: length of the first move, in the L2 norm of the parameter, >= 0 (the authors' 0.05).
        map_step: longest second move, in the L2 norm of the parameter (the authors' 0.08, then 0.04); a :class:`Ramp`
            over the stage, or a number.
        plain: steps of lookahead without a graph, >= 0 (the authors' 4).
        unrolled: steps of lookahead with a graph, >= 1 (the authors' 4).
        average: the map loss is the mean over the unrolled masks; otherwise that of the last mask.
        halvings: of the bisection (10); 0 always takes the longest move.
        kappa: in logits (10).
        reset: period in steps (50); 0 for never.
        checkpoint: keep only the start of each unrolled step, and compute the step again in the backward pass: the same
            gradient in a fraction of the memory, for more time.
        terms: what is minimised in the first move, without the map.

    Raises:
        ValueError: an argument is out of its range, or a term needs the map.
    """

    needs_map = True
    takes_map_terms = False

    def __init__(
        self,
        class_step: float = 0.05,
        map_step: float | Ramp = 0.08,
        plain: int = 4,
        unrolled: int = 4,
        average: bool = True,
        halvings: int = 10,
        kappa: float = 10.0,
        reset: int = 50,
        checkpoint: bool = False,
        terms: Sequence[LossTerm] = (),
    ) -> None:
        if unrolled < 1 or plain < 0 or halvings < 0 or reset < 0:
            raise ValueError(
                f"unrolled={unrolled}, plain={plain}, halvings={halvings}, reset={reset}: whole numbers, unrolled at "
                "least 1, the others at least 0"
            )
        self.map_step = map_step if isinstance(map_step, Ramp) else Ramp(map_step, map_step)
        if not (class_step >= 0 and self.map_step.start > 0 and self.map_step.end >= 0):
            raise ValueError(f"class_step={class_step}, map_step={map_step}: lengths; map_step must be positive")
        self.class_step, self.plain, self.unrolled = class_step, plain, unrolled
        self.average, self.halvings, self.kappa, self.reset = average, halvings, kappa, reset
        self.checkpoint = checkpoint
        self.set_terms(terms or [TargetClass()])

    def extended(self, terms: Sequence[LossTerm]) -> Self:
        """The same step with further terms in its first move; a step without a first move gets one of length 0.05.

        Args:
            terms: without the map.

        Raises:
            ValueError: a term needs the map.
        """
        other = super().extended(terms)
        other.class_step = self.class_step or 0.05
        return other

    def at_its_peak(self) -> Step:
        """The step whose graph has the memory of this step: recomputed, one unrolled step at a time has a graph."""
        other = copy(self)
        other.unrolled, other.checkpoint = 1 if self.checkpoint else self.unrolled, False
        return other

    def init(self, inputs: AttackInputs, parameter: Tensor) -> State:
        """Step count ``(B,)``, inner state, the terms' prepared states, and the last report; the first call fills them.

        Args:
            inputs: of B images, with a MASK.
            parameter: ``(B, ...)``, the perturbation's.

        Raises:
            ValueError: the interpreter is no MASK.
        """
        mask_interpreter(inputs)
        count = inputs.target_class.new_zeros(len(parameter))
        return count, (), tuple(term.prepare(inputs) for term in self.terms), ()

    def __call__(
        self, inputs: AttackInputs, perturbation: Perturbation, parameter: Tensor, state: State, progress: float
    ) -> tuple[Tensor, State, Seen]:
        """The next parameter ``(B, ...)``, the next state and the report: one iteration of Algorithm 1.

        For the arguments see :class:`Step`.

        Raises:
            ValueError: the interpreter is no MASK.
        """
        interpreter = mask_interpreter(inputs)
        classifier, target = inputs.classifier, inputs.target_class
        count, inner, prepared, report = state
        images = inputs.images
        start = int(count[0]) if len(count) else 0
        adv_images = perturbation.apply(images, parameter.detach()).detach()
        if start == 0 or (self.reset and start % self.reset == 0):
            fresh = interpreter.explain(classifier, adv_images, target)
            inner = fresh.state if start == 0 else _damped(fresh.state, inner)
            report = adv_images, fresh.logits, fresh.attribution_map
        elif not self.reset:
            with torch.no_grad():
                report = adv_images, classifier(adv_images), interpreter.map_of(inner)

        moved, finite = self._class_move(inputs, perturbation, parameter.detach(), prepared, progress)
        leaf = moved.detach().requires_grad_()
        with torch.enable_grad():
            shown = perturbation.apply(images, leaf)
            loss, inner = self.lookahead(inputs, shown, inner)
            gradient, map_finite = loss_gradient(loss, leaf)
        longest = self.map_step(progress)
        moved = self._map_move(inputs, perturbation, moved.detach(), _unit(gradient), longest)
        shown_then = Interpretation(report[1], report[2])
        return moved, (count + 1, inner, prepared, report), seen(report[0], shown_then, finite & map_finite)

    def lookahead(self, inputs: AttackInputs, adv_images: Tensor, inner: State) -> tuple[Tensor, State]:
        """The map loss of the masks to come, and the last inner state (Algorithm 1).

        Args:
            inputs: of B images, with a MASK and a target map.
            adv_images: ``(B, C, H, W)`` in [0, 1].
            inner: MASK's state.

        Returns:
            Loss ``(B,)`` in [0, 1], with a graph to ``adv_images``, and MASK's state, detached.

        Raises:
            ValueError: the interpreter is no MASK.
        """
        interpreter, target_map = mask_interpreter(inputs), wanted_map(inputs)
        arguments = inputs.classifier, inputs.target_class
        for _ in range(self.plain):
            inner = interpreter.advance(arguments[0], adv_images.detach(), arguments[1], inner)
        advance = partial(_recomputed, interpreter) if self.checkpoint else interpreter.advance
        losses = []
        for _ in range(self.unrolled):
            inner = advance(arguments[0], adv_images, arguments[1], inner)
            losses.append(map_mse(interpreter.map_of(inner), target_map))
        loss = torch.stack(losses).mean(0) if self.average else losses[-1]
        return loss, (inner[0].detach(), tuple(part.detach() for part in inner[1]))

    def _class_move(
        self, inputs: AttackInputs, perturbation: Perturbation, parameter: Tensor, prepared: State, progress: float
    ) -> tuple[Tensor, Tensor]:
        """The first move, and where its gradient was finite."""
        if not self.class_step:
            return parameter, torch.ones_like(inputs.target_class, dtype=torch.bool)
        leaf = parameter.requires_grad_()
        with torch.enable_grad():
            shown = perturbation.apply(inputs.images, leaf)
            interpretation = without_map(inputs.classifier(shown))
            context = Context(inputs, interpretation, progress, shown, leaf)
            gradient, finite = loss_gradient(total_loss(self.terms, context, prepared), leaf)
        moved = perturbation.project(inputs.images, leaf.detach() - self.class_step * _unit(gradient))
        return moved, finite

    def _map_move(
        self, inputs: AttackInputs, perturbation: Perturbation, parameter: Tensor, direction: Tensor, longest: float
    ) -> Tensor:
        """Along ``-direction`` as far as each image's margin allows; not at all where nothing allows it."""
        images, wide = inputs.images, (-1, *[1] * (parameter.dim() - 1))

        def at(size: Tensor) -> Tensor:
            return perturbation.project(images, parameter - size.view(wide) * direction)

        high = parameter.new_full((len(parameter),), longest)
        if not self.halvings:
            return at(high)
        low, size = torch.zeros_like(high), high
        with torch.no_grad():
            for _ in range(self.halvings + 1):  # the longest move first
                logits = inputs.classifier(perturbation.apply(images, at(size)))
                enough = margin(logits, inputs.target_class) >= self.kappa
                low, high = torch.where(enough, size, low), torch.where(enough, high, size)
                size = (low + high) / 2
        return at(low)


def _recomputed(interpreter: MASK, classifier: Classifier, images: Tensor, target_class: Tensor, inner: State) -> State:
    """``interpreter.advance``, of whose graph nothing is kept."""

    def advance(images: Tensor, mask: Tensor, *memory: Tensor) -> tuple[Tensor, ...]:
        after, rest = interpreter.advance(classifier, images, target_class, (mask, memory))
        return after, *rest

    mask, *memory = checkpoint(advance, images, inner[0], *inner[1], use_reentrant=False, preserve_rng_state=False)
    return mask, tuple(memory)


def margin(logits: Tensor, target_class: Tensor) -> Tensor:
    """The lead of the target class over the strongest other class.

    Args:
        logits: ``(B, K)``.
        target_class: ``(B,)`` in [0, K).

    Returns:
        ``(B,)``, in logits.
    """
    own = of_class(logits, target_class)
    return own - logits.scatter(1, target_class[:, None], -torch.inf).amax(1)


def _unit(gradient: Tensor) -> Tensor:
    """Each image's gradient at length 1; zero stays zero."""
    length = gradient.flatten(1).norm(dim=1).clamp(min=torch.finfo(gradient.dtype).tiny)
    unit: Tensor = gradient / length.view(-1, *[1] * (gradient.dim() - 1))
    return unit


def _damped(fresh: State, inner: State) -> State:
    """The fresh mask with the memory of the old one: means halved, variances quartered."""
    mean, variance, count = inner[1]
    return fresh[0], (0.5 * mean, 0.25 * variance, count)


def mask_interpreter(inputs: AttackInputs) -> MASK:
    """The interpreter of the inputs, which must be a MASK.

    Args:
        inputs: of any number of images.

    Raises:
        ValueError: names the interpreter found and the remedy.
    """
    if not isinstance(inputs.interpreter, MASK):
        raise ValueError(
            f"interpreter: this step looks into MASK's own optimisation, not {type(inputs.interpreter).__name__}'s; "
            "take adv2_attack(interpreter), which finds the attack that fits"
        )
    return inputs.interpreter


def wanted_map(inputs: AttackInputs) -> Tensor:
    """The target map m_t of inputs that are checked to have one.

    Args:
        inputs: of B images.

    Returns:
        ``(B, 1, h, w)`` in [0, 1].
    """
    assert inputs.target_map is not None
    return inputs.target_map
