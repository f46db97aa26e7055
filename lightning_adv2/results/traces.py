"""Curves of an attack over its steps: means over images, summed record by record."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

Curves = dict[str, dict[str, list[float]]]
"""Attack -> name -> at each step the mean over all images for which it is defined."""


class MeanTraces:
    """Sums and counts of one attack's curves, in float64."""

    def __init__(self) -> None:
        self._sums: dict[str, Tensor] = {}
        self._counts: dict[str, Tensor] = {}

    def add(self, trace: Mapping[str, Tensor], keep: Sequence[int]) -> None:
        """Add a record's curves, each ``(T, n)``, of the images at the indices ``keep``; NaN is left out."""
        for name, curve in trace.items():
            own = curve[:, list(keep)].double()
            zero = torch.zeros(len(own), dtype=torch.float64)
            self._sums[name] = self._sums.get(name, zero) + own.nansum(1)
            self._counts[name] = self._counts.get(name, zero) + (~own.isnan()).sum(1)

    def means(self) -> dict[str, list[float]]:
        """The mean curves by name, one value per step; NaN where no image has a value."""
        return {name: (total / self._counts[name]).tolist() for name, total in self._sums.items()}
