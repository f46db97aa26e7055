"""The benign side of a run: how often the classifier is right, and what the maps look like before any attack."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from torch import Tensor

from lightning_adv2.metrics.quality import LEAST_AREA, MOST_AREA

LEAST_IMAGES = 5
"""With fewer images no flag is raised."""
ABOVE_CHANCE = 0.25
"""Share of the way from chance to 1 that the classifier's accuracy must go."""
FEW_PIXELS = 16
"""With fewer pixels in a map an IoU takes few values."""
THRESHOLD = 0.5
"""Where maps are cut for the IoU."""

MESSAGES = {
    "low_accuracy": "the classifier is hardly better than chance on benign images, and no figure says anything of a "
    "trained one; check the normalisation (mean, std), the order of the classes, and the size of the images",
    "empty_maps": "the benign maps are nearly empty, and agree with any other such map: neither a low nor a high IoU "
    "says anything of the attack; train the interpreter longer or with other loss weights (a lower area_weight), or "
    "average a gradient's map over more pixels (pool)",
    "full_maps": "the benign maps are nearly full, and agree with any other such map: a high IoU says nothing of the "
    "attack; train the interpreter longer or with other loss weights (a higher area_weight)",
}
"""Flag -> what is wrong and what to do."""


def benign_facts(
    part: Mapping[str, Any] | None, classes: int | None, sizes: Iterable[tuple[int, int]], areas: Sequence[float]
) -> dict[str, Any]:
    """Facts about the benign images under one interpreter, as ``results.json`` has them.

    Args:
        part: the interpreter's denominators; None where they lack the images that the manifest left out, on none of
            which the classifier is right.
        classes: K, the number of classes; None where it is not known.
        sizes: height and width of the maps.
        areas: for each attacked image the share of its benign map, in [0, 1], that is at least ``THRESHOLD``.

    Returns:
        ``judged`` (images with a verdict of the classifier: neither skipped nor, in image or logits, not finite),
        ``right`` (of these), ``chance`` (1 / K; None where K is not known, or 1), ``map_sizes`` (each ``[h, w]``
        once), ``map_area`` (the mean of ``areas``, None where there is none), ``flags`` (keys of ``MESSAGES``).
    """
    judged = right = 0
    if part is not None:
        # An image whose map says nothing was classified correctly all the same.
        of_maps = sum(count for reason, count in part["reasons"].items() if "map" in reason)
        judged = part["considered"] - part["skipped"] - (part["invalid"] - of_maps)
        right = judged - part["already_wrong"]
    chance = 1 / classes if classes and classes > 1 else None
    area = math.fsum(areas) / len(areas) if areas else None
    flags = []
    if chance is not None and judged >= LEAST_IMAGES and right < judged * (chance + ABOVE_CHANCE * (1 - chance)):
        flags.append("low_accuracy")
    if area is not None and len(areas) >= LEAST_IMAGES:
        flags += ["empty_maps"] * (area < LEAST_AREA) + ["full_maps"] * (area > MOST_AREA)
    return {
        "judged": judged,
        "right": right,
        "chance": chance,
        "map_sizes": [list(size) for size in sorted(set(sizes))],
        "map_area": area,
        "flags": flags,
    }


def map_areas(maps: Tensor) -> list[float]:
    """The share in [0, 1] of each map's pixels that are at least ``THRESHOLD``; maps are ``(n, 1, h, w)`` in [0, 1]."""
    counts: list[int] = (maps >= THRESHOLD).flatten(1).sum(1).tolist()
    return [count / maps[0].numel() for count in counts]


def accuracy_lines(benign: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """Sentences with the classifier's accuracy: one for all interpreters where it is the same, else one for each."""
    return said_once({name: _accuracy(facts) for name, facts in benign.items() if facts["judged"]})


def _accuracy(facts: Mapping[str, Any]) -> str:
    chance = f"; chance {100 * facts['chance']:.2g}%" if facts["chance"] is not None else ""
    share = f"{facts['right'] / facts['judged']:.0%}{chance}"
    return f"The classifier is right on {facts['right']:,} of {facts['judged']:,} images ({share})"


def resolution(benign: Mapping[str, Mapping[str, Any]]) -> str:
    """A sentence with the maps' sizes in pixels, and a warning for maps of few pixels; empty where there is no map."""
    sizes = {name: facts["map_sizes"] for name, facts in benign.items() if facts["map_sizes"]}
    if not sizes:
        return ""
    told = ", ".join(f"{name} {' and '.join(f'{h} x {w}' for h, w in own)}" for name, own in sizes.items())
    few = [name for name, own in sizes.items() if any(h * w < FEW_PIXELS for h, w in own)]
    rest = f"; an IoU of fewer than 4 x 4 pixels ({', '.join(few)}) takes few values" if few else ""
    return f"Map pixels: {told}; L1 and IoU are over these{rest}"


def benign_flags(benign: Mapping[str, Mapping[str, Any]]) -> list[tuple[str, str]]:
    """Pairs of an interpreter, or ``classifier`` where all have the same flag, and the flag with its explanation."""
    found: list[tuple[str, str]] = []
    for flag, message in MESSAGES.items():
        names = [name for name, facts in benign.items() if flag in facts["flags"]]
        names = ["classifier"] if flag == "low_accuracy" and len(names) == len(benign) > 0 else names
        found += [(name, f"{flag}: {message}") for name in names]
    return found


def said_once(lines: Mapping[str, str]) -> list[str]:
    """One line where all interpreters have the same, else one line for each, after the interpreter's name."""
    if len(set(lines.values())) == 1:
        return [next(iter(lines.values()))]
    return [f"{name}: {line}" for name, line in lines.items()]
