"""Smooth surrogates for ReLU, whose second derivative is zero, so that an attack on GRAD sees no slope (section 3.2).

A surrogate is a context manager. Inside its context every ReLU of any network, and every activation made of ReLUs
(ReLU6, hardtanh, hardsigmoid, leaky and parametric ReLU), is computed by the smooth function. No network is copied or
changed, no hook is set, and leaving the context restores everything.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.overrides import TorchFunctionMode


class Surrogate(TorchFunctionMode):
    """Replaces ReLU by a smooth function while the context is open (paper section 3.2).

    Args:
        relative: measure the width of the smooth bend in units of each image's root mean square pre-activation, layer
            by layer: s * activation(z / s), which follows a network of any scale as ReLU does. Derivatives treat s as a
            constant. Otherwise the bend has one width everywhere, and is as sharp as ReLU's to a network whose
            activations are large: an attack through it sees no slope.
    """

    def __init__(self, relative: bool = True) -> None:
        super().__init__()
        self.relative = relative

    def activation(self, z: Tensor) -> Tensor:
        """The smooth function, elementwise and twice differentiable; approaches max(z, 0) far from 0.

        Args:
            z: pre-activations of any shape.

        Raises:
            NotImplementedError: in the base class.
        """
        raise NotImplementedError

    def smooth(self, z: Tensor, ceiling: float | None = None) -> Tensor:
        """The surrogate's value for ReLU, or for ReLU with a ceiling.

        Args:
            z: pre-activations ``(B, ...)``; the root mean square is taken over all axes but the first.
            ceiling: in the unit of ``z``; 6 for ReLU6.

        Returns:
            The shape of ``z``.
        """
        if not self.relative:
            value = self.activation(z)
            return value if ceiling is None else value - self.activation(z - ceiling)
        scale = _root_mean_square(z.detach())
        value = self.activation(z / scale)
        if ceiling is not None:
            value = value - self.activation((z - ceiling) / scale)
        return value * scale

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        """Divert the activations that are made of ReLUs; everything else runs as it is."""
        stand_in = _STAND_INS.get(func)
        if stand_in is None:
            return func(*args, **(kwargs or {}))
        return stand_in(self, *args, **(kwargs or {}))


def _write(z: Tensor, function: Callable[[Tensor], Tensor], inplace: bool) -> Tensor:
    """The function's value; written into ``z`` where the network calls the in-place form and reads ``z`` later."""
    return z.copy_(function(z.clone())) if inplace else function(z)


def _relu(mode: Surrogate, input: Tensor, inplace: bool = False) -> Tensor:
    return _write(input, mode.smooth, inplace)


def _relu6(mode: Surrogate, input: Tensor, inplace: bool = False) -> Tensor:
    return _write(input, lambda z: mode.smooth(z, ceiling=6), inplace)


def _hardtanh(
    mode: Surrogate, input: Tensor, min_val: float = -1.0, max_val: float = 1.0, inplace: bool = False
) -> Tensor:
    """A ReLU with a ceiling, moved; how nn.ReLU6 computes itself."""
    return _write(input, lambda z: mode.smooth(z - min_val, ceiling=max_val - min_val) + min_val, inplace)


def _hardsigmoid(mode: Surrogate, input: Tensor, inplace: bool = False) -> Tensor:
    """relu6(z + 3) / 6; torch has no second derivative of its hardsigmoid."""
    return _write(input, lambda z: mode.smooth(z + 3, ceiling=6) / 6, inplace)


def _leaky_relu(mode: Surrogate, input: Tensor, negative_slope: float = 0.01, inplace: bool = False) -> Tensor:
    return _write(input, lambda z: negative_slope * z + (1 - negative_slope) * mode.smooth(z), inplace)


def _prelu(mode: Surrogate, input: Tensor, weight: Tensor) -> Tensor:
    slope = weight if weight.numel() == 1 else weight.view(-1, *[1] * (input.dim() - 2))
    return slope * input + (1 - slope) * mode.smooth(input)


