"""What the studies' files state, as far as it follows from the records or from what else stands in the same file.

What takes the networks again (a map under noise, a detector's score, another classifier's verdict) is not counted anew
here: for that there are the sums of ``SHA256SUMS``.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from statistics import median
from typing import Any, TypeAlias

from lightning_adv2.audit.reading import differing, differing_cell, guarded, in_range, is_count, read_json, read_table
from lightning_adv2.audit.recount import Contents, Key, Row, mean
from lightning_adv2.audit.stated import same_cells
from lightning_adv2.files.run import record_key

Study: TypeAlias = Callable[[Any, Contents, dict[Key, Row], Path], Iterator[str]]
_Z = 1.959964
_SHARES = {
    "asr", "iou", "confidence", "wrong", "plausible", "detection_rate", "benign_fpr", "calibration_fpr", "auroc",
    "low", "high", "pointing", "energy_inside", "mask_iou", "accuracy", "balanced_accuracy", "rate",
    "rate_reached", "worst_iou", "control_iou", "transfer_iou", "area", "preserved", "destroyed", "shuffled",
    "iou_true_class", "iou_target_class", "calibration_error",
}  # fmt: skip
_COUNTS = {
    "n", "empty", "images", "misclassified", "invalid", "maps", "fooled", "held", "violated", "unresolved", "asked",
    "right", "successful", "located", "reported", "calibration_n", "empty_fooled", "empty_predicted",
}  # fmt: skip


def study_findings(folder: Path, contents: Contents, table: dict[Key, Row]) -> Iterator[str]:
    """What is wrong in the files of the studies that lie in a run's folder, one sentence each."""
    for path in sorted(folder.glob("*.json")):
        if path.stem in STUDIES:
            yield from guarded(path, lambda path=path: _study(path, contents, table))  # type: ignore[misc]
    for name in ("detection", "resilience"):
        path, source = folder / f"{name}.csv", folder / f"{name}.json"
        if path.exists() and source.exists():
            yield from guarded(path, lambda path=path, source=source: _flat_table(path, read_json(source)["rows"]))  # type: ignore[misc]


def _study(path: Path, contents: Contents, table: dict[Key, Row]) -> Iterator[str]:
    content = read_json(path)
    missing = [key for key in _KEYS.get(path.stem, ()) if not content[key]]
    if missing:
        yield f"nothing under {', '.join(missing)}"
    yield from _ranges(content, "")
    yield from STUDIES[path.stem](content, contents, table, path.parent)


def _ranges(content: Any, place: str) -> Iterator[str]:
    """Numbers that none of their name can be: shares outside 0 to 1, counts with a fraction, intervals inside out."""
    if isinstance(content, list):
        for i, one in enumerate(content):
            yield from _ranges(one, f"{place}[{i}]")
    if not isinstance(content, dict):
        return
    for key, value in content.items():
        name, number = f"{place}.{key}".lstrip("."), isinstance(value, (int, float)) and not isinstance(value, bool)
        if isinstance(value, (dict, list)):
            yield from _ranges(value, name)
        elif number and key in _SHARES and not in_range(value, -1e-6, 1 + 1e-6):
            yield f"{name} is {value}, outside 0 to 1"
        elif (number and key in _COUNTS and not is_count(value)) or (number and not math.isfinite(value)):
            yield f"{name} is {value}"
        if key.endswith("_low") and value is not None:
            middle, high = content[key.removesuffix("_low")], content[f"{key.removesuffix('_low')}_high"]
            if middle is None or high is None or not value - 1e-6 <= middle <= high + 1e-6:
                yield f"{name}: {middle} is outside its interval, {value} to {high}"


def _same(name: str, said: Mapping[str, Any], wanted: Row, tolerance: float = 1e-6) -> Iterator[str]:
    for key, value in wanted.items():
        if differing(said.get(key), value, tolerance):
            yield f"{name}: {key} is {said.get(key)}, counted again {value}"


def _rows_of(stated: Sequence[Row], keys: Sequence[str], wanted: Mapping[tuple[Any, ...], Row]) -> Iterator[str]:
    """Rows against what they should be, by their keys, which come once each and in this order."""
    found = [tuple(row[key] for key in keys) for row in stated]
    if found != list(wanted):
        yield f"its rows are {found}, from the records {list(wanted)}"
    for key, row in zip(found, stated, strict=True):
        yield from _same("/".join(map(str, key)), row, wanted.get(key, {}))


