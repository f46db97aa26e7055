"""Differences between the tables of a report and the records. Needs no torch."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path

from lightning_adv2.audit.reading import differing, differing_cell, guarded, read_table, same_rows
from lightning_adv2.audit.recount import Contents, Key, Row, Status, key_of
from lightning_adv2.files import read_json
from lightning_adv2.files.run import record_key

_KEY = ("interpreter", "attack", "schedule")


def misstated(
    folder: Path, contents: Contents, table: dict[Key, Row], manifest: Row, about: Row | None
) -> Iterator[str]:
    """Yield a sentence for each fault in ``results.json``, ``results.csv``, ``images.csv`` and ``status.csv``.

    Args:
        folder: the run's.
        contents: of all its records.
        table: of :meth:`~lightning_adv2.audit.recount.Contents.table`.
        manifest: the content of ``manifest.json``, or empty: it names the images that never reached a record.
        about: of ``experiment.json``; None where nobody knows it.
    """
    statuses = _all_statuses(contents, manifest)
    names: Row = {name: about[name] for name in ("dataset", "classifier") if name in about} if about else {}
    path = folder / "results.json"
    wanted = {key: {**names, **row} for key, row in table.items()}
    yield from guarded(path, lambda: _results(read_json(path), contents, wanted, statuses, manifest, about))
    images: dict[tuple[str, ...], Row] = {
        (*key, row["image_id"]): {**names, **row} for key, rows in contents.rows.items() for row in rows
    }
    checks: dict[str, Callable[[list[Row]], Iterator[str]]] = {
        "results.csv": lambda own: _same_table(own, read_json(path)["rows"]),
        "images.csv": lambda own: same_rows(
            own,
            (*_KEY, "image_id"),
            {key: _without("plausible", images[key]) for key in contents.order},
            differing_cell,
        ),
        "status.csv": lambda own: same_rows(
            own,
            ("interpreter", "image_id"),
            {(name, i): {"status": s, "reason": why} for name, all in statuses.items() for i, (s, why) in all.items()},
        ),
    }
    for name, check in checks.items():
        yield from guarded(folder / name, partial(_table, folder / name, check))


def _table(path: Path, check: Callable[[list[Row]], Iterator[str]]) -> Iterator[str]:
    return check(read_table(path))


def _results(
    results: Row,
    contents: Contents,
    wanted: dict[Key, Row],
    statuses: dict[str, dict[str, Status]],
    manifest: Row,
    about: Row | None,
) -> Iterator[str]:
    yield from same_rows(results["rows"], _KEY, {key: _without("counts", row) for key, row in wanted.items()})
    for row in results["rows"]:  # a share of two counts, which nothing rounds
        key, said = key_of(row), row["asr"]
        if key in wanted and said != wanted[key]["asr"] and not differing(said, wanted[key]["asr"]):
            yield f"{'/'.join(key)}: asr is {said}, counted again {wanted[key]['asr']}"
    yield from _denominators(results["denominators"], wanted, statuses)
    yield from _benign(results["benign"], contents, statuses, manifest, about)


def _without(name: str, row: Row) -> Row:
    return {key: value for key, value in row.items() if key != name}


def _all_statuses(contents: Contents, manifest: Row) -> dict[str, dict[str, Status]]:
    """The statuses of all images, also of those that never reached a record if all others did."""
    before: dict[str, Status] = dict.fromkeys(manifest.get("wrong", []), ("already_wrong", ""))
    for status in ("skipped", "invalid"):
        before |= {image_id: (status, reason) for image_id, reason in manifest.get(status, [])}
    whole = len(manifest.get("entries", []))
    return {name: {**(before if len(own) == whole else {}), **own} for name, own in contents.statuses.items()}


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
            if key != "attacks" and differing(given.get(key), wanted.get(key)):
                yield f"denominators of {name}: {key} {given.get(key)}, from the records {wanted.get(key)}"


def _benign(
    stated: Row, contents: Contents, statuses: dict[str, dict[str, Status]], manifest: Row, about: Row | None
) -> Iterator[str]:
    whole = len(manifest.get("entries", []))
    for name in dict.fromkeys([*statuses, *stated]):
        known = not manifest or len(contents.statuses.get(name, {})) == whole
        classes = len(about.get("classes", ())) if about else 0
        wanted = contents.benign(name, statuses.get(name, {}) if known else None, classes)
        said = stated.get(name, {})
        for key in dict.fromkeys([*wanted, *said]):
            if about is None and key in ("chance", "flags"):
                continue  # nobody knows how many classes there are
            if differing(said.get(key), wanted.get(key)):
                yield f"benign images under {name}: {key} is {said.get(key)}, from the records {wanted.get(key)}"


def _same_table(lines: Sequence[Row], rows: Sequence[Row]) -> Iterator[str]:
    if len(lines) != len(rows):
        yield f"it has {len(lines)} rows, results.json {len(rows)}"
    for line, row in zip(lines, rows, strict=False):
        yield from same_cells("/".join(key_of(row)), line, row)


def same_cells(name: str, line: Mapping[str, str], row: Row) -> Iterator[str]:
    """Yield a sentence for each cell of a CSV row that differs from the JSON row; flags are joined by ``; ``."""
    if list(line) != list(row):
        yield f"{name}: its columns are not the keys of the same row"
    for key, value in row.items():
        wanted = "; ".join(value) if isinstance(value, (dict, list)) else value
        text = "" if wanted is None else str(wanted).encode(errors="backslashreplace").decode()  # as it is written
        if line.get(key) != text:
            yield f"{name}: {key} is {line.get(key)}, in the JSON {wanted}"
