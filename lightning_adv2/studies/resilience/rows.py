"""Rows that join an evaluation's robustness with its benign map quality.

An interpreter that says nothing, by noise or by a constant map, cannot be fooled either. So a resilience counts only
where the benign maps are worth what the reference's are, and where nothing says that the attack was hindered.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping, Sequence

from lightning_adv2.metrics import relative_losses
from lightning_adv2.results.blind import NOISE, flag_text
from lightning_adv2.results.records import record_key
from lightning_adv2.results.summary import Row
from lightning_adv2.studies.map_quality import MEASURES
from lightning_adv2.studies.noise import noise_name
from lightning_adv2.studies.resilience.worst_case import AGREEMENTS, worst_case

Quality = Mapping[str, Mapping[str, float]]
"""Interpreter -> measure -> value, of the measures that it has."""

SUCCESS = 0.95
"""The share of the images to be fooled before a resilience is claimed; of the others nothing is known."""
FLAGGED = 0.05
"""The share of the images that a flag may concern without voiding the attack's figures."""
WEAK = 0.05
"""How much higher the IoU under an attack that was not made for the map may be: IoUs that vary by 0.3 from image to
image have means that differ by 0.04 by chance, on a hundred images. It is about attacks alone: a gate that tolerates
more does not excuse a weaker attack."""
CORRELATION = 0.5, 0.1, 0.9
"""Limit of ``randomised_correlation``: the first, or so much above the reference's; but never above the last, where a
map is much the same whatever was learnt."""
LEAST_GAP = 0.02
"""A reference with less sets no standard: 5% of next to nothing is a gate that anybody passes or fails by chance."""
_NEEDED = ("preserved", "gap", "deletion", "insertion")
_TINY = 1e-6


def resilience_rows(
    rows: Sequence[Row],
    images: Sequence[Row],
    quality: Sequence[Row],
    *,
    reference: str = "rts",
    tolerance: float = 0.05,
    max_agreement_l1: float = 0.05,
    noise: Sequence[Row] = (),
    transfer: Sequence[Row] = (),
) -> list[Row]:
    """One row per interpreter, best first; a pure function of what an evaluation wrote.

    An attacker chooses image by image: of all joint attacks that succeed on an image, the one that leaves the map most
    as it was counts; see :func:`~lightning_adv2.studies.resilience.worst_case.worst_case`. ADV2 compares the attacked
    image's map for the target class with the benign one's for the true class. A map that reacts to the class alone
    differs there and yet shows no attack: explained for one and the same class, both images have the same map. So a map
    resists only as far as it reacts in all three comparisons: ``resilience`` is 1 - the highest of ``worst_iou``,
    ``iou_true_class`` and ``iou_target_class``. The rule is one for all interpreters, RTS included: a resilience can
    only fall by it, and falls by what the map changes with the class alone, which is no answer to the attack.

    Args:
        rows: of ``results.json``.
        images: of ``images.csv``.
        quality: rows of ``map_quality.json``, with deletion and insertion.
        reference: the interpreter whose benign maps set the standard.
        tolerance: the share of a benign measure that may be lost against the reference.
        max_agreement_l1: limit of the map L1 to the reference, for its variants (named ``<reference>_...``) alone.
        noise: rows of ``noise.json``.
        transfer: rows of ``transfer.json``.

    Returns:
        Rows with the keys

        ``interpreter``, ``rank`` (None where it does not count), ``counts``, ``resilience`` (None where ``asr`` is
        below ``SUCCESS``: that is not claimed to be resilience), ``decided_by`` (the column that it is 1 minus),
        ``worst_attack`` (chosen on most images), ``worst_iou``, ``iou_true_class``, ``iou_target_class``, ``worst_l1``
        (means over the images on which an attack succeeded, None where there is none), ``asr`` (their share),
        ``successful`` (their number), ``empty_iou``, ``empty_iou_true_class``, ``empty_iou_target_class`` (how many of
        them have two empty maps, and so no such IoU); ``flags`` (what voids the attacks' figures, of those chosen on
        more than ``FLAGGED`` of the images), ``failed_attacks`` (those with an ASR below ``SUCCESS``; they count where
        they succeed); ``control_iou`` (the benign image explained for the target class), ``transfer_iou`` (the highest
        under an attack made for the reference), ``noise_iou_<kind>-<rate>`` for each level of noise; ``benign_loss``
        (the largest relative loss against the reference among the measures of the gate), ``benign_<measure>`` for each
        measure, ``gate`` (failed checks).

    Raises:
        ValueError: the reference, or a measure of it, is missing.
    """
    measured = {row["interpreter"]: _measures(row) for row in quality}
    _check_reference(measured, reference)
    levels = dict.fromkeys(map(noise_name, noise))
    made = []
    for name, means in measured.items():
        own = [row for row in rows if row["interpreter"] == name]
        transferred = [row for row in transfer if row["interpreter"] == name and row["source"] != name]
        moved = {noise_name(row): row["iou"] for row in noise if row["interpreter"] == name}
        row: Row = {"interpreter": name, "rank": None, "counts": False}
        row |= _attacked(own, [one for one in images if one["interpreter"] == name], rows, transferred)
        row["control_iou"] = next((r["iou"] for r in own if r["threat_model"] == "none"), None)
        row["transfer_iou"] = _highest(r["iou"] for r in transferred if r["source"] == reference)
        row |= {f"noise_iou_{level}": moved.get(level) for level in levels}
        row["benign_loss"] = max(_losses(means, measured[reference]).values())
        row |= {f"benign_{measure}": means.get(measure) for measure in MEASURES}
        row["gate"] = failed_checks(name, measured, reference, tolerance, max_agreement_l1)
        row["counts"] = row["resilience"] is not None and not row["gate"] and not row["flags"]
        made.append(row)
    return ranked(made, reference)