def _gap(content: Row, contents: Contents, table: dict[Key, Row], folder: Path) -> Iterator[str]:
    wanted: dict[tuple[Any, ...], Row] = {}
    for name, images in contents.images.items():
        own = {key: row for key, row in table.items() if key[0] == name}
        target = next((row["target"] for row in own.values()), "")
        l1, iou = ([pair[i] for pair in images.values()] for i in (0, 1))
        means = {"l1": mean(l1), "iou": mean(iou), "empty": sum(map(math.isnan, iou)), "asr": None, "confidence": None}
        wanted[name, "benign", "benign"] = {"target": target, "n": len(images), **means}
        names = ("target", "n", "l1", "iou", "empty", "asr", "confidence")
        wanted |= {key: {one: row[one] for one in names} for key, row in own.items()}
    yield from _rows_of(content["rows"], ("interpreter", "attack", "schedule"), wanted)


def _curves(content: Row, contents: Contents, table: dict[Key, Row], folder: Path) -> Iterator[str]:
    def point(said: Row, key: Key) -> Iterator[str]:
        row = table[key]
        low, high = _wilson(row["counts"]["successful"], row["n"])
        wanted = {one: row[one] for one in ("n", "empty", "asr", "iou", "l1")} | {"asr_low": low, "asr_high": high}
        yield from _same("/".join(key), said, wanted)

    for curve in content["curves"]:
        values = [one["value"] for one in curve["points"]]
        if values != sorted(set(values)) or len(values) < 2:
            yield f"curve of {curve['interpreter']}, {curve['family']}: its points are at {values}"
        for one in curve["points"]:
            key = curve["interpreter"], one["attack"], curve["schedule"]
            yield from point(one, key)
            if curve["axis"] == "steps" and one["value"] != table[key]["steps"]:
                yield f"{'/'.join(key)}: its point is at {one['value']}, it has {table[key]['steps']} steps"
            if curve["axis"] != "steps" and curve["steps"] != table[key]["steps"]:
                yield f"{'/'.join(key)}: steps is {curve['steps']}, it has {table[key]['steps']}"
    for one in content["controls"]:
        yield from point(one, (one["interpreter"], one["attack"], "control"))
    named = [(one["interpreter"], one["attack"]) for one in content["controls"]]
    controls = [key[:2] for key in table if key[2] == "control"]
    if named != controls:
        yield f"its controls are {named}, from the records {controls}"


def _wilson(successes: int, n: int) -> tuple[float | None, float | None]:
    if not n:
        return None, None
    share, spread = successes / n, _Z * _Z / n
    middle = (share + spread / 2) / (1 + spread)
    half = math.sqrt(spread * (share * (1 - share) + spread / 4)) / (1 + spread)
    return max(0.0, middle - half), min(1.0, middle + half)


def _transfer(content: Row, contents: Contents, table: dict[Key, Row], folder: Path) -> Iterator[str]:
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
            yield from _same(name, row, wanted)
        elif key[0] != "none" and not row["n"] <= table[key[:3]]["n"]:
            yield f"{name}: n is {row['n']}, under the attack {table[key[:3]]['n']}"


def _proposition(content: Row, contents: Contents, table: dict[Key, Row], folder: Path) -> Iterator[str]:
    tolerance, groups = content["tolerance"], dict[tuple[Any, ...], list[Row]]()
    first = next(iter(contents.statuses), "")
    benign = {
        (name, one["image_id"]): one["confidence"]
        for (name, attack, schedule), rows in contents.rows.items()
        if (attack, schedule) == ("target_class", "control")
        for one in rows
    }
    after = {(*key, one["image_id"]): one for key, rows in contents.rows.items() for one in rows}
    seen: set[tuple[Any, ...]] = set()
    for one in content["images"]:
        groups.setdefault((one["interpreter"], one["attack"], one["schedule"]), []).append(one)
        name, image_id = one["interpreter"] or first, one["image_id"]
        said = f"image {image_id!r} under {one['interpreter']}/{one['attack']}"
        if (key := (name, one["attack"], one["schedule"], image_id)) in seen:
            yield f"{said} is in it twice"
        seen.add(key)
        gain = after[key]["confidence"] - benign[name, image_id]
        if abs(one["gain"] - gain) > 1e-4:
            yield f"{said}: gain is {one['gain']}, from the confidences {gain}"
        slack = one["l1"] / one["gain"] if one["gain"] > tolerance else None
        held = "held" if abs(one["error"]) <= tolerance and one["l1"] >= 0 else "unresolved"
        verdict = "violated" if one["gain"] > one["l1"] + tolerance else held
        yield from _same(said, one, {"slack": slack, "verdict": verdict})
    wanted = {}
    for group, own in groups.items():
        verdicts, errors = Counter(one["verdict"] for one in own), [abs(one["error"]) for one in own]
        slacks = [one["slack"] for one in own if one["slack"] is not None]
        wanted[group] = {
            "n": len(own),
            **{verdict: verdicts[verdict] for verdict in ("held", "violated", "unresolved")},
            **{name: mean(one[name] for one in own) for name in ("gain", "l1")},
            "slack": median(slacks) if slacks else None,
            "error": mean(errors),
            "max_error": max(errors),
        }
        if group[0] is not None or group[1] != "noise":
            valid = table[(group[0] or first, *group[1:])]["n"]
            if len(own) != valid:
                yield f"{group}: {len(own)} images, from the records {valid}"
    yield from _rows_of(content["rows"], ("interpreter", "attack", "schedule"), wanted)


