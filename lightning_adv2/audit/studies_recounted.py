"""Studies that follow from the records, counted again: the attacks are theirs, and so are most of the figures."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from statistics import median
from typing import Any

from lightning_adv2.audit.reading import same, same_rows
from lightning_adv2.audit.recount import Contents, Key, Row, key_of, mean

_Z = 1.959964


def gap(content: Row, contents: Contents, table: dict[Key, Row], folder: Path) -> Iterator[str]:
    """``gap.json``: means of each attack and of the benign images."""
    wanted: dict[tuple[Any, ...], Row] = {}
    for name, images in contents.images.items():
        own = {key: row for key, row in table.items() if key[0] == name}
        target = next((row["target"] for row in own.values()), "")
        l1, iou = ([pair[i] for pair in images.values()] for i in (0, 1))
        means = {"l1": mean(l1), "iou": mean(iou), "empty": sum(map(math.isnan, iou)), "asr": None, "confidence": None}
        kind = {"role": "control", "threat_model": "none"}
        wanted[name, "benign", "benign"] = {"target": target, "n": len(images), **means, **kind}
        names = ("target", "role", "threat_model", "n", "l1", "iou", "empty", "asr", "confidence")
        wanted |= {key: {one: row[one] for one in names} for key, row in own.items()}
    yield from same_rows(content["rows"], ("interpreter", "attack", "schedule"), wanted)


def curves(content: Row, contents: Contents, table: dict[Key, Row], folder: Path) -> Iterator[str]:
    """``curves.json``: its points are attacks of the table, and all controls are in it."""
    points: dict[tuple[Any, ...], list[float]] = {}
    for row in content["rows"]:
        key, axis = key_of(row), row["axis"]
        source = table[key]
        low, high = _wilson(source["counts"]["successful"], source["n"])
        wanted = {one: source[one] for one in ("role", "threat_model", "steps", "n", "empty", "asr", "iou", "l1")}
        wanted |= {"asr_low": low, "asr_high": high, "value": row[axis] if axis else None}
        yield from same("/".join(key), row, wanted)
        if axis:
            fixed = tuple(row[one] for one in ("epsilon", "steps") if one != axis)
            curve = (axis, row["interpreter"], row["family"], row["schedule"], *fixed)
            points.setdefault(curve, []).append(row["value"])
    for curve, values in points.items():
        if values != sorted(set(values)) or len(values) < 2:
            yield f"curve of {', '.join(map(str, curve))}: its points are at {values}"
    named = [key_of(row) for row in content["rows"] if row["axis"] is None]
    controls = [key for key, row in table.items() if row["role"] == "control"]
    if named != controls:
        yield f"its controls are {named}, from the records {controls}"


def _wilson(successes: int, n: int) -> tuple[float | None, float | None]:
    if not n:
        return None, None
    share, spread = successes / n, _Z * _Z / n
    middle = (share + spread / 2) / (1 + spread)
    half = math.sqrt(spread * (share * (1 - share) + spread / 4)) / (1 + spread)
    return max(0.0, middle - half), min(1.0, middle + half)


def transfer(content: Row, contents: Contents, table: dict[Key, Row], folder: Path) -> Iterator[str]:
    """``transfer.json``: where the source explains its own attack, the table has the same."""
    keys = [tuple(row[key] for key in ("source", "attack", "schedule", "interpreter")) for row in content["rows"]]
    for key, count in Counter(keys).items():
        if count > 1:
            yield f"{'/'.join(key)} is in it {count} times"
    aimed = {key for key in table if key in contents.joint}
    if not aimed <= {key[:3] for key in keys}:
        yield f"{aimed - {key[:3] for key in keys}} is not in it"
    for key, row in zip(keys, content["rows"], strict=True):
        name = "/".join(key)
        if key[0] == key[3]:
            own = contents.rows[key[:3]]
            valid = [one for one in own if one["valid"]]
            empty = sum(math.isnan(one["iou_benign"]) for one in valid)
            source = table[key[:3]]
            wanted = {"n": len(valid), "l1": source["l1_benign"], "iou": source["iou_benign"], "empty": empty}
            wanted["role"] = source["role"]
            yield from same(name, row, wanted)
        elif key[0] != "none" and not row["n"] <= table[key[:3]]["n"]:
            yield f"{name}: n is {row['n']}, under the attack {table[key[:3]]['n']}"


def proposition(content: Row, contents: Contents, table: dict[Key, Row], folder: Path) -> Iterator[str]:
    """``proposition.json``: gains from the confidences, the rest from the images in it."""
    tolerance, groups = content["settings"]["tolerance"], dict[tuple[Any, ...], list[Row]]()
    first = next(iter(contents.statuses), "")
    benign = {
        (key[0], one["image_id"]): one["confidence"]
        for key, rows in contents.rows.items()
        if table[key]["threat_model"] == "none"
        for one in rows
    }
    after = {(*key, one["image_id"]): one for key, rows in contents.rows.items() for one in rows}
    seen: set[tuple[Any, ...]] = set()
    for one in content["details"]["images"]:
        groups.setdefault((one["interpreter"], one["attack"], one["schedule"]), []).append(one)
        name, image_id = one["interpreter"] or first, one["image_id"]
        said = f"image {image_id!r} under {one['interpreter']}/{one['attack']}"
        if (key := (name, one["attack"], one["schedule"], image_id)) in seen:
            yield f"{said} is in it twice"
        seen.add(key)
        if None in (one["gain"], one["l1"], one["error"]):  # not finite
            yield from same(said, one, {"slack": None, "verdict": "unresolved"})
            continue
        gain = after[key]["confidence"] - benign[name, image_id]
        if abs(one["gain"] - gain) > 1e-4:
            yield f"{said}: gain is {one['gain']}, from the confidences {gain}"
        slack = one["l1"] / one["gain"] if one["gain"] > tolerance else None
        held = "held" if abs(one["error"]) <= tolerance and one["l1"] >= 0 else "unresolved"
        verdict = "violated" if one["gain"] > one["l1"] + tolerance else held
        yield from same(said, one, {"slack": slack, "verdict": verdict})
    wanted = {}
    for group, own in groups.items():
        verdicts, errors = (
            Counter(one["verdict"] for one in own),
            [abs(one["error"]) for one in own if one["error"] is not None],
        )
        slacks = [one["slack"] for one in own if one["slack"] is not None]
        source = table[(group[0] or first, *group[1:])]
        wanted[group] = {
            "role": source["role"],
            "n": len(own),
            **{verdict: verdicts[verdict] for verdict in ("held", "violated", "unresolved")},
            **{name: mean(one[name] for one in own if one[name] is not None) for name in ("gain", "l1")},
            "slack": median(slacks) if slacks else None,
            "error": mean(errors),
            "max_error": max(errors, default=None),
        }
        if len(own) != source["n"]:
            yield f"{group}: {len(own)} images, from the records {source['n']}"
    yield from same_rows(content["rows"], ("interpreter", "attack", "schedule"), wanted)


def classifier_transfer(content: Row, contents: Contents, table: dict[Key, Row], folder: Path) -> Iterator[str]:
    """``classifier_transfer.json``: of the victim itself, the table has the same."""
    names = [one["name"] for one in content["details"]["classifiers"]]
    victim = names[0]
    wanted_rows = {(*key, name) for key, row in table.items() if row["threat_model"] != "none" for name in names}
    if content["settings"]["attacked"] != victim:
        yield f"attacked is {content['settings']['attacked']}, the first of its classifiers {victim}"
    keys = [(row["interpreter"], row["attack"], row["schedule"], row["classifier"]) for row in content["rows"]]
    if len(set(keys)) < len(keys) or not set(keys) <= wanted_rows:
        yield f"its rows are {keys}, the classifiers {names}"
    for row in content["rows"]:
        key = row["interpreter"], row["attack"], row["schedule"]
        name = f"{row['classifier']}/{'/'.join(key)}"
        if row["classifier"] == victim:
            source, valid = table[key], [one for one in contents.rows[key] if one["valid"]]
            wrong = [one for one in valid if one["adv_predicted"] != one["label"]]
            wanted = {"n": len(valid), "maps": len(valid), "asr": source["asr"], "confidence": source["confidence"]}
            wanted["role"] = source["role"]
            wanted |= {"fooled": len(wrong), "wrong": len(wrong) / len(valid) if valid else None}
            for ending, own in (("", valid), ("_fooled", wrong)):
                wanted |= {f"{one}{ending}": mean(image[f"{one}_benign"] for image in own) for one in ("l1", "iou")}
                wanted[f"empty{ending}"] = sum(math.isnan(image["iou_benign"]) for image in own)
            yield from same(name, row, wanted)
        if not row["fooled"] <= row["n"] or not row["maps"] <= row["n"]:
            yield f"{name}: {row['fooled']} fooled and {row['maps']} maps of {row['n']} images"
