"""Randomness that belongs to an image, not to its place in a batch, a process or an epoch."""

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
        purpose: keeps the streams of different consumers apart (``"target_class"``, ``"attack"``, ...).
    """
    generators = []
    for name in image_id:
        digest = hashlib.sha256(f"{seed}|{purpose}|{name}".encode()).digest()
        generators.append(Generator().manual_seed(int.from_bytes(digest[:8], "big") >> 1))
    return generators


def per_image(draw: Callable[[Generator], Tensor], generators: Sequence[Generator], like: Tensor) -> Tensor:
    """Draw once from each image's generator and stack: ``(B, ...)`` with the device and dtype of ``like``."""
    if not generators:
        return like.new_empty((0,))
    drawn = torch.stack([draw(generator) for generator in generators])
    return drawn.to(device=like.device, dtype=like.dtype if drawn.is_floating_point() else drawn.dtype)


def draw_target_class(label: Tensor, num_classes: int, generators: Sequence[Generator]) -> Tensor:
    """A uniformly random class other than ``label`` for each image (paper section 4, targeted setting).

    Args:
        label: ``(B,)`` int64 in [0, num_classes).
        num_classes: K >= 2.

    Returns:
        ``(B,)`` int64.
    """
    if num_classes < 2:
        raise ValueError(f"num_classes={num_classes}: a target class other than the label needs at least 2 classes")
    shift = per_image(lambda g: torch.randint(1, num_classes, (), generator=g), generators, label)
    return (label + shift) % num_classes