def _detection(content: Row, contents: Contents, table: dict[Key, Row], folder: Path) -> Iterator[str]:
    parts = {(one["interpreter"], one["detector"]): one for one in content["scores"]}
    rate = content["settings"]["false_positive_rate"]
    for row in content["rows"]:
        key = row["interpreter"], row["attack"], row["schedule"]
        part, name = parts[row["interpreter"], row["detector"]], f"{row['detector']}/{'/'.join(key)}"
        found = _numbers(part["attacks"][record_key(*key[1:])])
        benign, calibration = _numbers(part["benign"]), part["calibration"]
        wanted: Row = {"n": len(found), "detection_rate": _above(found, row["threshold"])}
        wanted |= {"benign_fpr": _above(benign, row["threshold"])}
        wanted |= {"calibration_fpr": _above(calibration, row["threshold"]), "auroc": _auroc(benign, found)}
        yield from _same(name, row, wanted)
        if (wanted["calibration_fpr"] or 0.0) > rate + 1e-9:
            yield f"{name}: its threshold flags {wanted['calibration_fpr']} of the calibration images, {rate} may be"
        if len(found) > table[key]["n"]:
            yield f"{name}: {len(found)} scores, under the attack {table[key]['n']} images"
    ids = content["settings"]["calibration_image_id"]
    for one in content["scores"]:
        if len(one["calibration"]) != len(ids):
            yield f"{one['detector']}: {len(one['calibration'])} scores of {len(ids)} calibration images"


def _numbers(values: Sequence[float]) -> list[float]:
    return [value for value in values if math.isfinite(value)]


def _above(scores: Sequence[float], threshold: float) -> float | None:
    return sum(score > threshold for score in scores) / len(scores) if scores else None


def _auroc(benign: Sequence[float], adversarial: Sequence[float]) -> float | None:
    if not benign or not adversarial:
        return None
    import numpy as np

    ordered = np.sort(np.array(benign))
    sides = (np.searchsorted(ordered, np.array(adversarial), side=side) for side in ("left", "right"))
    return float(sum(int(side.sum()) for side in sides) / (2 * len(benign) * len(adversarial)))


def _classifier_transfer(content: Row, contents: Contents, table: dict[Key, Row], folder: Path) -> Iterator[str]:
    victim, names = content["classifiers"][0]["name"], [one["name"] for one in content["classifiers"]]
    wanted_rows = {(*key, name) for key in table if key[1:] != ("target_class", "control") for name in names}
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
            wanted |= {"fooled": len(wrong), "wrong": len(wrong) / len(valid) if valid else None}
            for ending, own in (("", valid), ("_fooled", wrong)):
                wanted |= {f"{one}{ending}": mean(image[f"{one}_benign"] for image in own) for one in ("l1", "iou")}
                wanted[f"empty{ending}"] = sum(math.isnan(image["iou_benign"]) for image in own)
            yield from _same(name, row, wanted)
        if not row["fooled"] <= row["n"] or not row["maps"] <= row["n"]:
            yield f"{name}: {row['fooled']} fooled and {row['maps']} maps of {row['n']} images"