def _measures(row: Row) -> dict[str, float]:
    """The measures that a row of ``map_quality.json`` has."""
    return {key: value for key, value in row.items() if key != "interpreter" and value is not None}


def ranked(rows: Sequence[Row], reference: str) -> list[Row]:
    """Those that count by their resilience, the reference first among equals; below, without rank, the others."""
    counting = [row for row in rows if row["counts"]]
    counting.sort(key=lambda row: (-row["resilience"], row["interpreter"] != reference))
    others = sorted((row for row in rows if not row["counts"]), key=lambda row: row["interpreter"] != reference)
    return [row | {"rank": place} for place, row in enumerate(counting, 1)] + [row | {"rank": None} for row in others]


def failed_checks(
    name: str, quality: Quality, reference: str, tolerance: float = 0.05, max_agreement_l1: float = 0.05
) -> list[str]:
    """What is wrong with an interpreter's benign maps, in words; empty where they are worth the reference's.

    The checks: preserved, gap, insertion and (where there are masks) localisation IoU at least ``1 - tolerance`` of the
    reference's, deletion at most ``1 + tolerance`` of it, no more maps that are not finite; the correlation with the
    map under shuffled weights within ``CORRELATION``; for a variant of the reference, the distance of their maps. A
    reference whose maps preserve hardly more than another image's (``LEAST_GAP``), or that are much the same under
    shuffled weights, sets no standard: all fail.
    """
    own, standard = quality[name], quality[reference]
    failed = [
        f"{key}: {own.get(key, math.nan):.3f}, {reference} {standard.get(key, 0.0):.3f}"
        for key, loss in _losses(own, standard).items()
        if loss > tolerance + _TINY
    ]
    if not standard["gap"] >= LEAST_GAP:
        failed.append(
            f"reference: the maps of {reference} preserve hardly more than another image's (gap {standard['gap']:.3f}, "
            f"at least {LEAST_GAP:g}); train it longer, or name another reference"
        )
    if "randomised_correlation" in standard:
        floor, above, highest = CORRELATION
        learnt, found = standard["randomised_correlation"], own.get("randomised_correlation", math.inf)
        limit = min(max(floor, learnt + above), highest)
        if not found <= limit:
            failed.append(f"randomised_correlation: {found:.3f}, at most {limit:.3f}")
        if not learnt <= limit:
            failed.append(
                f"reference: the maps of {reference} are the same under shuffled weights (randomised_correlation "
                f"{learnt:.3f}, at most {limit:.3f}); train it longer, or name another reference"
            )
    if name.startswith(f"{reference}_"):
        distance = own.get("agreement_l1", math.inf)
        if not distance <= max_agreement_l1:
            failed.append(f"agreement_l1: {distance:.3f}, at most {max_agreement_l1:.3f}")
    return failed


