"""Studies that took the networks again: what in their files must agree with the rest of the file, or with others."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

from lightning_adv2.audit.reading import differing, differing_cell, in_range, is_count, read_table, same
from lightning_adv2.audit.recount import Contents, Key, Row, mean
from lightning_adv2.files import read_json


def confusion(content: Row, contents: Contents, table: dict[Key, Row], folder: Path) -> Iterator[str]:
    """``confusion.json``: shares from the cells of the matrix."""
    size, cells = len(content["rows"]), content["details"]["cells"]
    numbers = [(one["true_class"], one["predicted_class"], one["images"]) for one in cells]
    places = {(i, j) for i, j, _ in numbers}
    if len(places) < len(cells) or not all(all(map(is_count, cell)) and max(cell[:2]) < size for cell in numbers):
        yield f"cells: they are not those of a matrix of {size} x {size} whole numbers"
        return
    true, said, right = [0] * size, [0] * size, [0] * size
    for i, j, number in numbers:
        true[i] += number
        said[j] += number
        right[i] += number if i == j else 0
    total = sum(true)
    recall = [one / of if of else None for one, of in zip(right, true, strict=True)]
    precision = [one / of if of else None for one, of in zip(right, said, strict=True)]
    wanted = {"images": total, "accuracy": sum(right) / total if total else None}
    wanted["balanced_accuracy"] = mean(one for one in recall if one is not None)
    yield from same("all", content["settings"], wanted)
    for i, row in enumerate(content["rows"]):
        own = {"images": true[i], "recall": recall[i], "precision": precision[i]}
        yield from same(f"class {row['class']!r}", row, own)


def noise(content: Row, contents: Contents, table: dict[Key, Row], folder: Path) -> Iterator[str]:
    """``noise.json``: which rows it has, and that their images add up."""
    levels = {(one["kind"], one["rate"]): one for one in content["details"]["levels"]}
    for key, one in levels.items():
        yield from same(
            f"{key}", one, {"rate_reached": one["misclassified"] / one["images"] if one["images"] else None}
        )
    keys = [(row["interpreter"], row["kind"], row["rate"]) for row in content["rows"]]
    if keys != [(name, *level) for name in contents.statuses for level in levels]:
        yield f"its rows are {keys}"
    for row in content["rows"]:
        level = levels[row["kind"], row["rate"]]
        yield from same(row["interpreter"], row, {key: level[key] for key in ("level", "rate_reached")})
        images = level["images"]
        if row["n"] + row["invalid"] != images:
            yield f"{row['interpreter']}, {row['kind']}-{row['rate']}: {row['n']} + {row['invalid']} of {images} images"


def localization(content: Row, contents: Contents, table: dict[Key, Row], folder: Path) -> Iterator[str]:
    """``localization.json``: means of ``localization_images.csv``, and rules from the candidates that were tried."""
    rows = [row for row in content["rows"] if not row["baseline"]]
    names, counts = [row["interpreter"] for row in rows], content["settings"]["images"]
    path = folder / "localization_images.csv"
    lines = read_table(path) if path.exists() or counts["located"] else []
    for part in ("calibration", "reported"):
        count = Counter(one["interpreter"] for one in lines if one["part"] == part)
        if any(count[name] != counts[part] for name in names):
            yield f"images: {counts[part]} of {part}, in {path.name} {dict(count)}"
    for row in rows:
        own = [one for one in lines if one["interpreter"] == row["interpreter"] and one["part"] == "reported"]
        own = [one for one in own if one["iou"]]
        if row["rule"] and own:
            wanted: Row = {"n": len(own), "error": 1 - sum(int(one["correct"]) for one in own) / len(own)}
            wanted |= {"iou": mean(float(one["iou"]) for one in own)}
            wanted |= {key: mean(float(one[key]) for one in own if one[key]) for key in ("pointing", "energy_inside")}
            if row["mask_iou"] is not None:
                wanted["mask_iou"] = mean(float(one["mask_iou"]) for one in own if one["mask_iou"])
            yield from same(row["interpreter"], row, wanted, 1e-5)
            if any(one["rule"] != row["rule"] or differing_cell(one["alpha"], float(row["alpha"])) for one in own):
                yield f"{row['interpreter']}: rule or alpha is not that of {path.name}"
        rules = {one["rule"]: one for one in content["details"]["rules"] if one["interpreter"] == row["interpreter"]}
        tried = [one for one in content["details"]["candidates"] if one["interpreter"] == row["interpreter"]]
        for name, one in rules.items():
            best = min((c["error"] for c in tried if c["rule"] == name), default=None)
            yield from same(f"{row['interpreter']}, {name}", one, {"calibration_error": best})
        if row["rule"]:
            one = rules[row["rule"]]
            own_rule = {key: one[key] for key in ("alpha", "calibration_error", "error")}
            yield from same(f"{row['interpreter']}, {row['rule']}", row, own_rule)
    for one in lines:
        if one["iou"] and (float(one["iou"]) > 0.5) != bool(int(one["correct"])):
            yield f"{path.name}, image {one['image_id']!r}: correct is {one['correct']}, its iou {one['iou']}"


def map_quality(content: Row, contents: Contents, table: dict[Key, Row], folder: Path) -> Iterator[str]:
    """``map_quality.json``: of whom it is, and the range of its numbers."""
    names = [row["interpreter"] for row in content["rows"]]
    if sorted(names) != sorted(contents.statuses):
        yield f"it is of {', '.join(names)}, the records of {', '.join(contents.statuses)}"
    for row in content["rows"]:
        for key, value in row.items():
            if key != "interpreter" and value is not None and not in_range(value, -1 - 1e-6, 1 + 1e-6):
                yield f"{row['interpreter']}: {key} is {value}"


def resilience(content: Row, contents: Contents, table: dict[Key, Row], folder: Path) -> Iterator[str]:
    """``resilience.json``: the worst case from the records, the rest from the other studies."""
    quality, noise, transfer = (_rows_of(folder, name) for name in ("map_quality", "noise", "transfer"))
    measures = {row["interpreter"]: {key: row[key] for key in row if key != "interpreter"} for row in quality}
    for row in content["rows"]:
        name = row["interpreter"]
        wanted: Row = {"control_iou": next(one["iou"] for key, one in table.items() if _is_benign(key, one, name))}
        wanted |= {f"benign_{key}": value for key, value in measures[name].items()}
        wanted |= _worst(contents, name)
        yield from same(name, row, wanted)
        claimed, shown = row["resilience"] is not None, row["decided_by"]
        if claimed and differing(row["resilience"], 1 - max(row[k] for k in _ASKED if row[k] is not None)):
            yield f"{name}: resilience is {row['resilience']}, decided by {shown}"
        if row["counts"] is not (claimed and not row["gate"] and not row["flags"]):
            yield f"{name}: counts is {row['counts']}, with gate {row['gate']} and flags {row['flags']}"
        moved = {f"noise_iou_{one['kind']}-{one['rate']:g}": one["iou"] for one in noise if one["interpreter"] == name}
        if any(key.startswith("noise_iou_") for key in row):  # else the run was made without the study
            yield from same(name, row, moved)
        if row["transfer_iou"] is not None:
            reference = content["settings"]["reference"]
            given = [one["iou"] for one in transfer if one["interpreter"] == name != one["source"] == reference]
            yield from same(name, row, {"transfer_iou": max((iou for iou in given if iou is not None), default=None)})
    ranks = [row["rank"] for row in content["rows"]]
    counting = [row["resilience"] for row in content["rows"] if row["counts"]]
    if ranks != [*range(1, len(counting) + 1), *[None] * (len(ranks) - len(counting))]:
        yield f"its ranks are {ranks}"
    if counting != sorted(counting, reverse=True):
        yield f"its rows are not in the order of their resilience: {counting}"


def _rows_of(folder: Path, study: str) -> list[Row]:
    """The rows of another study; none where the run has not its file."""
    path = folder / f"{study}.json"
    rows: list[Row] = read_json(path)["rows"] if path.exists() else []
    return rows


def _is_benign(key: Key, row: Row, interpreter: str) -> bool:
    """Whether a row of the table is the control of this interpreter that changes no image."""
    return key[0] == interpreter and row["threat_model"] == "none"


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
    found |= {f"empty_{key}": sum(math.isnan(one[key]) for one in own) for key in ("iou", *_ASKED[1:])}
    return found


def _iou(one: Row) -> float:
    return -1.0 if math.isnan(one["iou"]) else float(one["iou"])
