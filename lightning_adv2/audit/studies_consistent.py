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
    """``confusion.json``: shares from the counts, which are a matrix or, of many classes, its cells that are not 0."""
    size, counts = len(content["classes"]), content["counts"]
    cells = content["cells"] if counts is None else [
        (i, j, number) for i, row in enumerate(counts) for j, number in enumerate(row)
    ]  # fmt: skip
    whole = counts is None or (len(counts) == size and all(len(row) == size for row in counts))
    places = {(i, j) for i, j, _ in cells}
    if not whole or len(places) < len(cells) or not all(all(map(is_count, cell)) for cell in cells):
        yield f"counts: no {size} x {size} whole numbers, or no cells of such a matrix"
        return
    true, said, right = [0] * size, [0] * size, [0] * size
    for i, j, number in cells:
        true[i] += number
        said[j] += number
        right[i] += number if i == j else 0
    total = sum(true)
    recall = [one / of if of else None for one, of in zip(right, true, strict=True)]
    precision = [one / of if of else None for one, of in zip(right, said, strict=True)]
    wanted = {"images": total, "accuracy": sum(right) / total if total else None}
    wanted["balanced_accuracy"] = mean(one for one in recall if one is not None)
    yield from same("all", content, wanted)
    for name, values in (("recall", recall), ("precision", precision)):
        if len(content[name]) != size or any(map(differing, content[name], values)):
            yield f"{name} is {content[name]}, from the counts {values}"


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
    """``localization.json``: means of ``localization.csv``."""
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
            yield from same(row["interpreter"], row, wanted, 1e-5)
            if any(one["rule"] != row["rule"] or differing_cell(one["alpha"], float(row["alpha"])) for one in own):
                yield f"{row['interpreter']}: rule or alpha is not that of localization.csv"
        for name, one in row.get("rules", {}).items():
            tried = [c for c in content["calibration"][row["interpreter"]] if c["rule"] == name]
            best = min((c["error"] for c in tried), default=None)
            if differing(one["calibration_error"], best):
                said = one["calibration_error"]
                yield f"{row['interpreter']}, {name}: calibration_error is {said}, of those tried {best}"
        if row.get("rule"):
            yield from same(
                f"{row['interpreter']}, {row['rule']}",
                row,
                {k: row["rules"][row["rule"]][k] for k in ("alpha", "calibration_error", "error")},
            )
    for one in lines:
        if one["iou"] and (float(one["iou"]) > 0.5) != bool(int(one["correct"])):
            yield f"localization.csv, image {one['image_id']!r}: correct is {one['correct']}, its iou {one['iou']}"


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
    quality = {
        row["interpreter"]: {key: value for key, value in row.items() if key != "interpreter" and value is not None}
        for row in read_json(folder / "map_quality.json")["rows"]
    }
    noise = read_json(folder / "noise.json")["rows"] if (folder / "noise.json").exists() else []
    transfer = read_json(folder / "transfer.json")["rows"] if (folder / "transfer.json").exists() else []
    for row in content["rows"]:
        name = row["interpreter"]
        wanted: Row = {"control_iou": table[name, "target_class", "control"]["iou"], "benign": quality[name]}
        wanted |= _worst(contents, name)
        yield from same(name, row, wanted)
        claimed, shown = row["resilience"] is not None, row["decided_by"]
        if claimed and differing(row["resilience"], 1 - max(row[k] for k in _ASKED if row[k] is not None)):
            yield f"{name}: resilience is {row['resilience']}, decided by {shown}"
        if row["counts"] is not (claimed and not row["gate"] and not row["flags"]):
            yield f"{name}: counts is {row['counts']}, with gate {row['gate']} and flags {row['flags']}"
        if row["noise_iou"]:
            own = {f"{one['kind']}-{one['rate']:g}": one["iou"] for one in noise if one["interpreter"] == name}
            yield from same(f"{name}, noise_iou", row["noise_iou"], own)
        if row["transfer_iou"] is not None:
            given = [t for t in transfer if t["interpreter"] == name != t["source"] == content["reference"]]
            yield from same(
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
