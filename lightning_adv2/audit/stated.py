"""What the tables of a report state, against what the records hold. Needs no torch."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from lightning_adv2.audit.reading import differing, differing_cell, guarded, read_table
from lightning_adv2.audit.recount import Contents, Key, Row, Status, key_of
from lightning_adv2.files import read_json
from lightning_adv2.files.run import record_key


def misstated(
    folder: Path, contents: Contents, table: dict[Key, Row], manifest: Row, about: Row | None
) -> Iterator[str]:
    """What is wrong in ``results.json``, ``results.csv``, ``images.csv`` and ``status.csv``, one sentence each.

    Args:
        folder: the run's.
        contents: of all its records.
        table: of the same.
        manifest: the content of ``manifest.json``, or nothing: it names the images that never reached a record.
        about: of ``experiment.json``; None where nobody knows.
    """
    statuses = _all_statuses(contents, manifest)
    names: Row = {name: about[name] for name in ("dataset", "classifier") if name in about} if about else {}
    path = folder / "results.json"
    yield from guarded(path, lambda: _results(read_json(path), contents, table, statuses, names, manifest, about))
    others = {
        "results.csv": lambda own: _same_table(own, read_json(path)["rows"]),
        "images.csv": lambda own: _images(own, contents, names),
        "status.csv": lambda own: _statuses(own, statuses),
    }
    for name, check in others.items():
        yield from guarded(folder / name, lambda name=name, check=check: check(read_table(folder / name)))  # type: ignore[misc]


def _results(
    results: Row,
    contents: Contents,
    table: dict[Key, Row],
    statuses: dict[str, dict[str, Status]],
    names: Row,
    manifest: Row,
    about: Row | None,
) -> Iterator[str]:
    yield from _rows(results["rows"], table, names)
    yield from _denominators(results["denominators"], table, statuses)
    yield from _benign(results["benign"], contents, statuses, manifest, about)


def _rows(stated: Sequence[Row], table: dict[Key, Row], names: Row) -> Iterator[str]:
    yield from _out_of_order([key_of(row) for row in stated], list(table))
    rows = {key_of(row): row for row in stated}
    for key in dict.fromkeys([*table, *rows]):
        name = "/".join(map(str, key))
        if key not in rows or key not in table:
            yield f"{name} is {'not in it' if key in table else 'in no record'}"
            continue
        for field_name, value in {**names, **table[key]}.items():
            said = rows[key].get(field_name)
            exact = field_name == "asr" and said != value
            if field_name != "counts" and (exact or differing(said, value)):
                yield f"{name}: {field_name} is {said}, from the records {value}"


def _out_of_order(stated: Sequence[object], wanted: Sequence[object]) -> Iterator[str]:
    """Rows that are there twice; and one line where the same rows come in another order."""
    twice = [one for one, count in Counter(stated).items() if count > 1]
    for one in twice:
        yield f"{one} is in it twice"
    if not twice and stated != wanted and sorted(map(str, stated)) == sorted(map(str, wanted)):
        place = next(i for i, pair in enumerate(zip(stated, wanted, strict=True)) if pair[0] != pair[1])
        yield f"its rows are in another order than the records: row {place + 1} is {stated[place]}, not {wanted[place]}"


def _all_statuses(contents: Contents, manifest: Row) -> dict[str, dict[str, Status]]:
    """Of each interpreter, also the images that never reached a record; not where only a part of the rest did."""
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


def _statuses(stated: Sequence[Row], statuses: dict[str, dict[str, Status]]) -> Iterator[str]:
    wanted = {(name, image_id): status for name, own in statuses.items() for image_id, status in own.items()}
    yield from _out_of_order([(line["interpreter"], line["image_id"]) for line in stated], list(wanted))
    lines = {(line["interpreter"], line["image_id"]): line for line in stated}
    for key in dict.fromkeys([*wanted, *lines]):
        said = (lines[key]["status"], lines[key]["reason"]) if key in lines else None
        if said != wanted.get(key):
            yield f"image {key[1]!r} under {key[0]}: {said}, from the records {wanted.get(key)}"


def _same_table(lines: Sequence[Row], rows: Sequence[Row]) -> Iterator[str]:
    if len(lines) != len(rows):
        yield f"it has {len(lines)} rows, results.json {len(rows)}"
    for line, row in zip(lines, rows, strict=False):
        yield from same_cells("/".join(key_of(row)), line, row)


def same_cells(name: str, line: Mapping[str, str], row: Row) -> Iterator[str]:
    """In what a row of a CSV file is not the same row of a JSON file; names of flags are joined there."""
    if list(line) != list(row):
        yield f"{name}: its columns are not the keys of the same row"
    for key, value in row.items():
        wanted = "; ".join(value) if isinstance(value, (dict, list)) else value
        text = "" if wanted is None else str(wanted).encode(errors="backslashreplace").decode()  # as it is written
        if line.get(key) != text:
            yield f"{name}: {key} is {line.get(key)}, in the JSON {wanted}"


def _images(stated: Sequence[Row], contents: Contents, names: Row) -> Iterator[str]:
    recounted = {(*key, row["image_id"]): row for key, rows in contents.rows.items() for row in rows}
    yield from _out_of_order([(*key_of(line), line["image_id"]) for line in stated], contents.order)
    lines = {(*key_of(line), line["image_id"]): line for line in stated}
    for key in dict.fromkeys([*recounted, *lines]):
        name = f"image {key[3]!r} under {'/'.join(key[:3])}"
        if key not in lines or key not in recounted:
            yield f"{name} is {'not in it' if key in recounted else 'in no record'}"
            continue
        line = lines[key]
        for field_name, value in {**names, **recounted[key]}.items():
            if field_name != "plausible" and differing_cell(line.get(field_name), value):
                yield f"{name}: {field_name} is {line.get(field_name)}, from the records {value}"
