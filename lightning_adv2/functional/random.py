"""Randomness that is fixed by the image, not by its position in a batch, a process or an epoch."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence

import torch
from torch import Generator, Tensor


def image_generators(seed: int, image_id: Sequence[str], purpose: str = "") -> list[Generator]:
    """One CPU generator per image, seeded by (seed, purpose, image id).

    Args:
        seed: the run's seed.
        image_id: B identifiers.
        purpose: separates the streams of different consumers (``target_class``, ``attack``, ...).

    Returns:
        B generators; equal arguments give equal streams in any process.
    """
    generators = []
    for name in image_id:
        digest = hashlib.sha256(f"{seed}|{purpose}|{name}".encode()).digest()
        generators.append(Generator().manual_seed(int.from_bytes(digest[:8], "big") >> 1))
    return generators


def per_image(draw: Callable[[Generator], Tensor], generators: Sequence[Generator], like: Tensor) -> Tensor:
    """One draw from each image's generator, stacked.

    Args:
        draw: a generator -> a CPU tensor ``(...)`` of the same shape for every image.
        generators: B CPU generators.
        like: any shape; gives the device, and the dtype of floating-point draws.

    Returns:
        ``(B, ...)``, also for no generators.
    """
    drawn = torch.stack([draw(generator) for generator in generators or [Generator()]])[: len(generators)]
    return drawn.to(device=like.device, dtype=like.dtype if drawn.is_floating_point() else drawn.dtype)


def draw_target_class(label: Tensor, num_classes: int, generators: Sequence[Generator]) -> Tensor:
    """A uniformly random class other than ``label`` for each image (paper section 4, targeted setting).

    Args:
        label: ``(B,)`` int64 in [0, K).
        num_classes: K >= 2.
        generators: B CPU generators.

    Returns:
        ``(B,)`` int64 in [0, K).

    Raises:
        ValueError: fewer than 2 classes.
    """
    if num_classes < 2:
        raise ValueError(f"num_classes={num_classes}: a target class other than the label needs at least 2 classes")
    shift = per_image(lambda g: torch.randint(1, num_classes, (), generator=g), generators, label)
    return (label + shift) % num_classes
