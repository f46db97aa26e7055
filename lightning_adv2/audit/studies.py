"""What the studies' files state, as far as it follows from the records or from what else stands in the same file.

What takes the networks again (a map under noise, a detector's score, another classifier's verdict) is not counted anew
here: for that there are the sums of ``SHA256SUMS``.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, TypeAlias

from lightning_adv2.audit.reading import guarded, in_range, is_count, read_table
from lightning_adv2.audit.recount import Contents, Key, Row
from lightning_adv2.audit.stated import same_cells
from lightning_adv2.audit.studies_consistent import confusion, localization, map_quality, noise, resilience
from lightning_adv2.audit.studies_detection import detection
from lightning_adv2.audit.studies_recounted import classifier_transfer, curves, gap, proposition, transfer
from lightning_adv2.files import read_json

Study: TypeAlias = Callable[[Any, Contents, dict[Key, Row], Path], Iterator[str]]
_SHARES = {
    "asr", "iou", "confidence", "wrong", "plausible", "detection_rate", "benign_fpr", "calibration_fpr", "auroc",
    "error_low", "error_high", "pointing", "energy_inside", "mask_iou", "accuracy", "balanced_accuracy", "rate",
    "rate_reached", "worst_iou", "control_iou", "transfer_iou", "area", "preserved", "destroyed", "shuffled",
    "iou_true_class", "iou_target_class", "calibration_error",
}  # fmt: skip
_COUNTS = {
    "n", "empty", "images", "misclassified", "invalid", "maps", "fooled", "held", "violated", "unresolved", "asked",
    "right", "successful", "located", "reported", "calibration_n",
}  # fmt: skip


def study_findings(folder: Path, contents: Contents, table: dict[Key, Row]) -> Iterator[str]:
    """What is wrong in the files of the studies that lie in a run's folder, one sentence each."""
    for path in sorted(folder.glob("*.json")):
        if path.stem in STUDIES:
            yield from guarded(path, lambda path=path: _study(path, contents, table))  # type: ignore[misc]
            csv = path.with_suffix(".csv")
            yield from guarded(csv, lambda path=path, csv=csv: _same_table(csv, read_json(path)["rows"]))  # type: ignore[misc]


def _study(path: Path, contents: Contents, table: dict[Key, Row]) -> Iterator[str]:
    content = read_json(path)
    if content["study"] != path.stem:
        yield f"it is of the study {content['study']}"
    missing = [key for key in _KEYS.get(path.stem, ()) if not content[key]]
    if missing:
        yield f"nothing under {', '.join(missing)}"
    odd = [one["key"] for one in content["columns"] if content["rows"] and one["key"] not in content["rows"][0]]
    if odd:
        yield f"its rows have no {', '.join(odd)}, which its columns show"
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
        elif (number and _counts(key) and not is_count(value)) or (number and not math.isfinite(value)):
            yield f"{name} is {value}"
        if key.endswith("_low") and value is not None:
            middle, high = content[key.removesuffix("_low")], content[f"{key.removesuffix('_low')}_high"]
            if middle is None or high is None or not value - 1e-6 <= middle <= high + 1e-6:
                yield f"{name}: {middle} is outside its interval, {value} to {high}"


def _counts(key: str) -> bool:
    return key in _COUNTS or key.startswith("empty_")  # images without a value of a metric


def _same_table(path: Path, rows: Sequence[Row]) -> Iterator[str]:
    """The CSV file beside a study's JSON file: the same rows."""
    lines = read_table(path)
    if len(lines) != len(rows):
        yield f"it has {len(lines)} rows, the JSON {len(rows)}"
    for number, (line, row) in enumerate(zip(lines, rows, strict=False), 1):
        yield from same_cells(f"row {number}", line, row)


_KEYS = {
    "gap": ["rows"], "curves": ["rows"], "transfer": ["rows"], "proposition": ["settings", "rows"],
    "detection": ["rows", "settings"], "classifier_transfer": ["details", "rows"],
    "noise": ["details", "rows"], "localization": ["settings", "rows"],
    "resilience": ["settings", "rows"], "map_quality": ["rows"],
}  # fmt: skip
STUDIES: dict[str, Study] = {
    "gap": gap, "curves": curves, "transfer": transfer, "proposition": proposition, "detection": detection,
    "classifier_transfer": classifier_transfer, "confusion": confusion, "noise": noise,
    "localization": localization, "map_quality": map_quality, "resilience": resilience,
}  # fmt: skip
"""File without its ending -> what of it follows from elsewhere."""