def _losses(own: Mapping[str, float], standard: Mapping[str, float]) -> dict[str, float]:
    """Relative to the reference's values as they are: a tolerance of 5% means 5%."""
    losses = relative_losses(own, standard, floor=_TINY)
    return {key: loss for key, loss in losses.items() if key != "destroyed"}


def _check_reference(quality: Quality, reference: str) -> None:
    if reference not in quality:
        raise ValueError(
            f"reference={reference!r}: the evaluation has no such interpreter, only {', '.join(quality) or 'none'}; "
            "evaluate it beside the others, or name another"
        )
    missing = [key for key in _NEEDED if key not in quality[reference]]
    if missing:
        raise ValueError(
            f"reference={reference!r}: its benign quality has no {', '.join(missing)}; it takes "
            "MapQualityEvaluation(order=True), finite maps and batches of two images or more"
        )


def _attacked(own: Sequence[Row], images: Sequence[Row], rows: Sequence[Row], transferred: Sequence[Row]) -> Row:
    """What the attacks on one interpreter show."""
    attacks = [row for row in own if row["role"] != "control"]
    aimed = [row for row in attacks if row["role"] == "joint"]
    worst = worst_case(images, [_key(row) for row in aimed])
    shown: Row = {"worst_iou" if key == "iou" else key: worst[key] for key in AGREEMENTS}
    claimed = worst["asr"] is not None and worst["asr"] >= SUCCESS
    told = [key for key, value in shown.items() if value is not None]
    decided = max(told, key=lambda key: float(shown[key])) if claimed and told else None
    by = next(iter(worst["chosen"]), None)
    enough = [key for key, count in worst["chosen"].items() if key == by or count > FLAGGED * worst["n"]]
    relied = [row for row in aimed if _key(row) in enough] if claimed else aimed
    found = list(dict.fromkeys(flag for row in relied for flag in voiding_flags(row)))
    if claimed:
        spared = [
            (f"{_key(row)}, which ignores the map,", row["iou"])
            for row in attacks
            if row not in aimed and _succeeds(row)
        ]
        # All interpreters explain one classifier: an attack that fools it for one fools it for all.
        spared += [(f"{_key(row)} made for {row['source']}", row["iou"]) for row in transferred if _made(row, rows)]
        found += [
            f"weak_attack: {what} keeps the map better (IoU {iou:.3f}) than those made for it; attack with more steps"
            for what, iou in spared
            if iou is not None and worst["iou"] is not None and iou > worst["iou"] + WEAK
        ]
    return {
        "resilience": None if decided is None else 1 - shown[decided],
        "decided_by": decided,
        "worst_attack": by,
        **shown,
        "worst_l1": worst["l1"],
        "asr": worst["asr"],
        "successful": worst["successful"],
        **{f"empty_{key}": count for key, count in worst["empty"].items()},
        "flags": found,
        "failed_attacks": [_told(row) for row in aimed if not _succeeds(row)],
    }


def voiding_flags(row: Row) -> list[str]:
    """The names of an attack's flags that concern more than ``FLAGGED`` of its images; see ``attacks.diagnosis``."""
    concerned: dict[str, float] = {}
    for text, batches in row.get("flags", {}).items():
        if text == flag_text(NOISE):
            continue  # an interpreter that resists the attack may still show its map under mere noise
        count = re.search(r"\((\d+) of \d+ images\)", text)
        name = text.partition(":")[0]
        concerned[name] = concerned.get(name, 0.0) + (int(count[1]) * batches if count else math.inf)
    return [name for name, images in concerned.items() if images > FLAGGED * (row.get("n") or 0)]


def _made(row: Row, rows: Sequence[Row]) -> bool:
    """Whether the attack that is transferred succeeds where it was made."""
    same = (r for r in rows if r["interpreter"] == row["source"] and _key(r) == _key(row))
    return any(_succeeds(r) for r in same)


def _succeeds(row: Row) -> bool:
    return row["asr"] is not None and row["iou"] is not None and bool(row["asr"] >= SUCCESS)


def _told(row: Row) -> str:
    return f"{_key(row)} (ASR {'-' if row['asr'] is None else format(row['asr'], '.1%')})"


def _key(row: Row) -> str:
    return record_key(row["attack"], row["schedule"])


def _highest(values: Iterable[float | None]) -> float | None:
    return max((value for value in values if value is not None), default=None)