def _confusion(content: Row, contents: Contents, table: dict[Key, Row], folder: Path) -> Iterator[str]:
    counts = content["counts"]
    size = len(content["classes"])
    if len(counts) != size or any(len(row) != size or not all(map(is_count, row)) for row in counts):
        yield f"counts: no {size} x {size} whole numbers"
        return
    total, right = sum(map(sum, counts)), [row[i] for i, row in enumerate(counts)]
    true, said = [sum(row) for row in counts], [sum(column) for column in zip(*counts, strict=True)]
    recall = [one / of if of else None for one, of in zip(right, true, strict=True)]
    precision = [one / of if of else None for one, of in zip(right, said, strict=True)]
    wanted = {"images": total, "accuracy": sum(right) / total if total else None}
    wanted["balanced_accuracy"] = mean(one for one in recall if one is not None)
    yield from _same("all", content, wanted)
    for name, values in (("recall", recall), ("precision", precision)):
        if len(content[name]) != size or any(map(differing, content[name], values)):
            yield f"{name} is {content[name]}, from the counts {values}"


def _noise(content: Row, contents: Contents, table: dict[Key, Row], folder: Path) -> Iterator[str]:
    levels = {(one["kind"], one["rate"]): one for one in content["levels"]}
    for key, one in levels.items():
        yield from _same(
            f"{key}", one, {"rate_reached": one["misclassified"] / one["images"] if one["images"] else None}
        )
    keys = [(row["interpreter"], row["kind"], row["rate"]) for row in content["rows"]]
    if keys != [(name, *level) for name in contents.statuses for level in levels]:
        yield f"its rows are {keys}"
    for row in content["rows"]:
        images = levels[row["kind"], row["rate"]]["images"]
        if row["n"] + row["invalid"] != images:
            yield f"{row['interpreter']}, {row['kind']}-{row['rate']}: {row['n']} + {row['invalid']} of {images} images"


def _localization(content: Row, contents: Contents, table: dict[Key, Row], folder: Path) -> Iterator[str]:
    lines = read_table(folder / "localization.csv")
    for part in ("calibration", "reported"):
        count = Counter(one["interpreter"] for one in lines if one["part"] == part)
        if any(count[name] != content["images"][part] for name in content["calibration"]):
            yield f"images: {content['images'][part]} of {part}, in localization.csv {dict(count)}"
    for row in content["rows"]:
        own = [one for one in lines if one["interpreter"] == row["interpreter"] and one["part"] == "reported"]
        own = [one for one in own if one["iou"]]
        if "rule" in row and row["rule"] and own:
            wanted: Row = {"n": len(own), "error": 1 - sum(int(one["correct"]) for one in own) / len(own)}
            wanted |= {"iou": mean(float(one["iou"]) for one in own)}
            wanted |= {key: mean(float(one[key]) for one in own if one[key]) for key in ("pointing", "energy_inside")}
            if row.get("mask_iou") is not None:
                wanted["mask_iou"] = mean(float(one["mask_iou"]) for one in own if one["mask_iou"])
            yield from _same(row["interpreter"], row, wanted, 1e-5)
            if any(one["rule"] != row["rule"] or differing_cell(one["alpha"], float(row["alpha"])) for one in own):
                yield f"{row['interpreter']}: rule or alpha is not that of localization.csv"
        for name, one in row.get("rules", {}).items():
            tried = [c for c in content["calibration"][row["interpreter"]] if c["rule"] == name]
            best = min((c["error"] for c in tried), default=None)
            if differing(one["calibration_error"], best):
                said = one["calibration_error"]
                yield f"{row['interpreter']}, {name}: calibration_error is {said}, of those tried {best}"
        if row.get("rule"):
            yield from _same(
                f"{row['interpreter']}, {row['rule']}",
                row,
                {k: row["rules"][row["rule"]][k] for k in ("alpha", "calibration_error", "error")},
            )
    for one in lines:
        if one["iou"] and (float(one["iou"]) > 0.5) != bool(int(one["correct"])):
            yield f"localization.csv, image {one['image_id']!r}: correct is {one['correct']}, its iou {one['iou']}"


def _map_quality(content: Row, contents: Contents, table: dict[Key, Row], folder: Path) -> Iterator[str]:
    if content.keys() != contents.statuses.keys():
        yield f"it is of {', '.join(content)}, the records of {', '.join(contents.statuses)}"
    for name, own in content.items():
        for key, value in own.items():
            if not in_range(value, -1 - 1e-6, 1 + 1e-6):
                yield f"{name}: {key} is {value}"


