"""Blind joint attacks: those that keep the map no better than an attack that ignores the map, or than noise."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from lightning_adv2.results.means import defined, mean_of
from lightning_adv2.results.summary import Row

FLAG = "blind_attack"
NOISE = "noise"
"""The control of uniform noise, by its key."""
LEAST_IMAGES = 5
"""With fewer images nothing is said."""
GAP = 0.1
"""Share of the way from the other's agreement to 1 that a joint attack must go."""
CLOSE = 0.9
"""From this mean agreement on there is nothing left to miss."""
MEANING = (
    f"{FLAG}: over the same images the joint attack leaves no more of the target map than an attack that ignores the "
    "map, or than uniform noise does. Its figures say nothing of the interpreter's robustness before the "
    "cause is known: give it a smooth surrogate whose sharpness suits the network's activations, another surrogate, "
    "more steps, or a greater map weight. Noise alone may leave more of the map of an interpreter that truly resists."
)


def blind_flags(images: Mapping[str, Sequence[Row]], joint: Sequence[str], others: Sequence[str]) -> dict[str, Row]:
    """The flags of each joint attack that looks blind, from the rows of ``images.csv``.

    The gain of an image is the joint attack's agreement with the target map minus the other attack's. The agreement is
    the map IoU, or 1 - L1 where fewer than ``LEAST_IMAGES`` images have an IoU under both attacks. A joint attack is
    flagged where the mean gain is not above 0 by two standard errors, or is below ``GAP`` times the distance of the
    other attack's agreement to 1. With fewer images, or with a mean agreement of at least ``CLOSE``, no flag is raised.

    Args:
        images: one interpreter's rows by the key of the attack.
        joint: keys of the attacks that aim at the map.
        others: keys of the attacks that ignore the map, and of the noise control.

    Returns:
        Key of the joint attack -> flag -> 1, one flag for each attack or control that keeps the map as well.
    """
    return {key: {flag_text(o): 1 for o in others if _no_better(images[key], images[o])} for key in joint}


def flag_text(other: str) -> str:
    """The flag of a joint attack that keeps the map no better than the attack ``other`` does."""
    return f"{FLAG}: its maps are no nearer to the target map than those under {other}"


def _no_better(images: Sequence[Row], others: Sequence[Row]) -> bool:
    by_name = {row["image_id"]: row for row in others if row["valid"]}
    both = [(row, by_name[row["image_id"]]) for row in images if row["valid"] and row["image_id"] in by_name]
    pairs = [(a["iou"], b["iou"]) for a, b in both if len(defined((a["iou"], b["iou"]))) == 2]
    if len(pairs) < LEAST_IMAGES:
        pairs = [(1 - a["l1"], 1 - b["l1"]) for a, b in both]
    n = len(pairs)
    if n < LEAST_IMAGES:
        return False
    gains = [own - other for own, other in pairs]
    kept, spared, gain = (mean_of(values) or 0.0 for values in ([p[0] for p in pairs], [p[1] for p in pairs], gains))
    error = math.sqrt(math.fsum((one - gain) ** 2 for one in gains) / (n - 1) / n)
    return kept < CLOSE and (gain <= 2 * error or gain < GAP * (1 - spared))
