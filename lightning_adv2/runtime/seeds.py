"""Randomness as a function of the run's seed and the place in the run, so that resuming needs no saved state of it."""

from __future__ import annotations

import hashlib
import os
import random

import numpy as np
import pytorch_lightning as pl
import torch


def run_seed(trainer: pl.Trainer | None) -> int:
    """The run's seed, the same on all processes: ``seed_everything``'s, or else drawn from torch's global generator."""
    given = os.environ.get("PL_GLOBAL_SEED")
    if given is not None:
        return int(given)
    drawn = int(torch.randint(2**62, ()))
    return drawn if trainer is None else trainer.strategy.broadcast(drawn)


def derived(seed: int, *place: int | str) -> int:
    """A seed in [0, 2^63) for a place in the run; different places have unrelated ones."""
    digest = hashlib.sha256("|".join(map(str, (seed, *place))).encode()).digest()
    return int.from_bytes(digest[:8], "big") >> 1


def seed_global_generators(seed: int) -> None:
    """Seed those of Python, NumPy and torch, on every device."""
    random.seed(seed)
    np.random.seed(seed % 2**32)  # noqa: NPY002 - whatever a module draws from must be seeded
    torch.manual_seed(seed)
