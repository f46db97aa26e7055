"""Faults within one record: its form, its ranges, and the distance of its images from the benign ones."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import numpy as np

from lightning_adv2.audit.reading import in_range, is_count
from lightning_adv2.audit.recount import LEVELS, OWN, Row
from lightning_adv2.files.run import record_key
from lightning_adv2.files.sealed import Array

_SLACK = 1e-5  # of maps and probabilities in single precision
_HEADER = {
    "batch_index", "image_id", "already_wrong", "invalid", "skipped", "interpreter", "place", "target", "pieces",
    "experiment", "attacks",
}  # fmt: skip
_ATTACK = {"attack", "schedule", "steps", "seconds", "unit", "flags", "epsilon", "role", "threat_model"}
_ROLES = ("control", "class", "joint")
_MAPS = ("benign_map", "benign_map_target_class", "target_map")
_OWN_MAPS = ("adv_map", "adv_map_true_class", "adv_map_target_class")
_TRACES = {"confidence": 1.0, "success": 1.0, "l1": 1.0, "iou": 1.0}


def check_form(header: Row, arrays: dict[str, Array]) -> None:
    """Check that a record has all that it should have, of the right types and shapes.

    Args:
        header: of the record.
        arrays: its tensors.

    Raises:
        ValueError: a part is missing, or of another type or shape; the error names it.
        KeyError, TypeError, AttributeError: the header is of another form altogether.
    """
    _need(isinstance(header, dict) and header.keys() == _HEADER, "the header's keys")
    lists, reasons = (header["image_id"], header["already_wrong"]), (header["invalid"], header["skipped"])
    _need(all(isinstance(one, list) and all(isinstance(x, str) for x in one) for one in lists), "the images' names")
    _need(all(isinstance(one, dict) and all(isinstance(x, str) for x in one.values()) for one in reasons), "reasons")
    _need(all(isinstance(header[name], str) for name in ("interpreter", "target", "experiment")), "the header's names")
    _need(all(map(is_count, (header["batch_index"], header["place"]))), "batch_index or place")
    _need(is_count(header["pieces"]) and header["pieces"] >= 1, f"pieces ({header['pieces']!r})")
    attacks = header["attacks"]
    _need(isinstance(attacks, list) and all(isinstance(a, dict) and a.keys() == _ATTACK for a in attacks), "attacks")
    for attack in attacks:
        texts = (attack["attack"], attack["schedule"], attack["unit"])
        _need(all(isinstance(one, str) for one in texts), "an attack's name, schedule or unit")
        role = "control" if attack["schedule"] == "control" else attack["role"]
        _need(attack["role"] == role and role in _ROLES, f"role ({attack['role']!r})")
        _need(isinstance(attack["threat_model"], str), "threat_model")
        _need(isinstance(attack["flags"], list) and all(isinstance(x, str) for x in attack["flags"]), "flags")
        _need(is_count(attack["steps"]), f"steps ({attack['steps']!r})")
        _need(in_range(attack["seconds"]), f"seconds ({attack['seconds']!r})")
        _need(attack["epsilon"] is None or in_range(attack["epsilon"]), f"epsilon ({attack['epsilon']!r})")
    keys = [record_key(attack["attack"], attack["schedule"]) for attack in attacks]
    _need(len(set(keys)) == len(keys), "an attack that is there twice")
    _need(bool(keys) == bool(header["image_id"]), "images without an attack, or an attack without images")
    _shapes(header["image_id"], keys, arrays)


def _need(holds: bool, what: str) -> None:
    if not holds:
        raise ValueError(f"{what}: not what a record has there")


def _shapes(names: list[str], keys: list[str], arrays: dict[str, Array]) -> None:
    n = len(names)
    wanted: dict[str, tuple[str, tuple[int, ...]]] = {}
    images, maps = arrays["benign/images"].shape, arrays["benign/benign_map"].shape
    _need(
        len(images) == 4 and len(maps) == 4 and images[0] == maps[0] == n and maps[1] == 1, "the images' or maps' shape"
    )
    wanted |= {"benign/images": ("u1", images), "benign/label": ("i8", (n,)), "benign/target_class": ("i8", (n,))}
    wanted |= {f"benign/{name}": ("f4", maps) for name in _MAPS}
    for key in keys:
        wanted |= {f"{key}/adv_images": ("u1", images), f"{key}/valid": ("b1", (n,))}
        wanted |= {f"{key}/{name}": ("f4", maps) for name in _OWN_MAPS}
        wanted |= {f"{key}/{name}": ("f4", (n,)) for name in ("confidence", "size")}
        wanted |= {f"{key}/{name}": ("i8", (n,)) for name in ("adv_predicted", "steps_taken")}
        steps = {arrays[name].shape[0] for name in arrays if name.startswith(f"{key}/trace/") and arrays[name].ndim}
        _need(len(steps) < 2, f"{key}: the lengths of its curves")
        for length in steps:
            wanted |= {f"{key}/trace/{name}": ("f4", (length, n)) for name in _TRACES}
    _need(arrays.keys() == wanted.keys(), f"{sorted(arrays.keys() ^ wanted.keys())[:3]}")
    for name, (kind, shape) in wanted.items():
        if kind != "u1" or not name.endswith("/adv_images"):  # those are named with their attack
            array = arrays[name]
            _need(array.dtype == np.dtype(kind) and array.shape == shape, f"{name}, {array.dtype} {array.shape}")


def implausible(header: Row, arrays: dict[str, Array], classes: int) -> Iterator[str]:
    """Yield a sentence for each value that no run writes, whatever it measures.

    Args:
        header: of a record of the right form.
        arrays: its tensors.
        classes: how many there are, 0 where nobody knows.
    """
    benign = {name: arrays[f"benign/{name}"] for name in ("label", "target_class", *_MAPS)}
    names = header["image_id"]
    if not names:
        return
    yield from _outside(names, "label", benign["label"], 0, classes - 1 if classes else math.inf)
    yield from _outside(names, "target_class", benign["target_class"], 0, classes - 1 if classes else math.inf)
    for name in ("benign_map", "target_map"):
        yield from _outside(names, name, benign[name], 0, 1)
    yield from _outside(names, "benign_map_target_class", benign["benign_map_target_class"], 0, 1, undefined=True)
    if header["target"] == "benign" and not np.array_equal(benign["target_map"], benign["benign_map"]):
        yield "the target maps are not the benign ones, though the target is 'benign'"
    for attack in header["attacks"]:
        key = record_key(attack["attack"], attack["schedule"])
        own = {name: arrays[f"{key}/{name}"] for name in OWN}
        for one in _attack(names, attack, own, arrays, benign, classes):
            yield f"{key}, {one}"


def _attack(
    names: list[str],
    attack: Row,
    own: dict[str, Array],
    arrays: dict[str, Array],
    benign: dict[str, Array],
    classes: int,
) -> Iterator[str]:
    valid, predicted = own["valid"], own["adv_predicted"]
    finite = np.isfinite(own["confidence"]) & _finite(benign["benign_map_target_class"])
    for name in _OWN_MAPS:
        finite &= _finite(own[name])
        yield from _outside(names, name, own[name], 0, 1, undefined=True)
    control = attack["schedule"] == "control"
    for i in np.flatnonzero(valid != finite if control else valid & ~finite):
        said = "finite" if finite[i] else "not finite"
        yield f"image {names[i]!r}: valid is {bool(valid[i])}, but its maps and confidence are {said}"
    yield from _outside(names, "adv_predicted", predicted, 0, classes - 1 if classes else math.inf)
    yield from _outside(names, "confidence", own["confidence"], 0, 1, undefined=True)
    yield from _outside(names, "size", np.where(valid, own["size"], 0), 0, math.inf)
    yield from _outside(names, "steps_taken", own["steps_taken"], 0, attack["steps"])
    hit, sure = predicted == benign["target_class"], own["confidence"]
    low = np.where(hit, (1 / classes if classes else 0) - _SLACK, -math.inf)
    high = np.where(hit, math.inf, 0.5 + _SLACK)
    for i in np.flatnonzero((sure < low) | (sure > high)):
        said = "is" if hit[i] else "is not"
        yield f"image {names[i]!r}: {sure[i]:.3f} is no confidence for a target that it {said} classified as"
    # Nothing is explained twice: the map for the predicted class is one of the others, unless that is a third class.
    asked = benign["target_class"] if attack["attack"] == "target_class" and control else predicted
    same = _equal(own["adv_map"], own["adv_map_target_class"]), _equal(own["adv_map"], own["adv_map_true_class"])
    wrong = (asked == benign["target_class"]) & ~same[0] | (asked == benign["label"]) & (
        asked != benign["target_class"]
    ) & ~same[1]
    for i in np.flatnonzero(wrong):
        yield f"image {names[i]!r}: adv_map is not the map for the class that is predicted"
    if attack["unit"] == "Linf" and own["adv_images"].shape == arrays["benign/images"].shape:
        moved = np.abs(own["adv_images"].astype(np.int16) - arrays["benign/images"])
        moved = moved.reshape(len(names), -1).max(1, initial=0) / LEVELS
        rounding = _SLACK if control else 1 / LEVELS + _SLACK  # an attack's is from before its images are rounded
        most = attack["epsilon"] + _SLACK if attack["epsilon"] is not None else math.inf
        for i in np.flatnonzero(valid & ((np.abs(own["size"] - moved) > rounding) | (own["size"] > most))):
            yield f"image {names[i]!r}: size is {own['size'][i]:.6f}, of its pixels {moved[i]:.6f}"
    if attack["attack"] == "target_class" and control:
        for name, other in (("adv_map_true_class", "benign_map"), ("adv_map_target_class", "benign_map_target_class")):
            for i in np.flatnonzero(~_equal(own[name], benign[other])):
                yield f"image {names[i]!r}: {name} is not its {other}, though it is the benign image"
    for name, highest in _TRACES.items():
        curve = arrays.get(f"{record_key(attack['attack'], attack['schedule'])}/trace/{name}")
        if curve is not None:
            if len(curve) > attack["steps"]:
                yield f"the curve of {name} has {len(curve)} steps, the attack {attack['steps']}"
            yield from _outside(names, f"the curve of {name}", curve.T, 0, highest, undefined=True)
            if name == "success" and not np.isin(curve, (0, 1)).all():
                yield "the curve of success is neither 0 nor 1"


def _outside(
    names: list[str], what: str, values: Array, low: float, high: float, undefined: bool = False
) -> Iterator[str]:
    """The images one of whose values is outside ``[low, high]``; NaN or infinity are, too, unless ``undefined``."""
    with np.errstate(invalid="ignore"):
        fine = (values >= low - _SLACK) & (values <= high + _SLACK)
    fine |= undefined & ~np.isfinite(values)
    for i in np.flatnonzero(~fine.reshape(len(names), -1).all(1)):
        worst = values[i][~fine[i]].ravel()[0] if values.ndim > 1 else values[i]
        yield f"image {names[i]!r}: {what} is {worst}, outside {low:g} to {high:g}"


def _finite(maps: Array) -> Array:
    return np.asarray(np.isfinite(maps).reshape(len(maps), -1).all(1))


def _equal(first: Array, second: Array) -> Array:
    same: Array = (first == second) | (np.isnan(first) & np.isnan(second))
    return np.asarray(same.reshape(len(same), -1).all(1))


def illegal(header: Row, arrays: dict[str, Array], experiment: Row) -> Iterator[str]:
    """Yield a sentence for each adversarial image that is farther from its benign image than epsilon allows.

    The distance is the largest change of a value in levels of 255; epsilon is rounded down to levels.

    Args:
        header: of a record of the right form.
        arrays: its tensors.
        experiment: of ``experiment.json``, which states each attack's epsilon; empty where nobody knows it.
    """
    images = arrays["benign/images"]
    described = experiment.get("attacks", {}).get(header["interpreter"], [])
    asked: dict[str, Any] = {
        record_key(one["name"], one["schedule"]): one.get("perturbation", {}).get("epsilon") for one in described
    }
    keys = [record_key(one["attack"], one["schedule"]) for one in header["attacks"]]
    if asked and keys and keys != ["noise", "target_class", *asked]:
        yield f"its attacks are {', '.join(keys)}, in experiment.json {', '.join(asked)} and two controls"
    asked["target_class"] = 0.0  # the benign images themselves
    pixels = [one["perturbation"] for one in described if "PixelDelta" in one["perturbation"]["class"]]
    asked |= {"noise": pixels[0]["epsilon"]} if pixels else {}  # within the first attack's
    for attack, key in zip(header["attacks"], keys, strict=True) if len(images) else ():
        adv = arrays[f"{key}/adv_images"]
        if adv.dtype != np.uint8 or adv.shape != images.shape:
            yield f"{key}: the images are {adv.dtype} {adv.shape}, the benign ones uint8 {images.shape}"
        elif attack["epsilon"] != asked.get(key, attack["epsilon"]):
            yield f"{key}: epsilon is {attack['epsilon']}, by experiment.json {asked[key]}"
        elif attack["epsilon"] is not None:
            allowed = math.floor(attack["epsilon"] * LEVELS + 1e-3)
            moved = np.abs(adv.astype(np.int16) - images)
            for i in np.flatnonzero(moved.reshape(len(moved), -1).max(1) > allowed):
                c, y, x = np.unravel_index(moved[i].argmax(), moved[i].shape)
                yield (
                    f"{key}, image {header['image_id'][i]!r}: row {y}, column {x}, channel {c} is {moved[i][c, y, x]} "
                    f"levels of 255 away from the benign image; epsilon {attack['epsilon']} allows {allowed}"
                )
