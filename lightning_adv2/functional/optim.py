"""Update rules as (init, update) pairs of pure functions; every state leaf leads with the batch dimension.

``update`` returns the step to *add*, for a learning rate of 1, and is differentiable with respect to the gradient.
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
    """Steepest descent in L-infinity: the step is minus the gradient's sign (PGD, paper section 3.1, Eqn 2).

    Returns:
        A rule without a state; its steps ``(B, ...)`` are -1, 0 or 1, in units of the step size.
    """
    return Rule(lambda parameter: (), lambda gradient, state: (-gradient.sign(), state))


def adam(beta1: float = 0.9, beta2: float = 0.999, eps: float = 1e-8, amsgrad: bool = False) -> Rule:
    """Adam with bias correction (Kingma and Ba 2015, Algorithm 1).

    Args:
        beta1: decay rate of the mean gradient, in [0, 1).
        beta2: decay rate of the mean squared gradient, in [0, 1).
        eps: added to the root of the mean square, in units of the gradient.
        amsgrad: divide by the root of the largest mean square so far (Reddi et al. 2018); as in ``torch.optim.Adam``,
            the maximum is taken before the bias correction.

    Returns:
        A rule whose state is (mean ``(B, ...)``, mean square ``(B, ...)``, step count ``(B,)``), with ``amsgrad`` also
        the largest mean square ``(B, ...)``; its steps are about 1 long per component, in units of the step size.
    """

    def init(parameter: Tensor) -> State:
        zeros = torch.zeros_like(parameter)
        state = zeros, zeros, parameter.new_zeros(parameter.shape[0])
        return (*state, zeros) if amsgrad else state

    def update(gradient: Tensor, state: State) -> tuple[Tensor, State]:
        mean, variance, count, *highest = state
        count = count + 1
        mean = beta1 * mean + (1 - beta1) * gradient
        variance = beta2 * variance + (1 - beta2) * gradient.square()
        highest = [torch.maximum(largest, variance) for largest in highest]
        t = count.view(-1, *[1] * (gradient.dim() - 1))
        mean_hat = mean / (1 - beta1**t)
        # The root of an exact zero has an infinite slope; the tiny shift keeps an unrolled step differentiable.
        square = highest[0] if amsgrad else variance
        root = (square / (1 - beta2**t) + torch.finfo(gradient.dtype).tiny).sqrt()
        return -mean_hat / (root + eps), (mean, variance, count, *highest)

    return Rule(init, update)