def _resilience(content: Row, contents: Contents, table: dict[Key, Row], folder: Path) -> Iterator[str]:
    quality = read_json(folder / "map_quality.json")
    noise = read_json(folder / "noise.json")["rows"] if (folder / "noise.json").exists() else []
    transfer = read_json(folder / "transfer.json")["rows"] if (folder / "transfer.json").exists() else []
    for row in content["rows"]:
        name = row["interpreter"]
        wanted: Row = {"control_iou": table[name, "target_class", "control"]["iou"], "benign": quality[name]}
        wanted |= _worst(contents, name)
        yield from _same(name, row, wanted)
        claimed, shown = row["resilience"] is not None, row["decided_by"]
        if claimed and differing(row["resilience"], 1 - max(row[k] for k in _ASKED if row[k] is not None)):
            yield f"{name}: resilience is {row['resilience']}, decided by {shown}"
        if row["counts"] is not (claimed and not row["gate"] and not row["flags"]):
            yield f"{name}: counts is {row['counts']}, with gate {row['gate']} and flags {row['flags']}"
        if row["noise_iou"]:
            own = {f"{one['kind']}-{one['rate']:g}": one["iou"] for one in noise if one["interpreter"] == name}
            yield from _same(f"{name}, noise_iou", row["noise_iou"], own)
        if row["transfer_iou"] is not None:
            given = [t for t in transfer if t["interpreter"] == name != t["source"] == content["reference"]]
            yield from _same(
                name, row, {"transfer_iou": max((t["iou"] for t in given if t["iou"] is not None), default=None)}
            )
    ranks = [row["rank"] for row in content["rows"]]
    counting = [row["resilience"] for row in content["rows"] if row["counts"]]
    if ranks != [*range(1, len(counting) + 1), *[None] * (len(ranks) - len(counting))]:
        yield f"its ranks are {ranks}"
    if counting != sorted(counting, reverse=True):
        yield f"its rows are not in the order of their resilience: {counting}"


_ASKED = ("worst_iou", "iou_true_class", "iou_target_class")


def _worst(contents: Contents, name: str) -> Row:
    """Of each image that attack on the map which succeeds and leaves the map most as it was."""
    best: dict[str, tuple[Key, Row]] = {}
    judged: set[str] = set()
    for key, rows in contents.rows.items():
        for one in rows if key[0] == name and key in contents.joint else ():
            judged |= {one["image_id"]} if one["valid"] else set()
            kept = best.get(one["image_id"])
            if one["valid"] and one["success"] and (kept is None or _iou(one) > _iou(kept[1])):
                best[one["image_id"]] = key, one
    own = [one for _, one in best.values()]
    found: Row = {"successful": len(own), "asr": len(own) / len(judged) if judged else None}
    found |= {"worst_iou" if key == "iou" else key: mean(one[key] for one in own) for key in ("iou", *_ASKED[1:])}
    found["worst_l1"] = mean(one["l1"] for one in own)
    found["empty"] = {key: sum(math.isnan(one[key]) for one in own) for key in ("iou", *_ASKED[1:])}
    return found


def _iou(one: Row) -> float:
    return -1.0 if math.isnan(one["iou"]) else float(one["iou"])


def _flat_table(path: Path, rows: Sequence[Row]) -> Iterator[str]:
    """A CSV of rows that may hold further rows, each of their keys a column."""
    flat: list[Row] = []
    for row in rows:
        flat.append({})
        for key, value in row.items():
            flat[-1] |= {f"{key}_{k}": v for k, v in value.items()} if isinstance(value, dict) else {key: value}
    keys = list(dict.fromkeys(key for row in flat for key in row))
    lines = read_table(path)
    if len(lines) != len(rows):
        yield f"it has {len(lines)} rows, the JSON {len(rows)}"
    for line, row in zip(lines, flat, strict=False):
        yield from same_cells(str(row.get("interpreter")), line, {key: row.get(key) for key in keys})


_KEYS = {
    "gap": ["rows"], "curves": ["curves"], "transfer": ["rows"], "proposition": ["steps", "tolerance", "rows"],
    "detection": ["rows", "settings", "scores"], "classifier_transfer": ["classifiers", "rows"],
    "noise": ["levels", "rows"], "localization": ["settings", "images", "rows", "calibration"],
    "resilience": ["reference", "rows"],
}  # fmt: skip
STUDIES: dict[str, Study] = {
    "gap": _gap, "curves": _curves, "transfer": _transfer, "proposition": _proposition, "detection": _detection,
    "classifier_transfer": _classifier_transfer, "confusion": _confusion, "noise": _noise,
    "localization": _localization, "map_quality": _map_quality, "resilience": _resilience,
}  # fmt: skip
"""File without its ending -> what of it follows from elsewhere."""
