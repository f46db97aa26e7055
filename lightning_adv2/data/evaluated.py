"""The data that a trainer's validate or test loop runs over: the one way from a trainer to its manifest."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Any

import pytorch_lightning as pl
from torch import Tensor

from lightning_adv2.data.manifest import Manifest


@dataclass(frozen=True)
class EvaluatedData:
    """The data of a trainer's current loop, as far as a data module tells.

    Attributes:
        module: the trainer's data module; None where the trainer was given loaders.
        source: the data module that knows the images: the one behind an ``AttackDataModule``, or ``module`` itself.
        manifest: which images are attacked; None without an ``AttackDataModule``.
    """

    module: Any
    source: Any
    manifest: Manifest | None

    def class_titles(self, count: int) -> list[str]:
        """Return the titles of ``count`` classes for a reader; their numbers where the data module has none."""
        return list(getattr(self.source, "class_titles", None) or map(str, range(count)))


def evaluated_data(trainer: pl.Trainer) -> EvaluatedData:
    """Return the data of the trainer's current loop."""
    module: Any = getattr(trainer, "datamodule", None)
    return EvaluatedData(module, getattr(module, "source", module), getattr(module, "manifest", None))


class LimitsBatch(ABC):
    """A callback that knows how many images it can work on at once, for ``batch_size: auto``."""

    @abstractmethod
    def fitting_batch(self, trainer: pl.Trainer, image: Tensor) -> int:
        """Return how many images like ``image`` ``(C, H, W)`` fit into the memory at once."""
