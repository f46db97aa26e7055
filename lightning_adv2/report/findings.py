"""The findings of a study: the file ``<name>.json``, and the tables and figures that show it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar, Protocol

from matplotlib.figure import Figure

from lightning_adv2 import files
from lightning_adv2.files import write_json
from lightning_adv2.files.likeness import alike
from lightning_adv2.report.harmless import SAME, draw, harmless
from lightning_adv2.report.table import Column, Table, column_content, read_columns
from lightning_adv2.results.summary import Row
from lightning_adv2.results.tables import write_csv

STUDY = "study"
"""The key of the study's name in its file; by it the file is told from others."""


@dataclass
class Findings:
    """What a study found.

    Attributes:
        rows: flat rows: names, numbers, None, or lists of strings; all have the same keys.
        settings: what the study was asked for, and what its rows depend on besides.
        notes: sentences that belong below the table.
        details: further lists of rows by name, as a figure or a check may need them; kept in the JSON file alone.
        images: flat rows, one per image, for ``<name>_images.csv``; no part of the JSON file.
    """

    rows: list[Row]
    settings: Row = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    details: dict[str, list[Any]] = field(default_factory=dict)
    images: list[Row] = field(default_factory=list)


class Shown(Protocol):
    """How the findings of a study are shown; a study's class does it without an instance."""

    name: ClassVar[str]
    title: ClassVar[str]
    columns: ClassVar[Sequence[Column]]
    logged: ClassVar[Sequence[str]]
    position: ClassVar[int]

    @classmethod
    def tables(cls, findings: Findings) -> list[Table]:
        """The tables, the main one first."""

    @classmethod
    def figure(cls, findings: Findings) -> Figure | None:
        """The main figure; None where there is nothing to draw, or where drawing takes the networks."""


SHOWN: dict[str, type[Shown]] = {}
"""The studies by name. A study's class adds itself when its file is imported."""


@dataclass(frozen=True)
class StudyFile:
    """A study's file in a run's folder.

    Attributes:
        name: of the study.
        title: heading of its section.
        findings: the content.
        columns: of the main table, as the study declared them.
        paths: the files of the study: JSON, CSV and figures.
    """

    name: str
    title: str
    findings: Findings
    columns: list[Column]
    paths: list[Path]

    @property
    def tables(self) -> list[Table]:
        """As the study's class makes them; the main table by its columns, where the class is not known."""
        if self.name in SHOWN:
            return SHOWN[self.name].tables(self.findings)
        return [Table(self.title, self.columns, self.findings.rows, self.findings.notes)]

    @property
    def figures(self) -> list[Path]:
        """The pictures, the main figure first."""
        return [path for path in self.paths if path.suffix == ".png"]


def write_findings(folder: Path, study: type[Shown], findings: Findings) -> None:
    """Write ``<name>.json`` and ``<name>.csv``, with images also ``<name>_images.csv``.

    Raises:
        OSError: the disk is full or the like; an old file is as it was.
        ValueError: two rows have other keys, or no row has a key of ``columns`` or ``logged``.
    """
    keys = list(findings.rows[0]) if findings.rows else [column.key for column in study.columns]
    if odd := next((row for row in findings.rows if list(row) != keys), None):
        raise ValueError(
            f"study {study.name}: the row {odd} has other keys than the first one, {', '.join(keys)}; give every row "
            "the same keys in the same order, None where it has no value"
        )
    if findings.rows:
        check_keys(study.name, "columns", [key for column in study.columns for key in column.keys], keys)
        check_keys(study.name, "logged", study.logged, keys)
    content = {
        STUDY: study.name,
        "title": study.title,
        "columns": column_content(study.columns),
        "settings": findings.settings,
        "notes": findings.notes,
        "rows": findings.rows,
        "details": findings.details,
    }
    write_json(folder / f"{study.name}.json", content)
    write_csv(findings.rows, folder / f"{study.name}.csv", keys)
    images = folder / f"{study.name}_images.csv"
    if findings.images:
        write_csv(findings.images, images)
    else:
        images.unlink(missing_ok=True)  # of an earlier run


def check_keys(study: str, attribute: str, wanted: Sequence[str], known: Sequence[str]) -> None:
    """Check that the rows of a study have the keys that the study shows or logs.

    Args:
        study: name of the study.
        attribute: of the study's class, which lists the keys.
        wanted: keys that the attribute lists.
        known: keys of every row.

    Raises:
        ValueError: a key is missing; the error names the most similar key of the rows.
    """
    missing = [key for key in dict.fromkeys(wanted) if key not in known]
    if missing:
        meant = [f"{key!r}" + (f" (did you mean {near!r}?)" if (near := alike(key, known)) else "") for key in missing]
        raise ValueError(
            f"study {study}: {attribute} asks for {', '.join(meant)}, which no row has; the rows have "
            f"{', '.join(known)}. Correct {attribute} or the rows; the same command then goes on with the finished "
            "records, without a new attack"
        )


def draw_figure(folder: Path, study: type[Shown], findings: Findings, keep: bool = False) -> list[Path]:
    """Draw ``figures/<name>.png``; an error becomes a warning. Returns the path, if the figure is there."""
    return draw(folder / "figures" / f"{study.name}.png", lambda: study.figure(findings), keep=keep)


def read_findings(folder: Path, name: str) -> StudyFile | None:
    """Read the file of one study; None where the run has none.

    Raises:
        ValueError: the file is damaged, or no study's.
    """
    path = folder / f"{name}.json"
    try:
        content = files.read_json(path)
        if not isinstance(content, dict) or content.get(STUDY) != name:
            raise ValueError("it is no study's file")
        findings = Findings(content["rows"], content["settings"], content["notes"], content["details"])
        columns = read_columns(content["columns"])
    except FileNotFoundError:
        return None
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(f"{path} is damaged ({error}); run the same command again, and it is made anew") from error
    figures = [*(folder / "figures").glob(f"{name}.png"), *sorted((folder / "figures").glob(f"{name}_*.png"))]
    tables = [one for one in (folder / f"{name}.csv", folder / f"{name}_images.csv") if one.is_file()]
    drawn = [one for one in figures if one.is_file()]
    return StudyFile(name, str(content["title"]), findings, columns, [path, *tables, *drawn])


def study_names(folder: Path) -> list[str]:
    """The studies whose files lie in a run's folder, in a page's order: known ones by position, then the others."""
    found = [path.stem for path in sorted(folder.glob("*.json")) if _is_study(path)]
    return sorted(found, key=lambda name: (SHOWN[name].position if name in SHOWN else 1000, name))


def _is_study(path: Path) -> bool:
    if path.stem in SHOWN:
        return True
    try:
        content = files.read_json(path)
    except (OSError, ValueError):
        return False
    return isinstance(content, dict) and content.get(STUDY) == path.stem


def draw_missing(folder: Path) -> None:
    """Draw those figures of a run's studies that are missing, as far as they follow from the files alone."""
    for name in study_names(folder):
        if name in SHOWN:
            with harmless(folder / "figures" / f"{name}.png", SAME):
                study = read_findings(folder, name)
                if study is not None:
                    draw_figure(folder, SHOWN[name], study.findings, keep=True)


def details_of(findings: Findings) -> Mapping[str, list[Row]]:
    """Those details that are lists of flat rows, which W&B shows as tables."""
    flat = {}
    for name, rows in findings.details.items():
        if rows and all(isinstance(r, dict) and not any(isinstance(v, list | dict) for v in r.values()) for r in rows):
            flat[name] = rows
    return flat
