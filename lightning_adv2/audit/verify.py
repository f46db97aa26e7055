"""``lightning-adv2 verify RUN``: whether a run's files are whole and agree with each other. Needs no torch."""

from __future__ import annotations

import argparse
import json
import math
from collections import Counter
from collections.abc import Iterator, Sequence
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np

from lightning_adv2.audit.pictures import Layout
from lightning_adv2.audit.recount import LEVELS, Contents, Row, digest
from lightning_adv2.audit.stated import misstated
from lightning_adv2.files.run import AGAIN, read_arrays, record_key, record_path
from lightning_adv2.files.sealed import Array
from lightning_adv2.files.text import visible

_SHOWN = 50


def verify(folder: Path, images: Path | None = None) -> tuple[list[str], list[str]]:
    """Check a run's folder against itself.

    Args:
        folder: with ``records``, ``manifest.json`` and the files of the report.
        images: exported pictures; None takes ``images`` in ``folder``, where there is one.

    Returns:
        What is wrong, one sentence each that names file and image, and what was checked.
    """
    found: list[str] = []
    contents = Contents()
    manifest = _json(folder / "manifest.json", ("entries",), found)
    known = _json(folder / "records" / "experiment.json", ("experiment",), found)
    experiment = known["experiment"] if known else {}
    entries = {entry["image_id"]: entry for entry in manifest["entries"]} if manifest else {}
    if images is not None and not images.is_dir():
        found.append(f"{images}: there is no such folder; give that of 'lightning-adv2 export', or leave --images out")
    images = images or folder / "images"
    shown: set[Path] = set()
    paths = sorted((folder / "records").glob("*/batch_*.safetensors"))
    layout = Layout(folder, paths) if images.is_dir() else None
    for path in paths:
        try:
            header, arrays = read_arrays(path)
        except ValueError as error:
            found.append(str(error))
            continue
        try:
            wrong = [*_benign(header, arrays, entries)] if manifest else []
            wrong += _illegal(header, arrays, experiment)
            contents.add(path, header, arrays)
            if layout is not None:
                wrong += _pictures(images, layout, header, arrays, shown)
            found += [f"{path}: {one}" for one in wrong]
        except (KeyError, TypeError, IndexError, AttributeError, ValueError) as error:
            found.append(f"{path}: its content does not fit together ({error!r}); {AGAIN}")
    checked = [f"{len(paths)} records of {len(contents.members)} interpreters"]
    if not paths:
        found.append(f"{folder / 'records'}: there are no records; give the folder of an evaluation")
    if manifest:
        found += _manifest(folder, manifest, experiment, contents)
        checked.append(f"manifest.json: {len(entries)} images")
    elif experiment.get("manifest") and not (folder / "manifest.json").exists():
        found.append(f"{folder / 'manifest.json'}: it is missing")
    else:
        checked.append("no manifest.json: the benign images are compared with nothing")
    found += misstated(folder, contents, manifest or {}, _classes(known or {}))
    checked.append(
        f"results.json, results.csv, images.csv, status.csv: {len(contents.rows)} rows of an image under an attack"
    )
    if images.is_dir():
        if sum(map(len, contents.members.values())) == len(paths):  # else they may be a damaged record's
            found += [f"{path}: it belongs to no record" for path in sorted({*images.rglob("*.png")} - shown)]
        checked.append(f"{images}: {len(shown)} pictures")
    return found, checked


def _classes(known: Row) -> int:
    """How many classes there are, 0 where ``experiment.json`` does not say."""
    about = known.get("about")
    return len(about.get("classes", ())) if isinstance(about, dict) else 0


