"""The page of one evaluation: all that lies in its folder, in the order in which one asks for it."""

from __future__ import annotations

import json
import shlex
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from rich.console import Console

from lightning_adv2.files import read_json, read_text
from lightning_adv2.report.benign import accuracy_lines, benign_flags, resolution
from lightning_adv2.report.classifier_transfer_files import print_classifier_transfer
from lightning_adv2.report.confusion import print_confusion
from lightning_adv2.report.curves import print_curves
from lightning_adv2.report.detection import print_detection
from lightning_adv2.report.from_terminal import tables_of
from lightning_adv2.report.gap import print_gap
from lightning_adv2.report.html import write_page
from lightning_adv2.report.localization import print_localization
from lightning_adv2.report.noise import print_noise
from lightning_adv2.report.page import Block, Gallery, Listing, Picture, Section, Table
from lightning_adv2.report.proposition import print_proposition
from lightning_adv2.report.records import record_key
from lightning_adv2.report.resilience_files import print_resilience
from lightning_adv2.report.run import Run
from lightning_adv2.report.sentences import attacks_of, sentences
from lightning_adv2.report.summary import Row, Summary, denominator_lines
from lightning_adv2.report.terminal import ONE_CLASS, blind_notes, empty_notes, print_table
from lightning_adv2.report.transfer import print_transfer

FILE = "report.html"
_KNOWN = ("agreement", "overview", "gallery", "convergence")
_QUALITY = (
    "Confidence in the true class where the map keeps the image (preserved), removes it (destroyed), or where another "
    "image's map keeps it (shuffled); gap = preserved - shuffled, how specific the maps are. Deletion (lower is "
    "better) and insertion (higher is better) follow the map's order; a random order's stand beside them."
)


def write_run_page(run: Run, path: Path | None = None) -> Path:
    """Write ``report.html`` into the run's folder, or a page elsewhere; returns its path."""
    return write_page(path or run.folder / FILE, f"ADV2 evaluation: {run.folder.resolve().name}", run_sections(run))


def run_sections(run: Run, limit: int = 24) -> list[Section]:
    """All that a page says of one evaluation; what its folder lacks is left out.

    Args:
        run: also one that was interrupted, as far as it got.
        limit: at most so many images in the gallery.
    """
    sections = [Section("Summary", "\n\n".join(sentences(run)), _pictures(run, "agreement", "overview"))]
    if run.summary.rows:
        (table,) = tables_of(partial(print_table, run.summary, "Means over all attacked images"))
        notes = "\n\n".join(blind_notes(run.summary))
        sections.append(Section("Results", notes, [replace(table, note=_legend(run.summary))]))
    told = denominator_lines(run.summary) + accuracy_lines(run.summary.benign)
    sections.append(Section("Where every image went", "\n\n".join(told), _counts(run)))
    if run.summary.images:
        gallery = Gallery("Benign and attacked", run, limit)
        sections.append(Section("Gallery", _about_gallery(run.summary.rows), [gallery]))
    return [*sections, *_studies(run), *_curves(run), _again(run)]


_LEGEND = (
    "ASR: share of the images classified as the target class. Map L1, IoU: attacked against target map, L1 per pixel, "
    "IoU of the maps cut at 0.5; plausible: share of the images with an IoU above 0.5, the dotted line of the figures"
)
_SIZES = "Linf x255: largest change of a pixel, in 8-bit levels; size: in the attack's own unit."


def _legend(summary: Summary) -> str:
    """What the columns of the results mean, as far as there is anything to see of it."""
    rows = summary.rows
    pixels = [f"{line}."] if (line := resolution(summary.benign)) else []
    green = ", green in gallery.png" if any(row["plausible"] for row in attacks_of(rows)) else ""
    empty = [f"{note}." for note in empty_notes(summary)]
    return " ".join([f"{_LEGEND}{green}.", _SIZES, f"{ONE_CLASS}.", *empty, *pixels])


def _about_gallery(rows: Sequence[Row]) -> str:
    names = {row["attack"] for row in rows}
    said = [
        "Each row is one interpreter: the benign image and its map, then for each attack shown the attacked image, the "
        "perturbation and the map that the interpreter now shows."
    ]
    said += ["PGD aims at the class alone, ADV2 at class and map."] if {"pgd", "adv2"} <= names else []
    said += ["Red is an image that reached the target class."] if any(row["asr"] for row in attacks_of(rows)) else []
    return " ".join([*said, "'All attacks and numbers' opens an image's sheet."])


def _counts(run: Run) -> list[Block]:
    before = ("considered", "already_wrong", "skipped", "invalid", "selected")
    rows: list[tuple[str, ...]] = []
    flags: list[tuple[str, ...]] = []
    for name, part in run.summary.by_interpreter.items():
        for key, count in part["attacks"].items():
            under = tuple(f"{count[one]:,}" for one in ("invalid", "n", "successful"))
            rows.append((name, key, *(f"{part[one]:,}" for one in before), *under))
    flags += [(name, "benign images", text, "") for name, text in benign_flags(run.summary.benign)]
    for row in run.summary.rows:
        key = record_key(row["attack"], row["schedule"])
        flags += [(row["interpreter"], key, flag, f"{count:,}") for flag, count in row["flags"].items()]
    headings = ("interpreter", "attack", "considered", "already wrong", "skipped", "invalid", "attacked")
    under_attack = ("not finite under attack", "in the means", "reached c_t")
    note = (
        "considered = already wrong + skipped + invalid + attacked; attacked = not finite under attack + in the means."
    )
    blocks: list[Block] = [Table("Denominators", (*headings, *under_attack), rows, note)]
    if flags:
        blocks.append(Table("Flags: what makes figures doubtful", ("interpreter", "attack", "flag", "batches"), flags))
    return blocks


