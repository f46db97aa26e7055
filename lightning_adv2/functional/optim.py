"""Update rules as (init, update) pairs of pure functions; every state leaf leads with the batch dimension.

``update`` returns the step to *add*, for a learning rate of 1; it is differentiable with respect to the gradient.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from lightning_adv2.types import State


class Rule(NamedTuple):
    """An update rule.

    Attributes:
        init: parameter ``(B, ...)`` -> state.
        update: (gradient ``(B, ...)``, state) -> (step ``(B, ...)``, new state).
    """

    init: Callable[[Tensor], State]
    update: Callable[[Tensor, State], tuple[Tensor, State]]


def sign() -> Rule:
    """Steepest descent in L-infinity: the step is minus the gradient's sign (PGD, Eqn 2)."""
    return Rule(lambda parameter: (), lambda gradient, state: (-gradient.sign(), state))


def adam(beta1: float = 0.9, beta2: float = 0.999, eps: float = 1e-8) -> Rule:
    """Adam with bias correction (Kingma and Ba, 2015, Algorithm 1)."""

    def init(parameter: Tensor) -> State:
        zeros = torch.zeros_like(parameter)
        return zeros, zeros, parameter.new_zeros(parameter.shape[0])

    def update(gradient: Tensor, state: State) -> tuple[Tensor, State]:
        mean, variance, count = state
        count = count + 1
        mean = beta1 * mean + (1 - beta1) * gradient
        variance = beta2 * variance + (1 - beta2) * gradient.square()
        t = count.view(-1, *[1] * (gradient.dim() - 1))
        mean_hat = mean / (1 - beta1**t)
        # The root of an exact zero has an infinite slope; the tiny shift keeps an unrolled step differentiable.
        root = (variance / (1 - beta2**t) + torch.finfo(gradient.dtype).tiny).sqrt()
        return -mean_hat / (root + eps), (mean, variance, count)

    return Rule(init, update)
