"""Detection: whose scores there are, by the records, and what follows from them."""

from __future__ import annotations

import math
from collections.abc import Collection, Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np

from lightning_adv2.audit.reading import read_table, same_rows
from lightning_adv2.audit.recount import Contents, Key, Row

Scores = dict[tuple[str, ...], dict[str, float]]
"""Interpreter, detector, part, attack and schedule -> image -> score."""

_DETECTOR = ("interpreter", "detector")


def detection(content: Row, contents: Contents, table: dict[Key, Row], folder: Path) -> Iterator[str]:
    """``detection.json``: thresholds and rates from ``detection_images.csv``, whose images are those of the records."""
    scores: Scores = {}
    for line in read_table(folder / "detection_images.csv"):
        part = scores.setdefault(tuple(line[key] for key in (*_DETECTOR, "part", "attack", "schedule")), {})
        if line["image_id"] in part:
            yield f"detection_images.csv: {', '.join(line.values())} is in it twice"
        part[line["image_id"]] = float(line["score"])
    settings, wanted = content["settings"], dict[tuple[str, ...], Row]()
    for interpreter, detector in dict.fromkeys(key[:2] for key in scores):
        attacks = {key: row for key, row in table.items() if key[0] == interpreter}
        yield from _images(interpreter, detector, scores, settings["calibration_images"], contents, attacks)
        wanted |= _rows(interpreter, detector, scores, settings["false_positive_rate"], attacks)
    yield from same_rows(content["rows"], (*_DETECTOR, "attack", "schedule"), wanted)


def _images(
    interpreter: str, detector: str, scores: Scores, count: int, contents: Contents, attacks: Mapping[Key, Row]
) -> Iterator[str]:
    """Whether the images with a score are those that there is something to detect on."""
    name, known = f"{interpreter}/{detector}", contents.statuses.get(interpreter, {})
    calibration = scores[interpreter, detector, "calibration", "", ""]
    if len(calibration) != count or not known.keys().isdisjoint(calibration):
        yield f"{name}: not {count} calibration images, or some that were attacked"
    attacked = {image for image, status in known.items() if status[0] == "attacked"}
    parts = [("benign", "", "", attacked)]
    for key, row in attacks.items():
        counts = "linf" if row["role"] == "control" else "success"  # a control counts where it changed the image
        found = {one["image_id"] for one in contents.rows.get(key, ()) if one["valid"] and one[counts]}
        parts.append(("attacked", *key[1:], found))
    for *part, images in parts:
        if scores.get((interpreter, detector, *part), {}).keys() != images:
            yield f"{name}, {' '.join(part)}: its images are not the {len(images)} of the records"


def _rows(
    interpreter: str, detector: str, scores: Scores, rate: float, attacks: Mapping[Key, Row]
) -> dict[tuple[str, ...], Row]:
    """The rows of one detector under one interpreter."""
    calibration = list(scores[interpreter, detector, "calibration", "", ""].values())
    threshold = sorted(calibration, reverse=True)[int(rate * len(calibration) + 1e-9)]
    benign = _finite(scores.get((interpreter, detector, "benign", "", ""), {}).values())
    rows: dict[tuple[str, ...], Row] = {}
    for (_, *attack), row in attacks.items():
        part = scores.get((interpreter, detector, "attacked", *attack), {})
        found = _finite(part.values())
        if part or row["role"] != "control":
            rows[interpreter, detector, *attack] = {
                "role": row["role"],
                "threshold": threshold,
                "n": len(found),
                "detection_rate": _above(found, threshold),
                "benign_fpr": _above(benign, threshold),
                "calibration_fpr": _above(calibration, threshold),
                "auroc": _auroc(benign, found),
            }
    return rows


def _finite(values: Collection[float]) -> list[float]:
    return [value for value in values if math.isfinite(value)]


def _above(scores: Sequence[float], threshold: float) -> float | None:
    return sum(score > threshold for score in scores) / len(scores) if scores else None


def _auroc(benign: Sequence[float], adversarial: Sequence[float]) -> float | None:
    if not benign or not adversarial:
        return None
    ordered = np.sort(np.array(benign))
    sides = (np.searchsorted(ordered, np.array(adversarial), side=side) for side in ("left", "right"))
    return float(sum(int(side.sum()) for side in sides) / (2 * len(benign) * len(adversarial)))
