"""A run's figures computed again from its records, with NumPy alone."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from hashlib import sha256
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np

from lightning_adv2.files.run import record_key
from lightning_adv2.files.sealed import Array

Row: TypeAlias = dict[str, Any]
Key: TypeAlias = tuple[str, str, str]
"""Interpreter, attack, schedule."""
Status: TypeAlias = tuple[str, str]
"""The status of an image, and the reason, or an empty text."""

MEANS = (
    "confidence", "l1", "l2", "iou", "plausible", "linf", "l1_benign", "iou_benign",
    "l1_true_class", "iou_true_class", "l1_target_class", "iou_target_class", "size",
)  # fmt: skip
OWN = (
    "adv_images", "adv_map", "adv_map_true_class", "adv_map_target_class", "adv_predicted", "confidence", "valid",
    "size", "steps_taken",
)  # fmt: skip
LEVELS = 255


def key_of(row: Row) -> Key:
    """Return the key of a row: interpreter, attack and schedule."""
    return row["interpreter"], row["attack"], row["schedule"]


def digest(image: Array) -> str:
    """Return the SHA-256 of an image ``(C, H, W)`` uint8, as the manifest has it: over ``(H, W, C)`` in C order."""
    return sha256(image.transpose(1, 2, 0).tobytes()).hexdigest()


def image_rows(header: Row, arrays: dict[str, Array]) -> Iterator[Row]:
    """Yield a record's rows of ``images.csv``, each with ``plausible`` added: whether the IoU is above 0.5.

    Args:
        header: of a record of the right form.
        arrays: its tensors.
    """
    if not header["image_id"]:
        return
    images, target_class = arrays["benign/images"].astype(np.int16), arrays["benign/target_class"]
    for attack in header["attacks"]:
        own = {name: arrays[f"{record_key(attack['attack'], attack['schedule'])}/{name}"] for name in OWN}
        with np.errstate(invalid="ignore"):  # NaN in, NaN out
            l1, l2, iou = _agreement(own["adv_map"], arrays["benign/target_map"])
            l1_benign, _, iou_benign = _agreement(own["adv_map"], arrays["benign/benign_map"])
            l1_true, _, iou_true = _agreement(own["adv_map_true_class"], arrays["benign/benign_map"])
            target_maps = own["adv_map_target_class"], arrays["benign/benign_map_target_class"]
            l1_target, _, iou_target = _agreement(*target_maps)
        moved = np.abs(own["adv_images"] - images).reshape(len(images), -1).max(1)
        for i, image_id in enumerate(header["image_id"]):
            yield {
                "interpreter": header["interpreter"],
                "attack": attack["attack"],
                "schedule": attack["schedule"],
                "target": header["target"],
                "image_id": image_id,
                "label": int(arrays["benign/label"][i]),
                "target_class": int(target_class[i]),
                "adv_predicted": int(own["adv_predicted"][i]),
                "success": bool(own["adv_predicted"][i] == target_class[i]),
                "valid": bool(own["valid"][i]),
                "confidence": float(own["confidence"][i]),
                "steps": int(own["steps_taken"][i]),
                "l1": float(l1[i]),
                "l2": float(l2[i]),
                "iou": float(iou[i]),
                "plausible": float(iou[i] > 0.5) if np.isfinite(iou[i]) else math.nan,
                "linf": float(moved[i]) / LEVELS,
                "l1_benign": float(l1_benign[i]),
                "iou_benign": float(iou_benign[i]),
                "l1_true_class": float(l1_true[i]),
                "iou_true_class": float(iou_true[i]),
                "l1_target_class": float(l1_target[i]),
                "iou_target_class": float(iou_target[i]),
                "size": float(own["size"][i]),
                "unit": attack["unit"],
                "adv_sha256": digest(own["adv_images"][i]),
            }


def _agreement(first: Array, second: Array) -> tuple[Array, Array, Array]:
    """L1, L2 and IoU of two sets of maps ``(n, 1, h, w)``, each ``(n,)``."""
    a, b = (maps.astype(np.float64).reshape(len(maps), -1) for maps in (first, second))
    inside, around = ((a >= 0.5) & (b >= 0.5)).sum(1), ((a >= 0.5) | (b >= 0.5)).sum(1)
    iou = np.where(around > 0, inside / np.maximum(around, 1), np.nan)  # two empty maps have none
    return np.abs(a - b).mean(1), np.sqrt(np.square(a - b).mean(1)), iou


@dataclass
class Contents:
    """The content of a run's records, gathered while each record is in memory once.

    Attributes:
        members: interpreter -> file -> its image ids.
        statuses: interpreter -> image -> status (``attacked``, or why not) and the reason.
        rows: of each attack, one row per image, in the order of the records.
        heads: of each attack, the values that all its images share.
        order: of ``images.csv``: interpreter, attack, schedule and image.
        flags: of each attack, how many batches raised which flag.
        seconds: of each attack, all batches together.
        joint: the attacks that aim at the map, by their records.
        sizes: interpreter -> height and width of its maps.
        areas: interpreter -> image -> the share of its benign map that is at least 0.5, in [0, 1].
        halvings: interpreter -> how often a batch had to be halved.
        shared: image -> label, target class and hash of its benign pixels.
        images: interpreter -> image -> L1 and IoU of its benign map and its target map.
        targets: the names of target maps.
    """

    members: dict[str, dict[Path, list[str]]] = field(default_factory=dict)
    statuses: dict[str, dict[str, Status]] = field(default_factory=dict)
    rows: dict[Key, list[Row]] = field(default_factory=dict)
    heads: dict[Key, Row] = field(default_factory=dict)
    order: list[tuple[str, ...]] = field(default_factory=list)
    flags: dict[Key, Counter[str]] = field(default_factory=dict)
    seconds: dict[Key, float] = field(default_factory=dict)
    joint: set[Key] = field(default_factory=set)
    sizes: dict[str, set[tuple[int, ...]]] = field(default_factory=dict)
    areas: dict[str, dict[str, float]] = field(default_factory=dict)
    halvings: Counter[str] = field(default_factory=Counter)
    shared: dict[str, tuple[int, int, str]] = field(default_factory=dict)
    images: dict[str, dict[str, tuple[float, float]]] = field(default_factory=dict)
    targets: set[str] = field(default_factory=set)

    def add(self, path: Path, header: Row, arrays: dict[str, Array]) -> Iterator[str]:
        """Add a record; an image that came before (of a padded sampler) counts once.

        Args:
            path: the record's file.
            header: of a record of the right form.
            arrays: its tensors.

        Yields:
            A sentence for each contradiction with the records before.
        """
        name = header["interpreter"]
        known = self.statuses.setdefault(name, {})
        fresh = {image_id for image_id in header["image_id"] if image_id not in known}
        for row in image_rows(header, arrays):
            if row["image_id"] in fresh:
                self.rows.setdefault(key_of(row), []).append(row)
                self.order.append((*key_of(row), row["image_id"]))
        yield from self._benign(name, header["image_id"], arrays, fresh)
        for image_id in header["image_id"]:
            known.setdefault(image_id, ("attacked", ""))
        for image_id in header["already_wrong"]:
            known.setdefault(image_id, ("already_wrong", ""))
        for status in ("invalid", "skipped"):
            for image_id, reason in header[status].items():
                known.setdefault(image_id, (status, reason))
        lists = [header[name] for name in ("image_id", "already_wrong", "invalid", "skipped")]
        self.members.setdefault(name, {})[path] = [image_id for ids in lists for image_id in ids]
        self.halvings[name] += header["pieces"] - 1
        self.targets.add(header["target"])
        for attack in header["attacks"]:
            key = name, attack["attack"], attack["schedule"]
            head = {name: attack[name] for name in ("role", "threat_model", "steps", "unit")}
            head |= {"target": header["target"], "needs_map": attack["role"] == "joint"}
            if self.heads.setdefault(key, head) != head:
                yield f"{record_key(*key[1:])}: {', '.join(head)} are not those of the records before"
            self.flags.setdefault(key, Counter()).update(set(attack["flags"]))
            self.seconds[key] = self.seconds.get(key, 0.0) + attack["seconds"]
            if head["needs_map"]:
                self.joint.add(key)

    def _benign(self, name: str, names: list[str], arrays: dict[str, Array], fresh: set[str]) -> Iterator[str]:
        maps = arrays["benign/benign_map"]
        l1, _, iou = _agreement(maps, arrays["benign/target_map"]) if names else (maps, maps, maps)
        for i, image_id in enumerate(names):
            same = (
                int(arrays["benign/label"][i]),
                int(arrays["benign/target_class"][i]),
                digest(arrays["benign/images"][i]),
            )
            if self.shared.setdefault(image_id, same) != same:
                yield f"image {image_id!r}: label, target class or pixels are not those of another record"
            if image_id in fresh:
                self.sizes.setdefault(name, set()).add(maps.shape[-2:])
                self.areas.setdefault(name, {})[image_id] = int((maps[i] >= 0.5).sum()) / maps[i].size
                self.images.setdefault(name, {})[image_id] = float(l1[i]), float(iou[i])

    def table(self) -> dict[Key, Row]:
        """Return the rows of ``results.json`` by attack, each with its denominators under ``counts``."""
        table: dict[Key, Row] = {}
        for key, head in self.heads.items():
            own = self.rows.get(key, [])
            kept = [row for row in own if row["valid"]]
            n, successful = len(kept), sum(row["success"] for row in kept)
            table[key] = {
                **head,
                "mean_steps": sum(row["steps"] for row in kept) / n if n else None,
                "n": n,
                "empty": sum(math.isnan(row["iou"]) for row in kept),
                "asr": successful / n if n else None,
                **{name: mean([row[name] for row in kept]) for name in MEANS},
                "flags": {**self.flags[key], **self._blind(key)},
                "counts": {"n": n, "invalid": len(own) - n, "successful": successful},
            }
        return table

    def benign(self, name: str, statuses: Mapping[str, Status] | None, classes: int) -> Row:
        """Return the facts of ``results.json`` about the benign images; see ``results.benign``.

        Args:
            name: the interpreter's.
            statuses: of all images; None where some never reached a record and others have not yet.
            classes: how many there are, 0 where nobody knows.
        """
        verdicts = [
            status == "already_wrong"
            for status, reason in (statuses or {}).values()
            if status in ("attacked", "already_wrong") or (status == "invalid" and "map" in reason)
        ]
        judged, wrong = len(verdicts), sum(verdicts)
        areas = list(self.areas.get(name, {}).values())
        chance, area = 1 / classes if classes > 1 else None, mean(areas)
        low = chance is not None and judged >= 5 and judged - wrong < judged * (chance + (1 - chance) / 4)
        share = area if area is not None and len(areas) >= 5 else 0.5
        found = {"low_accuracy": low, "empty_maps": share < 0.02, "full_maps": share > 0.8}
        return {
            "judged": judged,
            "right": judged - wrong,
            "chance": chance,
            "map_sizes": sorted(map(list, self.sizes.get(name, ()))),
            "map_area": area,
            "flags": [flag for flag, raised in found.items() if raised],
        }

    def _blind(self, key: Key) -> dict[str, int]:
        """The flags of a joint attack that keeps the map no better than what ignores the map."""
        found: dict[str, int] = {}
        for other, head in self.heads.items() if key in self.joint else ():
            compared = head["role"] == "class" or other[1:] == ("noise", "control")
            if other[0] == key[0] and compared and self._no_better(key, other):
                than = record_key(*other[1:])
                found[f"blind_attack: its maps are no nearer to the target map than those under {than}"] = 1
        return found

    def _no_better(self, key: Key, other: Key) -> bool:
        """See ``report.blind``: a gain below two standard errors or below a tenth of what was missing to 1."""
        own, than = ({r["image_id"]: r for r in self.rows.get(k, []) if r["valid"]} for k in (key, other))
        both = [name for name in own if name in than]
        pairs = np.array([(own[name]["iou"], than[name]["iou"]) for name in both]).reshape(-1, 2)
        pairs = pairs[np.isfinite(pairs).all(1)]
        if len(pairs) < 5:
            pairs = np.array([(1 - own[name]["l1"], 1 - than[name]["l1"]) for name in both]).reshape(-1, 2)
        if len(pairs) < 5:
            return False
        gains = pairs[:, 0] - pairs[:, 1]
        error = gains.std(ddof=1) / math.sqrt(len(gains))
        kept, spared = pairs.mean(0)
        return bool(kept < 0.9 and (gains.mean() <= 2 * error or gains.mean() < 0.1 * (1 - spared)))


def mean(values: Iterable[float]) -> float | None:
    """Return the mean of the values without NaN, summed exactly; None where there is none."""
    numbers = [value for value in values if not math.isnan(value)]
    return math.fsum(numbers) / len(numbers) if numbers else None