# Each function beside its in-place form.
_STAND_INS: dict[Any, Callable[..., Tensor]] = {
    **dict.fromkeys((F.relu, torch.relu, Tensor.relu), _relu),
    **dict.fromkeys((F.relu_, torch.relu_, Tensor.relu_), partial(_relu, inplace=True)),
    F.relu6: _relu6,
    F.hardtanh: _hardtanh,
    F.hardtanh_: partial(_hardtanh, inplace=True),
    F.hardsigmoid: _hardsigmoid,
    F.leaky_relu: _leaky_relu,
    F.leaky_relu_: partial(_leaky_relu, inplace=True),
    **dict.fromkeys((F.prelu, torch.prelu, Tensor.prelu), _prelu),
}


def _root_mean_square(z: Tensor) -> Tensor:
    """Over all axes but the first, which stay as axes of size 1; 1 where all values are 0."""
    axes = tuple(range(1, z.dim())) or None
    size = torch.linalg.vector_norm(z, dim=axes, keepdim=True) / max(z[:1].numel() if axes else z.numel(), 1) ** 0.5
    return torch.where(size == 0, 1.0, size)


class PlainReLU(Surrogate):
    """ReLU itself: the control of the paper's ablation (r(z), section 3.2)."""

    def __init__(self) -> None:
        super().__init__(relative=False)

    def activation(self, z: Tensor) -> Tensor:
        """max(z, 0), elementwise: ``z`` of any shape -> the same shape, >= 0."""
        return z.clamp(min=0)


class PaperReLU(Surrogate):
    """The paper's h(z) as the activation's derivative: 1 + z/sqrt(z^2 + tau) below 0, z/sqrt(z^2 + tau) from 0 on.

    The activation is its antiderivative, sqrt(z^2 + tau) + min(z, 0): within sqrt(tau) of ReLU everywhere. h jumps at
    0; its slope tau / (z^2 + tau)^1.5, which the attack uses, is positive everywhere (section 3.2).

    Args:
        tau: > 0, in the unit of z^2; the paper's 1e-4.
        relative: see :class:`Surrogate`; the paper's networks have activations of order 1, for which both are alike.

    Raises:
        ValueError: ``tau`` is not positive.
    """

    def __init__(self, tau: float = 1e-4, relative: bool = True) -> None:
        super().__init__(relative)
        if tau <= 0:
            raise ValueError(f"tau={tau}: must be positive (the paper takes 1e-4)")
        self.tau = tau

    def activation(self, z: Tensor) -> Tensor:
        """sqrt(z^2 + tau) + min(z, 0), elementwise: ``z`` of any shape -> the same shape (section 3.2)."""
        return (z.square() + self.tau).sqrt() + z.clamp(max=0)


class Softplus(Surrogate):
    """log(1 + exp(beta z)) / beta; its derivative is the sigmoid of beta z (section 3.2: sigma(z), beta 1).

    Args:
        beta: sharpness, > 0, in the inverse unit of z; larger values are closer to ReLU.
        relative: see :class:`Surrogate`; False for the paper's sigma.

    Raises:
        ValueError: ``beta`` is not positive.
    """

    def __init__(self, beta: float = 50.0, relative: bool = True) -> None:
        super().__init__(relative)
        if beta <= 0:
            raise ValueError(f"beta={beta}: must be positive (1 is the paper's sigma; 20 to 100 stay close to ReLU)")
        self.beta = beta

    def activation(self, z: Tensor) -> Tensor:
        """Softplus, elementwise, cut off where its slope is below 2e-9: ``z`` of any shape -> the same shape, > 0.

        Further out its derivatives are denormal numbers, on which a CPU's convolutions run several times slower.
        """
        return F.softplus(z.clamp(min=-20 / self.beta), beta=self.beta)