def _json(path: Path, keys: Sequence[str], found: list[str]) -> Any:
    """Its content, or None where there is no such file or it is damaged."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        missing = [key for key in keys if key not in content]
        if missing:
            raise ValueError(f"{', '.join(missing)} not in it")
    except FileNotFoundError:
        return None
    except (OSError, ValueError, TypeError) as error:
        found.append(f"{path}: it is damaged ({error}); {AGAIN}")
        return None
    return content


def _benign(header: Row, arrays: dict[str, Array], entries: dict[str, Row]) -> Iterator[str]:
    for i, image_id in enumerate(header["image_id"]):
        entry = entries.get(image_id, {})
        if entry.get("sha256", "") != digest(arrays["benign/images"][i]):
            yield f"image {image_id!r}: its benign pixels are not those of manifest.json"
        for name in ("label", "target_class"):
            value = int(arrays[f"benign/{name}"][i])
            if entry.get(name) != value:
                yield f"image {image_id!r}: {name} is {value}, in manifest.json {entry.get(name)}"


def _manifest(folder: Path, manifest: Row, experiment: Row, contents: Contents) -> Iterator[str]:
    """Every image of the manifest is in one record per interpreter, and no other image is."""
    path = folder / "manifest.json"
    if experiment.get("manifest") not in (None, sha256(path.read_bytes()).hexdigest()):
        yield f"{path}: it is not the manifest that the records were made with"
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
            absent = [image_id for image_id in ids if image_id not in counts]
            if absent:
                yield f"{place}: {_listed(absent)} of manifest.json not in it"
            for image_id, count in counts.items():
                if image_id not in ids:
                    yield f"{place}: image {image_id!r} does not belong in it, says manifest.json"
                elif count > 1:
                    yield f"{place}: image {image_id!r} is in it {count} times"


def _listed(ids: Sequence[str]) -> str:
    shown = ", ".join(map(repr, ids[:5])) + (", ..." if len(ids) > 5 else "")
    return f"{len(ids)} image{'s' * (len(ids) > 1)} ({shown})"


def _illegal(header: Row, arrays: dict[str, Array], experiment: Row) -> Iterator[str]:
    """Which adversarial images no attacker may show: farther from the benign one than epsilon."""
    images = arrays["benign/images"]
    asked = {
        record_key(one["name"], one["schedule"]): one.get("perturbation", {}).get("epsilon")
        for one in experiment.get("attacks", {}).get(header["interpreter"], [])
    }
    for attack in header["attacks"] if len(images) else ():
        key = record_key(attack["attack"], attack["schedule"])
        adv = arrays[f"{key}/adv_images"]
        if adv.dtype != np.uint8 or adv.shape != images.shape:
            yield f"{key}: the images are {adv.dtype} {adv.shape}, the benign ones uint8 {images.shape}"
        elif attack["epsilon"] != asked.get(key, attack["epsilon"]):
            yield f"{key}: epsilon is {attack['epsilon']}, in experiment.json {asked[key]}"
        elif attack["epsilon"] is not None:
            allowed = math.floor(attack["epsilon"] * LEVELS + 1e-3)
            moved = np.abs(adv.astype(np.int16) - images)
            for i in np.flatnonzero(moved.reshape(len(moved), -1).max(1) > allowed):
                c, y, x = np.unravel_index(moved[i].argmax(), moved[i].shape)
                yield (
                    f"{key}, image {header['image_id'][i]!r}: row {y}, column {x}, channel {c} is {moved[i][c, y, x]} "
                    f"levels of 255 away from the benign image; epsilon {attack['epsilon']} allows {allowed}"
                )


def _pictures(folder: Path, layout: Layout, header: Row, arrays: dict[str, Array], shown: set[Path]) -> Iterator[str]:
    from PIL import Image  # only where there are pictures

    for expected in layout.pictures(header, arrays):
        path, pixels = folder / expected.path, expected.pixels
        shown.add(path)
        try:
            with Image.open(path) as picture:
                array = np.asarray(picture)
        except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
            yield f"{path} cannot be read ({error}); export again"
            continue
        array = array[:, :, None] if array.ndim == 2 else array
        if array.dtype != np.uint8 or array.shape != pixels.shape:
            yield f"{path} is {array.dtype} {array.shape}, in the record uint8 {pixels.shape}"
        elif len(changed := np.argwhere(array != pixels)):
            y, x, c = changed[0]
            yield (
                f"{path}: row {y}, column {x}, channel {c} is {array[y, x, c]}, in the record {pixels[y, x, c]}"
                + (f", and {len(changed) - 1} more values differ" if len(changed) > 1 else "")
            )


def main(words: Sequence[str]) -> int:
    """The command; returns the exit code: 0 where all holds, 1 where not."""
    parser = argparse.ArgumentParser(
        allow_abbrev=False,
        prog="lightning-adv2 verify",
        description="Check a run's records, manifest, tables and exported images against each other; changes nothing.",
    )
    parser.add_argument("run", type=Path, help="the run's folder")
    parser.add_argument("--images", type=Path, help="exported images; by default 'images' in the run's folder, if any")
    options = parser.parse_args(words)
    found, checked = verify(options.run, options.images)
    for line in found[:_SHOWN]:
        print(f"WRONG  {visible(line)}")  # it may name what a stranger made
    if len(found) > _SHOWN:
        print(f"WRONG  and {len(found) - _SHOWN} more")
    for line in checked:
        print(f"checked  {visible(line)}")
    print(f"{options.run}: {'all holds' if not found else f'{len(found)} things are wrong'}")
    return 1 if found else 0
