"""What remains of an interpreter when each of its images is attacked by whatever works best on it."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Collection, Sequence

from lightning_adv2.results.means import defined, mean_of
from lightning_adv2.results.records import record_key
from lightning_adv2.results.summary import Row

AGREEMENTS = ("iou", "iou_true_class", "iou_target_class")
"""Columns of an image's row: its map against the benign one, as ADV2 sees it, and with both asked for one class."""


def worst_case(images: Sequence[Row], attacks: Collection[str]) -> Row:
    """The attacker's choice, image by image: of the attacks that succeeded, that which leaves the map most as it was.

    Args:
        images: one interpreter's rows of ``images.csv``.
        attacks: names and schedules of the attacks that aim at the map.

    Returns:
        ``n`` (images under which one of the attacks is valid), ``successful`` (images on which one succeeded), ``asr``
        (their share; None where n is 0), ``chosen`` (attack -> on how many images it was chosen, most first), the means
        of ``AGREEMENTS`` and ``l1`` over the images on which one succeeded (None where there is none), and ``empty``.
        An image whose two maps are both empty has no IoU: any attack with one is chosen before, and it is in no mean of
        the IoU; ``empty`` counts such images for each of ``AGREEMENTS``.
    """
    own = [one for one in images if one["valid"] and _key(one) in attacks]
    best: dict[str, Row] = {}
    for one in own:
        name = one["image_id"]
        if one["success"] and (name not in best or _kept(one) > _kept(best[name])):
            best[name] = one
    n = len({one["image_id"] for one in own})
    means = {key: mean_of(one[key] for one in best.values()) for key in (*AGREEMENTS, "l1")}
    chosen = dict(Counter(map(_key, best.values())).most_common())
    empty = {key: len(best) - len(defined(one[key] for one in best.values())) for key in AGREEMENTS}
    head = {"n": n, "successful": len(best), "asr": len(best) / n if n else None, "chosen": chosen}
    return {**head, **means, "empty": empty}


def _key(one: Row) -> str:
    return record_key(one["attack"], one["schedule"])


def _kept(one: Row) -> float:
    return -1.0 if math.isnan(one["iou"]) else float(one["iou"])
