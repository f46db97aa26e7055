"""What the files of a report state, against what the records hold. Needs no torch."""

from __future__ import annotations

import csv
import math
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from lightning_adv2.audit.recount import Contents, Key, Row, Status, key_of
from lightning_adv2.files import open_table, read_json
from lightning_adv2.files.run import AGAIN, record_key

_TOLERANCE = 1e-6  # the report computes in single precision


def misstated(folder: Path, contents: Contents, manifest: Row, classes: int) -> Iterator[str]:
    """What is wrong in ``results.json``, ``results.csv``, ``images.csv`` and ``status.csv``, one sentence each.

    Args:
        folder: the run's.
        contents: of all its records.
        manifest: the content of ``manifest.json``, or nothing: it names the images that never reached a record.
        classes: how many the classifier tells apart; 0 where nobody knows.
    """
    path, table = folder / "results.json", contents.table()
    statuses = _all_statuses(contents, manifest)
    try:
        results = read_json(path)
        yield from (f"{path}: {one}" for one in _rows(results["rows"], table))
        yield from (f"{path}: {one}" for one in _denominators(results["denominators"], table, statuses))
        if "benign" in results:  # an older run's file says nothing of it
            yield from (f"{path}: {one}" for one in _benign(results["benign"], contents, manifest, classes))
        path = folder / "results.csv"
        yield from (f"{path}: {one}" for one in _same_table(path, results["rows"]))
        path = folder / "images.csv"
        yield from (f"{path}: {one}" for one in _images(path, contents.rows))
        path = folder / "status.csv"
        yield from (f"{path}: {one}" for one in _statuses(path, statuses))
    except FileNotFoundError:
        yield f"{path}: it is missing; {AGAIN}"
    except (KeyError, TypeError, ValueError, AttributeError, OSError) as error:
        yield f"{path}: it is not of this version, or damaged ({error!r}); {AGAIN}"


def _rows(stated: Sequence[Row], table: dict[Key, Row]) -> Iterator[str]:
    rows = {key_of(row): row for row in stated}
    for key in dict.fromkeys([*table, *rows]):
        name = "/".join(key)
        if key not in rows or key not in table:
            yield f"{name} is {'not in it' if key in table else 'in no record'}"
            continue
        for field_name, value in table[key].items():
            said = rows[key].get(field_name, 0 if field_name == "empty" else None)  # an older run's file lacks it
            exact = field_name == "asr" and said != value
            if field_name != "counts" and (exact or _differing(said, value)):
                yield f"{name}: {field_name} is {said}, from the records {value}"


def _all_statuses(contents: Contents, manifest: Row) -> dict[str, dict[str, Status]]:
    """Of each interpreter, also the images that never reached a record; not where only a part of the rest did."""
    before: dict[str, Status] = dict.fromkeys(manifest.get("wrong", []), ("already_wrong", ""))
    for status in ("skipped", "invalid"):
        before |= {image_id: (status, reason) for image_id, reason in manifest.get(status, [])}
    whole = len(manifest.get("entries", []))
    return {name: own | (before if len(own) == whole else {}) for name, own in contents.statuses.items()}


def _denominators(stated: Row, table: dict[Key, Row], statuses: dict[str, dict[str, Status]]) -> Iterator[str]:
    several = stated if "considered" not in stated else dict.fromkeys(statuses, stated)
    for name in dict.fromkeys([*statuses, *several]):
        said, own = several.get(name, {}), statuses.get(name, {})
        count = Counter(status for status, _ in own.values())
        wanted: Row = {key: count[key] for key in ("already_wrong", "skipped", "invalid")}
        wanted |= {"selected": count["attacked"], "considered": len(own)}
        wanted["reasons"] = dict(Counter(reason for status, reason in own.values() if status == "invalid"))
        rows = {record_key(*key[1:]): row["counts"] for key, row in table.items() if key[0] == name}
        wanted |= {f"attacks, {key}": counts for key, counts in rows.items()}
        given = said | {f"attacks, {key}": counts for key, counts in said.get("attacks", {}).items()}
        for key in dict.fromkeys([*wanted, *given]):
            if key != "attacks" and given.get(key) != wanted.get(key):
                yield f"denominators of {name}: {key} {given.get(key)}, from the records {wanted.get(key)}"


def _benign(stated: Row, contents: Contents, manifest: Row, classes: int) -> Iterator[str]:
    statuses, whole = _all_statuses(contents, manifest), len(manifest.get("entries", []))
    for name in dict.fromkeys([*statuses, *stated]):
        known = not manifest or len(contents.statuses.get(name, {})) == whole
        wanted = contents.benign(name, statuses.get(name, {}) if known else None, classes)
        said = stated.get(name, {})
        for key in dict.fromkeys([*wanted, *said]):
            if _differing(said.get(key), wanted.get(key)):
                yield f"benign images under {name}: {key} is {said.get(key)}, from the records {wanted.get(key)}"


def _statuses(path: Path, statuses: dict[str, dict[str, Status]]) -> Iterator[str]:
    with open_table(path) as stream:
        lines = {(line["interpreter"], line["image_id"]): line for line in csv.DictReader(stream)}
    wanted = {(name, image_id): status for name, own in statuses.items() for image_id, status in own.items()}
    for key in dict.fromkeys([*wanted, *lines]):
        said = (lines[key]["status"], lines[key]["reason"]) if key in lines else None
        if said != wanted.get(key):
            yield f"image {key[1]!r} under {key[0]}: {said}, from the records {wanted.get(key)}"


def _same_table(path: Path, rows: Sequence[Row]) -> Iterator[str]:
    with open_table(path) as stream:
        lines = list(csv.DictReader(stream))
    if len(lines) != len(rows):
        yield f"it has {len(lines)} rows, results.json {len(rows)}"
    for line, row in zip(lines, rows, strict=False):
        for name, value in row.items():
            if not isinstance(value, dict) and line.get(name) != ("" if value is None else str(value)):
                yield f"{'/'.join(key_of(row))}: {name} is {line.get(name)}, in results.json {value}"


def _images(path: Path, rows: Sequence[Row]) -> Iterator[str]:
    with open_table(path) as stream:
        lines = {(*key_of(line), line["image_id"]): line for line in csv.DictReader(stream)}
    recounted = {(*key_of(row), row["image_id"]): row for row in rows}
    for key in dict.fromkeys([*recounted, *lines]):
        name = f"image {key[3]!r} under {'/'.join(key[:3])}"
        if key not in lines or key not in recounted:
            yield f"{name} is {'not in it' if key in recounted else 'in no record'}"
            continue
        for field_name, value in recounted[key].items():
            said = lines[key].get(field_name)
            if field_name != "plausible" and (
                _differing(float(said or "nan"), value) if isinstance(value, float) else said != str(value)
            ):
                yield f"{name}: {field_name} is {said}, from the records {value}"


def _differing(said: Any, recounted: Any) -> bool:
    """Whether a stated value is not the recounted one; numbers with a fraction may differ by rounding."""
    if isinstance(recounted, float) and isinstance(said, (int, float)):
        if math.isnan(recounted) or math.isnan(said):
            return math.isnan(recounted) != math.isnan(said)
        return not math.isclose(said, recounted, rel_tol=_TOLERANCE, abs_tol=_TOLERANCE)
    return bool(said != recounted)
