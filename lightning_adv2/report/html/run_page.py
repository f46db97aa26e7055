"""The page of one evaluation: all that lies in its folder, in the order in which one asks for it."""

from __future__ import annotations

import json
import shlex
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from lightning_adv2.files import read_json, read_text
from lightning_adv2.report.findings import read_findings, study_names
from lightning_adv2.report.harmless import SAME, harmless
from lightning_adv2.report.html.writing import write_page
from lightning_adv2.report.page import Block, Gallery, Listing, Picture, Section
from lightning_adv2.report.results_table import blind_notes, results_table
from lightning_adv2.report.sentences import attacks_of, sentences
from lightning_adv2.report.table import text_table
from lightning_adv2.results.benign import accuracy_lines, benign_flags
from lightning_adv2.results.records import record_key
from lightning_adv2.results.run import Run
from lightning_adv2.results.summary import Row, denominator_lines

FILE = "report.html"
_KNOWN = ("agreement", "overview", "gallery", "convergence")
_FLAGS = ("interpreter", "attack", "flag", "batches")


def write_run_page(run: Run, path: Path | None = None) -> Path:
    """Write the page of a run, by default ``report.html`` in its folder; returns the page's path.

    Raises:
        OSError: the page cannot be written.
    """
    return write_page(path or run.folder / FILE, f"ADV2 evaluation: {run.folder.resolve().name}", run_sections(run))


def run_sections(run: Run, limit: int = 24) -> list[Section]:
    """The sections of the page of a run, as far as its folder has the files.

    Args:
        run: finished or interrupted.
        limit: at most this number of images in the gallery.
    """
    sections = [Section("Summary", "\n\n".join(sentences(run)), _pictures(run, "agreement", "overview"))]
    if run.summary.rows:
        table = results_table(run.summary, "Means over all attacked images")
        notes = "\n\n".join(blind_notes(run.summary))
        shown = replace(table, notes=[*_legend(run.summary.rows), *table.notes], alerts=())
        sections.append(Section("Results", notes, [shown]))
    told = denominator_lines(run.summary) + accuracy_lines(run.summary.benign)
    sections.append(Section("Denominators and flags", "\n\n".join(told), _counts(run)))
    if run.summary.images:
        gallery = Gallery("Benign and attacked", run, limit)
        sections.append(Section("Gallery", _about_gallery(run.summary.rows), [gallery]))
    return [*sections, *_studies(run), *_curves(run), _again(run)]


_LEGEND = (
    "ASR: share of the images that are classified as the target class. Map L1 and IoU compare the attacked image's map "
    "with the target map: mean absolute difference per pixel, and intersection over union of the maps cut at 0.5. "
    "Plausible: share of the images with an IoU above 0.5, the dotted line of the figures"
)
_SIZES = "Linf x255: largest change of a pixel, in 8-bit levels. Size: the attack's change in its unit."


def _legend(rows: Sequence[Row]) -> list[str]:
    """What the columns of the results mean, as far as there is anything to see of it."""
    green = ", green in gallery.png" if any(row["plausible"] for row in attacks_of(rows)) else ""
    return [f"{_LEGEND}{green}.", _SIZES]


def _about_gallery(rows: Sequence[Row]) -> str:
    names = {row["role"]: str(row["attack"]).upper() for row in reversed(attacks_of(rows))}
    said = [
        "Each row is one interpreter: the benign image and its map, then for each attack shown the attacked image, the "
        "perturbation and the map that the interpreter now shows."
    ]
    if len(names) == 2:
        said.append(f"{names['class']} aims at the class alone, {names['joint']} at class and map.")
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
    numbers = {*headings[2:], *under_attack}
    blocks: list[Block] = [text_table("Denominators", (*headings, *under_attack), rows, note, numbers)]
    if flags:
        blocks.append(text_table("Flags: what makes figures doubtful", _FLAGS, flags, numbers={"batches"}))
    return blocks


def _studies(run: Run) -> list[Section]:
    """A section for each study whose file lies in the folder, and one for all other figures."""
    made: list[Section] = []
    claimed = {run.folder / "figures" / f"{name}.png" for name in _KNOWN}
    for name in study_names(run.folder):
        with harmless(f"the section of {run.folder / name}.json", SAME) as missing:
            study = read_findings(run.folder, name)
            if study is not None:
                claimed |= set(study.figures)
                pictures = [Picture(_heading(path.stem), path) for path in study.figures]
                made.append(Section(study.title, "", [*study.tables, *pictures]))
        if missing:
            made.append(Section(name.replace("_", " ").capitalize(), missing[0]))
    others = [path for path in sorted((run.folder / "figures").glob("*.png")) if path.is_file() and path not in claimed]
    if others:
        made.append(Section("Further figures", blocks=[Picture(_heading(path.stem), path) for path in others]))
    return made


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
    known = {"agreement": "Map agreement", "overview": "One image under all interpreters"}
    return known.get(name, name.replace("_", " ").capitalize())


def _again(run: Run) -> Section:
    """What it takes to get the same numbers again."""
    stamp, blocks = None, list[Block]()
    with harmless(f"the table of {run.folder / 'stamp.json'}", SAME):
        stamp = read_json(run.folder / "stamp.json") if (run.folder / "stamp.json").exists() else None
    if stamp is not None:
        blocks.append(text_table("Stamp", ("what", "value"), _flat(stamp)))
    blocks.append(Listing("experiment.json: all that the results depend on", json.dumps(run.experiment, indent=1)))
    config = run.folder / "config.yaml"
    if config.is_file():
        blocks.append(Listing("config.yaml: the resolved configuration", read_text(config)))
    missing = "" if stamp is not None else "\n\nThere is no stamp: the evaluation has not come to its end."
    return Section("Reproducing the numbers", _AGAIN + missing, blocks)


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
