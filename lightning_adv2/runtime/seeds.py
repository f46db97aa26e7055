"""Randomness as a function of the run's seed and the place in the run, so that no state of it need be saved."""

from __future__ import annotations

import hashlib
import os
import random

import numpy as np
import pytorch_lightning as pl
import torch


def run_seed(trainer: pl.Trainer | None) -> int:
    """Return the run's seed, the same on all processes: that of ``seed_everything``, else one in [0, 2^62).

    Without ``seed_everything`` rank 0 draws the seed from torch's global generator.

    Args:
        trainer: all its processes must call this together; None for a single process.
    """
    given = os.environ.get("PL_GLOBAL_SEED")
    if given is not None:
        return int(given)
    drawn = int(torch.randint(2**62, ()))
    return drawn if trainer is None else trainer.strategy.broadcast(drawn)


def derived(seed: int, *place: int | str) -> int:
    """Return a seed in [0, 2^63) for a place in the run; the seeds of different places are unrelated.

    Args:
        seed: the run's.
        place: names and numbers, such as ``"step", 7, 0``.
    """
    digest = hashlib.sha256("|".join(map(str, (seed, *place))).encode()).digest()
    return int.from_bytes(digest[:8], "big") >> 1


def seed_global_generators(seed: int) -> None:
    """Seed the global generators of Python, NumPy and torch, on every device.

    Args:
        seed: at least 0; NumPy gets its remainder modulo 2^32.
    """
    random.seed(seed)
    np.random.seed(seed % 2**32)  # noqa: NPY002 - whatever a module draws from must be seeded
    torch.manual_seed(seed)