def _studies(run: Run) -> list[Section]:
    """A section for each study whose file lies in the folder, and one with the figures that nobody asked for here."""
    made, claimed = [], {*_KNOWN}
    for name, (title, _) in STUDIES.items():
        claimed.add(name)
        blocks: list[Block] = [*study_tables(run.folder, name), *_pictures(run, name)]
        if blocks:
            made.append(Section(title, blocks=blocks))
    others = [path for path in sorted((run.folder / "figures").glob("*.png")) if path.stem not in claimed]
    if others:
        pictures = [Picture(_heading(path.stem), path) for path in others]
        made.append(Section("Further figures", blocks=[*pictures]))
    return made


def _quality(content: Any) -> list[Table]:
    keys = list(dict.fromkeys(key for means in content.values() for key in means))
    rows = [(name, *(f"{m[key]:.3f}" if key in m else "-" for key in keys)) for name, m in content.items()]
    return [Table("Means over all images", ("interpreter", *(key.replace("_", " ") for key in keys)), rows, _QUALITY)]


def _printed(show: Callable[[Any, Console], None]) -> Callable[[Any], list[Table]]:
    return lambda content: tables_of(lambda console: show(content, console))


STUDIES: dict[str, tuple[str, Callable[[Any], list[Table]]]] = {
    "map_quality": ("What the benign maps are worth", _quality),
    "resilience": (
        "Who resists",
        _printed(lambda read, console: print_resilience(read["rows"], read["reference"], console)),
    ),
    "transfer": ("Transfer between interpreters", _printed(lambda read, to: print_transfer(read["rows"], to))),
    "detection": (
        "Detection",
        _printed(lambda read, console: print_detection(read["rows"], "Share of images detected", console)),
    ),
    "noise": (
        "Plain noise",
        _printed(lambda read, console: print_noise(read["levels"], read["rows"], "Maps under plain noise", console)),
    ),
    "localization": ("Do the maps find the object?", _printed(print_localization)),
    "gap": ("A map of the attacker's choice", _printed(lambda read, to: print_gap(read["rows"], to))),
    "proposition": (
        "Proposition 1",
        _printed(lambda read, to: print_proposition(read["rows"], read["steps"], read["tolerance"], to)),
    ),
    "curves": (
        "How strong must the attack be?",
        _printed(lambda read, console: print_curves(read["curves"], read["controls"], console)),
    ),
    "classifier_transfer": (
        "Transfer between classifiers",
        _printed(lambda read, to: print_classifier_transfer(read["classifiers"], read["rows"], read["skipped"], to)),
    ),
    "confusion": ("What the classifier takes for what", _printed(print_confusion)),
}
"""A study's file and figure, ``<name>.json`` and ``figures/<name>.png`` -> heading, and the tables of its content."""


def study_tables(folder: Path, name: str) -> list[Table]:
    """The tables of one study in a run's folder, as ``STUDIES`` has them; none where it was not run."""
    content = _read(folder / f"{name}.json")
    return [] if content is None else STUDIES[name][1](content)


def _curves(run: Run) -> list[Section]:
    shown = [
        Picture(f"{name}: the joint attack, step by step" if name else "The joint attack, step by step", path)
        for name in ("", *run.interpreters)
        if (path := run.folder / "figures" / name / "convergence.png").is_file()
    ]
    return [Section("Convergence", blocks=[*shown])] if shown else []


def _pictures(run: Run, *names: str) -> list[Block]:
    paths = ((name, run.folder / "figures" / f"{name}.png") for name in names)
    return [Picture(_heading(name), path) for name, path in paths if path.is_file()]


def _heading(name: str) -> str:
    known = {"agreement": "How much of the map is left", "overview": "One image under all interpreters"}
    return known.get(name, name.replace("_", " ").capitalize())


def _again(run: Run) -> Section:
    """What it takes to get the same numbers again."""
    stamp = _read(run.folder / "stamp.json")
    blocks: list[Block] = []
    if stamp is not None:
        blocks.append(Table("Stamp", ("what", "value"), [(key, text) for key, text in _flat(stamp)]))
    blocks.append(Listing("experiment.json: all that the results depend on", json.dumps(run.experiment, indent=1)))
    config = run.folder / "config.yaml"
    if config.is_file():
        blocks.append(Listing("config.yaml: the resolved configuration", read_text(config)))
    missing = "" if stamp is not None else "\n\nThere is no stamp: the evaluation has not come to its end."
    return Section("How to get the same numbers again", _AGAIN + missing, blocks)


_AGAIN = (
    "All tables and figures are computed from the files in records/; 'lightning-adv2 verify' checks these and counts "
    "again. The stamp says what was run, with what, where and when."
)


def _flat(value: Any, name: str = "") -> list[tuple[str, str]]:
    """Nested values, one line each."""
    if isinstance(value, dict):
        return [one for key, inner in value.items() for one in _flat(inner, f"{name}, {key}" if name else key)]
    if isinstance(value, list):
        value = shlex.join(map(str, value)) if name == "command" else " ".join(map(str, value))
    return [(name, f"{value:.1f} s" if name.startswith("seconds") else str(value))]


def _read(path: Path) -> Any:
    """A JSON file's content; None where there is none.

    Raises:
        ValueError: it is damaged.
    """
    try:
        return read_json(path)
    except FileNotFoundError:
        return None
    except ValueError as error:
        raise ValueError(f"{path} is damaged ({error}); run the same command again, and it is made anew") from error
