"""``lightning-adv2 verify RUN``: checks that a run's files are whole and agree with each other. Needs no torch."""

from __future__ import annotations

from argparse import Namespace
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import numpy as np

from lightning_adv2.audit.known import inconsistent, misplaced, other_images, read_known, stamped
from lightning_adv2.audit.pictures import Layout
from lightning_adv2.audit.reading import guarded
from lightning_adv2.audit.record import check_form, illegal, implausible
from lightning_adv2.audit.recount import Contents, Row
from lightning_adv2.audit.stated import misstated
from lightning_adv2.audit.studies import STUDIES, study_findings
from lightning_adv2.files.experiment import FILE, experiment_hash
from lightning_adv2.files.run import AGAIN, find_records, read_arrays
from lightning_adv2.files.sealed import Array
from lightning_adv2.files.sums import FILE as SUMS
from lightning_adv2.files.sums import wrong_sums
from lightning_adv2.files.text import visible

_SHOWN = 50


def verify(folder: Path, images: Path | None = None, sums: bool = True) -> tuple[list[str], list[str]]:
    """Check a run's files against each other, and return the faults and what was checked.

    Args:
        folder: with ``records``, ``manifest.json`` and the files of the report.
        images: exported pictures; None takes ``images`` in ``folder``, where it exists.
        sums: whether to compare all files with ``SHA256SUMS`` as well.

    Returns:
        A sentence for each fault, which names file and image; and a line for each thing that was checked.
    """
    found: list[str] = []
    contents = Contents()
    manifest, known = read_known(folder, found)
    if images is not None and not images.is_dir():
        found.append(f"{images}: there is no such folder; give that of 'lightning-adv2 export', or leave --images out")
    images = images or folder / "images"
    paths, stray = find_records(folder / "records")
    run = _Run(folder, manifest, known, images, paths)
    for path in paths:
        found += guarded(path, partial(run.record, path, contents), named=True)
    checked = [f"{len(paths)} records of {len(contents.members)} interpreters"]
    checked += [f"none of this run's, and left out: {path}" for path in stray]
    if not paths:
        found.append(f"{folder / 'records'}: there are no records; give the folder of an evaluation")
    elif known is None and not (folder / "records" / FILE).exists():
        found.append(f"{folder / 'records' / FILE}: it is missing, and so is its copy; {AGAIN}")
    found += inconsistent(folder, manifest, known)
    path = folder / "manifest.json"
    if manifest:
        found += guarded(path, lambda: misplaced(folder, manifest, run.experiment, contents), named=True)
        checked.append(f"manifest.json: {len(manifest['entries'])} images")
    elif run.experiment.get("manifest") and not path.exists():
        found.append(f"{path}: it is missing, and so is its copy; {AGAIN}")
    else:
        checked.append("no manifest.json: the benign images are compared with nothing")
    table = contents.table()
    found += misstated(folder, contents, table, manifest or {}, known["about"] if known else None)
    found += stamped(folder, contents, known)
    count = sum(map(len, contents.rows.values()))
    checked.append(f"results.json, results.csv, images.csv, status.csv: {count} rows of an image under an attack")
    found += study_findings(folder, contents, table)
    studies = [f"{name}.json" for name in STUDIES if (folder / f"{name}.json").exists()]
    checked += [f"{', '.join(studies)}: as far as it follows from the records"] if studies else []
    if images.is_dir():
        if sum(map(len, contents.members.values())) == len(paths):  # else they may be a damaged record's
            found += [f"{one}: it belongs to no record" for one in sorted({*images.rglob("*.png")} - run.shown)]
        checked.append(f"{images}: {len(run.shown)} pictures")
    if sums:
        found += _sums(folder, checked)
    return found, checked


class _Run:
    """The parts of a run with which each record is compared.

    Attributes:
        experiment: from ``experiment.json``; empty where it is not known.
        shown: the pictures that belong to a record.
    """

    def __init__(self, folder: Path, manifest: Row | None, known: Row | None, images: Path, paths: list[Path]) -> None:
        self.experiment: Row = known["experiment"] if known else {}
        self._made_in = experiment_hash(self.experiment) if known else None
        classes = known["about"].get("classes") if known else None
        self._classes = len(classes) if isinstance(classes, list) else 0
        self._entries = {one["image_id"]: one for one in manifest["entries"]} if manifest else None
        self._images, self.shown = images, set[Path]()
        self._layout = Layout(folder, paths) if images.is_dir() else None

    def record(self, path: Path, contents: Contents) -> Iterator[str]:
        """Yield the faults of one record, and add it to the contents where it is complete."""
        try:
            header, arrays = read_arrays(path)
        except ValueError as error:
            yield str(error)
            return
        check_form(header, arrays)
        for one in self._wrong(path, header, arrays, contents):
            yield f"{path}: {one}"

    def _wrong(self, path: Path, header: Row, arrays: dict[str, Array], contents: Contents) -> Iterator[str]:
        if self._made_in not in (None, header["experiment"]):
            yield "it is of another experiment than experiment.json says"
        if self._entries is not None:
            yield from other_images(header, arrays, self._entries)
        yield from illegal(header, arrays, self.experiment)
        yield from implausible(header, arrays, self._classes)
        yield from contents.add(path, header, arrays)
        if self._layout is not None:
            yield from _pictures(self._images, self._layout, header, arrays, self.shown)


def _sums(folder: Path, checked: list[str]) -> list[str]:
    try:
        found, count = wrong_sums(folder)
    except FileNotFoundError:
        return [f"{folder / SUMS}: it is missing: the run has not come to its end; {AGAIN}"]
    except (OSError, ValueError) as error:
        return [f"{error}; {AGAIN}"]
    checked.append(f"{SUMS}: {count} files")
    return found


def _pictures(folder: Path, layout: Layout, header: Row, arrays: dict[str, Array], shown: set[Path]) -> Iterator[str]:
    # Only where there are pictures.
    from PIL import Image

    from lightning_adv2.files.images import opened_png

    for expected in layout.pictures(header, arrays):
        path, pixels = folder / expected.path, expected.pixels
        shown.add(path)
        try:
            with opened_png(path) as picture:
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


def main(options: Namespace) -> int:
    """Run ``verify`` and return its exit code: 0 where all holds, 1 where not.

    Args:
        options: of :func:`lightning_adv2.cli.options.verify`.
    """
    found, checked = verify(options.run, options.images)
    for line in found[:_SHOWN]:
        print(f"WRONG  {visible(line)}")  # it may name what a stranger made
    if len(found) > _SHOWN:
        print(f"WRONG  and {len(found) - _SHOWN} more")
    for line in checked:
        print(f"checked  {visible(line)}")
    print(f"{options.run}: {'all holds' if not found else f'{len(found)} things are wrong'}")
    return 1 if found else 0
