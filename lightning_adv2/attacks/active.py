"""The images of a batch that a stage still moves, and the rule by which it stops moving an image."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from lightning_adv2.attacks.objective import AttackInputs
from lightning_adv2.types import State


@dataclass(frozen=True)
class EarlyStopping:
    """Stops moving a confident image whose best iterate has not improved for ``patience`` steps.

    An image stops by its own history, so that it ends where it would end alone. For MASK ``patience`` must span several
    of its step's fresh maps, which come every ``reset`` or ``refresh`` steps. For steps of constant size, such as the
    ``paper`` schedules: where the steps decay to nothing, as in ``fast``, the map improves at the end.

    Attributes:
        patience: steps without an improvement, at least 1.
        tolerance: the least improvement that counts, in [0, 1): in the map's mean square difference; in a stage without
            a map in the confidence.
        every: steps between two checks, at least 1; each check waits for the device.

    Raises:
        ValueError: an argument is out of its range.
    """

    patience: int = 100
    tolerance: float = 1e-4
    every: int = 10

    def __post_init__(self) -> None:
        if self.patience < 1 or self.every < 1:
            raise ValueError(f"patience={self.patience}, every={self.every}: numbers of steps, at least 1")
        if not 0 <= self.tolerance < 1:
            raise ValueError(f"tolerance={self.tolerance}: a difference of losses in [0, 1), such as 1e-4")


class Watch:
    """The images of a batch that have stopped improving.

    Args:
        rule: when an image is finished.
        like: ``(B,)``, for device and type.
    """

    def __init__(self, rule: EarlyStopping, like: Tensor) -> None:
        self._rule, self._steps = rule, 0
        self._best = torch.full_like(like, torch.inf)
        self._since = torch.zeros_like(like)

    def see(self, ranks: Tensor) -> Tensor | None:
        """The images that are finished after one more step.

        Args:
            ranks: ``(B,)``, of the best iterates; see :func:`~lightning_adv2.attacks.best.rank`.

        Returns:
            ``(B,)`` bool; None between two checks.
        """
        better = ranks < self._best - self._rule.tolerance
        self._best = torch.where(better, ranks, self._best)
        self._since = torch.where(better, 0, self._since + 1)
        self._steps += 1
        if self._steps % self._rule.every:
            return None
        return (self._best <= 1) & (self._since >= self._rule.patience)


class ActiveSet:
    """The images that a stage still moves, b of B.

    Args:
        inputs: of the batch.
        parameter: ``(B, ...)``, the perturbation's.
        state: the step's, every leaf with B first.

    Attributes:
        rows: ``(b,)`` int64, the images' indices in the batch; None for all.
        inputs: of the active images.
        parameter: ``(b, ...)``, of the active images.
        state: the step's, every leaf with b first.
    """

    def __init__(self, inputs: AttackInputs, parameter: Tensor, state: State) -> None:
        self.inputs, self.parameter, self.state = inputs, parameter, state
        self.rows: Tensor | None = None
        self._whole = parameter

    def __len__(self) -> int:
        return len(self.parameter)

    def spread(self, values: Tensor, whole: Tensor) -> Tensor:
        """The values of the whole batch, the active images' values replaced.

        Args:
            values: ``(b, ...)``, of the active images.
            whole: ``(B, ...)``.

        Returns:
            ``(B, ...)``.
        """
        return values if self.rows is None else whole.index_copy(0, self.rows, values)

    @property
    def everywhere(self) -> Tensor:
        """The parameter of all images, ``(B, ...)``."""
        return self.spread(self.parameter, self._whole)

    def leave(self, finished: Tensor) -> None:
        """Go on without the images that are finished.

        Args:
            finished: ``(B,)`` bool.
        """
        rows = torch.arange(len(finished), device=finished.device) if self.rows is None else self.rows
        keep = (~finished[rows]).nonzero()[:, 0]
        if len(keep) == len(rows):
            return
        self._whole, self.rows = self.everywhere, rows[keep]
        self.parameter, self.state = self.parameter[keep], rows_of(self.state, keep)
        self.inputs = replace(
            self.inputs,
            images=self.inputs.images[keep],
            target_class=self.inputs.target_class[keep],
            target_map=rows_of(self.inputs.target_map, keep),
            generators=[self.inputs.generators[i] for i in keep.tolist()],
        )


def rows_of(state: Any, rows: Tensor) -> Any:
    """Some rows of every leaf of a state.

    Args:
        state: a tensor ``(B, ...)``, nested tuples of such, or any other value, which is returned unchanged.
        rows: ``(b,)`` int64.

    Returns:
        The same structure, every leaf with b first.
    """
    if isinstance(state, Tensor):
        return state[rows]
    return tuple(rows_of(part, rows) for part in state) if isinstance(state, tuple) else state
