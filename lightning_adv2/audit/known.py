"""Contradictions between the files that describe a run: experiment, manifest, stamp, and the records' images."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from hashlib import sha256
from pathlib import Path
from typing import Any

from lightning_adv2.audit.reading import differing, guarded, in_range, is_count
from lightning_adv2.audit.recount import Contents, Row, digest
from lightning_adv2.files import read_json
from lightning_adv2.files.experiment import FILE, find_experiment
from lightning_adv2.files.run import AGAIN, FORMAT, record_key, record_path
from lightning_adv2.files.sealed import Array
from lightning_adv2.files.twice import copy_of, read_one, read_twice

_ENTRY = {"index": int, "image_id": str, "sha256": str, "label": int, "target_class": int}


def read_known(folder: Path, found: list[str]) -> tuple[Row | None, Row | None]:
    """Return the contents of ``manifest.json`` and ``experiment.json``; None for a file that is missing or damaged.

    Args:
        folder: the run's.
        found: the list to which the faults of the files and of their copies are added, a sentence each.
    """
    manifest = _read(lambda: read_twice(folder / "manifest.json", _manifest_of), found)
    known = _read(lambda: find_experiment(folder / "records"), found)
    for path, content in ((folder / "manifest.json", manifest), (folder / "records" / FILE, known)):
        if content is not None:
            found += _same_copy(path)
    return manifest, known


def _read(read: Callable[[], tuple[Row, list[str]]], found: list[str]) -> Row | None:
    try:
        content, wrong = read()
    except FileNotFoundError:
        return None
    except ValueError as error:
        found.append(f"{error}; {AGAIN}")
        return None
    found += [f"{line}; {AGAIN}" for line in wrong]
    return content


def _same_copy(path: Path) -> Iterator[str]:
    try:
        if read_one(path, dict) != read_one(copy_of(path), dict):
            yield f"{copy_of(path)}: it is another than {path.name}; {AGAIN}"
    except (OSError, ValueError):
        return  # said already


def _manifest_of(content: dict[str, Any]) -> dict[str, Any]:
    entries = content.get("entries")
    lists = [content.get(name) for name in ("wrong", "skipped", "invalid")]
    if not isinstance(entries, list) or not all(isinstance(one, list) for one in lists):
        raise ValueError("entries, wrong, skipped or invalid: no list")
    for one in entries:
        if not isinstance(one, dict) or one.keys() != _ENTRY.keys():
            raise ValueError("an entry is not of the form that it should be")
        if not all(isinstance(one[name], kind) and not isinstance(one[name], bool) for name, kind in _ENTRY.items()):
            raise ValueError(f"entry {one['image_id']!r}: a value of the wrong type")
    if not all(isinstance(one, str) for one in content["wrong"]):
        raise ValueError("wrong: no list of names")
    pairs = [pair for name in ("skipped", "invalid") for pair in content[name]]
    if not all(isinstance(pair, list) and [type(one) for one in pair] == [str, str] for pair in pairs):
        raise ValueError("skipped or invalid: no pairs of a name and a reason")
    return content


def inconsistent(folder: Path, manifest: Row | None, known: Row | None) -> Iterator[str]:
    """Yield a sentence for each contradiction within and between ``experiment.json`` and ``manifest.json``.

    Args:
        folder: the run's.
        manifest: the content of ``manifest.json``, or None.
        known: the content of ``experiment.json``, or None.
    """
    path = folder / "records" / FILE
    if known is not None:
        yield from guarded(path, lambda: _experiment(known["experiment"], known["about"], manifest))
    if manifest is not None:
        experiment = known["experiment"] if known else {}
        yield from guarded(folder / "manifest.json", lambda: _entries(manifest, experiment))


def _experiment(experiment: Row, about: Row, manifest: Row | None) -> Iterator[str]:
    if "format" in experiment and experiment["format"] != FORMAT:
        yield f"format is {experiment['format']!r}, not {FORMAT!r}"
    classes = about.get("classes", [])
    count = experiment.get("classifier", {}).get("num_classes", len(classes))
    if count != len(classes):
        yield f"it names {len(classes)} classes, the classifier has {count}"
    if "attacks" in experiment and experiment["attacks"].keys() != experiment["interpreters"].keys():
        yield "its attacks are of other interpreters than it has"
    if manifest is not None:
        passed = {name: ["already_wrong", ""] for name in manifest["wrong"]}
        for status in ("skipped", "invalid"):
            passed |= {name: [status, reason] for name, reason in manifest[status]}
        wanted = {"dataset": manifest.get("dataset"), "selected": len(manifest["entries"]), "passed_over": passed}
        for name, value in wanted.items():
            if name in about and about[name] != value:
                yield f"{name} is {about[name]!r}, in manifest.json {value!r}"


def _entries(manifest: Row, experiment: Row) -> Iterator[str]:
    text = json.dumps(manifest, indent=1) + "\n"
    if experiment.get("manifest") not in (None, sha256(text.encode()).hexdigest()):
        yield "it is not the manifest that the records were made with"
    entries, classes = manifest["entries"], manifest["num_classes"]
    lists = {"entries": [one["image_id"] for one in entries], "wrong": manifest["wrong"]}
    lists |= {name: [pair[0] for pair in manifest[name]] for name in ("skipped", "invalid")}
    total = sum(map(len, lists.values()))
    if manifest["considered"] != total:
        yield f"considered is {manifest['considered']}, entries, wrong, skipped and invalid are {total}"
    for name, count in Counter(one for own in lists.values() for one in own).items():
        if count > 1:
            yield f"image {name!r} is in it {count} times"
    for one in entries:
        if not (
            0 <= one["label"] < classes and 0 <= one["target_class"] < classes and one["label"] != one["target_class"]
        ):
            yield f"image {one['image_id']!r}: label {one['label']}, target class {one['target_class']} of {classes}"
    weights = experiment.get("classifier", {}).get("weights")
    if weights is not None and manifest.get("classifier_sha256") not in ("", weights):
        yield "its classifier_sha256 is not that of experiment.json"


def stamped(folder: Path, contents: Contents, known: Row | None) -> Iterator[str]:
    """Yield a sentence for each value in ``stamp.json`` that contradicts the experiment or the records.

    Args:
        folder: the run's.
        contents: of all its records.
        known: the content of ``experiment.json``, or None.
    """
    path = folder / "stamp.json"
    yield from guarded(path, lambda: _stamp(read_json(path), contents, known["experiment"] if known else {}))


def _stamp(stamp: Row, contents: Contents, experiment: Row) -> Iterator[str]:
    wanted: Row = {name: experiment[name] for name in ("seed", "precision") if name in experiment}
    if "manifest" in experiment:
        wanted["manifest_sha256"] = experiment["manifest"]
    classifier, interpreters = experiment.get("classifier"), experiment.get("interpreters", {})
    if isinstance(classifier, dict) and "weights" in classifier:
        wanted["classifier_sha256"] = classifier["weights"]
        wanted["interpreter_sha256"] = {name: one.get("weights") for name, one in interpreters.items()}
    if wanted:  # else nobody knows what was run
        if len(contents.targets) == 1:
            (wanted["target"],) = contents.targets
        wanted["halvings"] = {name: count for name, count in contents.halvings.items() if count}
        if "version" in experiment:
            wanted["versions, lightning-adv2"] = experiment["version"]
        if not (is_count(stamp.get("processes")) and stamp["processes"] >= 1):
            yield f"processes is {stamp.get('processes')!r}"
    seconds: dict[str, Row] = {name: {} for name in contents.statuses}
    for (name, *attack), value in contents.seconds.items():
        seconds[name][record_key(*attack)] = value
    said = dict(stamp)
    said["versions, lightning-adv2"] = stamp.get("versions", {}).get("lightning-adv2")
    for name, own in seconds.items():
        wanted |= {f"seconds, {name}, {key}": value for key, value in own.items()}
        given = stamp["seconds"].get(name, {})
        said |= {f"seconds, {name}, {key}": value for key, value in given.items()}
        if given.keys() != own.keys() or not all(map(in_range, given.values())):
            yield f"seconds of {name}: {given}"
    for name, value in wanted.items():
        if differing(said.get(name), value):
            yield f"{name} is {said.get(name)}, from experiment and records {value}"


def misplaced(folder: Path, manifest: Row, experiment: Row, contents: Contents) -> Iterator[str]:
    """Yield a sentence for each image that is missing, doubled, or in another record than the manifest says.

    Args:
        folder: the run's.
        manifest: the content of ``manifest.json``.
        experiment: of ``experiment.json``; empty where nobody knows it.
        contents: of all records.
    """
    names = [entry["image_id"] for entry in manifest["entries"]]
    size = experiment.get("batch_size")
    for interpreter in list(experiment.get("interpreters", contents.members)):
        files = contents.members.get(interpreter, {})
        folder_of = folder / "records" / interpreter
        wanted = {folder_of: names}
        held = {folder_of: [image_id for members in files.values() for image_id in members]}
        if size:
            starts = range(0, len(names), size)
            wanted = {record_path(folder_of.parent, interpreter, k // size): names[k : k + size] for k in starts}
            held = files
        for place in dict.fromkeys([*wanted, *held]):
            ids, counts = wanted.get(place, []), Counter(held.get(place, []))
            if place in wanted and place not in held:
                if not place.is_file():  # else it is damaged, and named already
                    yield f"{place}: it is missing, and with it {_listed(ids)}; {AGAIN}"
                continue
            absent, belonging = [image_id for image_id in ids if image_id not in counts], set(ids)
            if absent:
                yield f"{place}: {_listed(absent)} of manifest.json not in it"
            for image_id, count in counts.items():
                if image_id not in belonging:
                    yield f"{place}: image {image_id!r} does not belong in it, says manifest.json"
                elif count > 1:
                    yield f"{place}: image {image_id!r} is in it {count} times"


def other_images(header: Row, arrays: dict[str, Array], entries: dict[str, Row]) -> Iterator[str]:
    """Yield a sentence for each image of a record whose pixels, label or target class differ from the manifest.

    Args:
        header: of the record.
        arrays: its tensors.
        entries: the manifest's entries by image id.
    """
    for i, image_id in enumerate(header["image_id"]):
        entry = entries.get(image_id, {})
        if entry.get("sha256", "") != digest(arrays["benign/images"][i]):
            yield f"image {image_id!r}: its benign pixels are not those of manifest.json"
        for name in ("label", "target_class"):
            value = int(arrays[f"benign/{name}"][i])
            if entry.get(name) != value:
                yield f"image {image_id!r}: {name} is {value}, in manifest.json {entry.get(name)}"


def _listed(ids: Sequence[str]) -> str:
    shown = ", ".join(map(repr, ids[:5])) + (", ..." if len(ids) > 5 else "")
    return f"{len(ids)} image{'s' * (len(ids) > 1)} ({shown})"
