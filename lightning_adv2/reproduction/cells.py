"""From the runs of a plan to measured cells: a mean over images with its interval, beside what was published."""

from __future__ import annotations

import csv
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from lightning_adv2.files import open_table
from lightning_adv2.functional.bootstrap import bootstrap_interval, share_interval
from lightning_adv2.report.findings import read_findings
from lightning_adv2.report.table import Table, text_table
from lightning_adv2.reproduction.plan import Plan
from lightning_adv2.reproduction.published import Stated
from lightning_adv2.results.means import OVER, empty_key, over

Row = dict[str, Any]


@dataclass(frozen=True)
class Cell:
    """One measured figure.

    Attributes:
        value: mean over all values, NaN where there is none.
        low: lower end of the 95% interval.
        high: its upper end.
        n: how many images have a value.
        seeds: under how many seeds.
    """

    value: float
    low: float
    high: float
    n: int
    seeds: int = 1

    def text(self) -> str:
        """``0.966 [0.951, 0.978]``."""
        if math.isnan(self.value):
            return ""
        return f"{self.value:.3f} [{self.low:.3f}, {self.high:.3f}]"


NOTHING = Cell(math.nan, math.nan, math.nan, 0, 0)


def mean_cell(values: Sequence[float], images: Sequence[str], seeds: int = 1) -> Cell:
    """The mean of the values that are not NaN, with its bootstrap interval over images.

    An image seen under several seeds is drawn as a whole.
    """
    known = [(value, image) for value, image in zip(values, images, strict=True) if not math.isnan(value)]
    if not known:
        return NOTHING
    numbers, names = zip(*known, strict=True)
    low, high = bootstrap_interval(numbers, groups=names)
    return Cell(sum(numbers) / len(numbers), low, high, len(set(names)), seeds)


def share_cell(successes: int, n: int) -> Cell:
    """A share of images with Wilson's interval."""
    return Cell(successes / n, *share_interval(successes, n), n) if n else NOTHING


@dataclass(frozen=True)
class Evaluation:
    """The finished runs of one role, pooled: their files as they are.

    Attributes:
        folders: of the runs, in the plan's order, a seed after the other.
    """

    folders: tuple[Path, ...]

    @cached_property
    def images(self) -> list[Row]:
        """The valid rows of every ``images.csv``, numbers as numbers, with the run's place among the seeds."""
        return [row | {"folder": folder} for folder in self.attacked for row in _image_rows(folder)]

    @property
    def attacked(self) -> list[Path]:
        """The folders of runs with an attack."""
        return [folder for folder in self.folders if (folder / "images.csv").is_file()]

    @property
    def interpreters(self) -> list[str]:
        """In the order of the runs' tables."""
        return list(dict.fromkeys(row["interpreter"] for row in self.images))

    def cell(self, metric: str, **where: str) -> Cell:
        """The mean of a column of ``images.csv`` over the rows where other columns have these values."""
        found = [row for row in self.images if all(row[key] == value for key, value in where.items())]
        seeds = len({row["folder"] for row in found})
        names = [row["image_id"] for row in found]
        if metric == "asr":
            # With several seeds the trials of an image belong together, which Wilson's interval does not know.
            hits = [float(row["success"]) for row in found]
            return share_cell(int(sum(hits)), len(hits)) if seeds <= 1 else mean_cell(hits, names, seeds)
        return mean_cell([row[metric] for row in found], names, seeds)

    def rows(self, study: str) -> list[Row]:
        """The rows of this study in each run that has it."""
        found = [read_findings(folder, study) for folder in self.folders]
        return [row for one in found if one is not None for row in one.findings.rows]

    def pictures(self, pattern: str) -> list[Path]:
        """Figures of the runs, such as ``overview.png`` or ``*/gallery.png``."""
        return [path for folder in self.folders for path in sorted((folder / "figures").glob(pattern))]


_TEXT = {
    "dataset", "classifier", "interpreter", "attack", "schedule", "target", "image_id", "unit", "adv_sha256",
}  # fmt: skip


def _image_rows(folder: Path) -> Iterable[Row]:
    with open_table(folder / "images.csv") as file:
        for row in csv.DictReader(file):
            if row["valid"] == "True":
                yield {
                    key: value if key in _TEXT else value == "True" if value in ("True", "False") else float(value)
                    for key, value in row.items()
                    if value != ""
                }


def evaluation(plan: Plan, *roles: str) -> Evaluation | None:
    """The finished runs of these roles; None where there is none."""
    folders = (plan.folder(name, seed) for seed in plan.seeds for name in plan.of_role(*roles))
    found = tuple(folder for folder in folders if list(folder.glob("*.json")))
    return Evaluation(found) if found else None


@dataclass(frozen=True)
class Measured:
    """A row of a table: what it is of, and each measure, as measured and as published.

    Attributes:
        place: row headings, such as classifier, interpreter, attack.
        cells: by measure.
        published: by measure, as far as the paper states it.
    """

    place: tuple[str, ...]
    cells: dict[str, Cell]
    published: Mapping[str, float]


def measured(
    found: Evaluation | None, stated: Stated, columns: Sequence[str], keep: Callable[[Row], bool] = bool
) -> list[Measured]:
    """The rows of a study, each beside what the paper states of it; none where the study was not run.

    Args:
        found: the runs.
        stated: names the study and the values of a row that tell rows apart.
        columns: what is measured; a row without a value of the first is left out.
        keep: whether a row counts.
    """
    rows = [row for row in (found.rows(stated.study) if found else []) if keep(row) and row[columns[0]] is not None]
    places = [tuple(str(row[key]) for key in stated.keys) for row in rows]
    return [
        Measured(place, {column: study_cell(row, column) for column in columns}, stated.rows.get(place, {}))
        for place, row in zip(places, rows, strict=True)
    ]


def study_cell(row: Row, column: str) -> Cell:
    """A column of a study's row over the images with a value: with its interval, or as a share with Wilson's."""
    value, n = row[column], row["n"] - row.get(empty_key(column), 0)
    if value is None:
        return NOTHING
    if f"{column}_low" in row:
        return Cell(value, row[f"{column}_low"], row[f"{column}_high"], n)
    return share_cell(round(value * n), n)


def shown(title: str, headings: Sequence[str], rows: Sequence[Measured], names: Mapping[str, str], note: str) -> Table:
    """A table for people: each measure beside the published one, and the number of images with a value of any.

    Args:
        title: heading.
        headings: of the places.
        rows: what was measured.
        names: measure -> column heading.
        note: what is to be known; the size of the samples is added.
    """
    stated = {key for row in rows for key in row.published}
    pairs = {key: (name, "paper") if key in stated else (name,) for key, name in names.items()}
    columns = [*headings, "images", *(part for pair in pairs.values() for part in pair)]
    body, fewer = [], False
    for row in rows:
        most = max((cell.n for cell in row.cells.values()), default=0)
        line = [*row.place, str(most)]
        for key, pair in pairs.items():
            cell, paper = row.cells.get(key, NOTHING), row.published.get(key)
            fewer |= 0 < cell.n < most
            line += [over(cell.text(), cell.n, most), "" if paper is None else f"{paper:g}"][: len(pair)]
        body.append(tuple(line))
    seeds = max((cell.seeds for row in rows for cell in row.cells.values()), default=1)
    more = f"Means over images with 95% intervals, {seeds} seed{'s' * (seeds > 1)}."
    more += " Paper: 1,000 ImageNet images." if stated else " The paper's figures are not at hand."
    more += f" {OVER[0].upper()}{OVER[1:]}." * fewer
    numbers = set(columns[len(headings) :])
    return text_table(title, columns, body, f"{note} {more}".strip(), numbers)


def as_json(rows: Sequence[Measured]) -> list[Row]:
    """The same for machines; None where there is nothing."""
    return [
        {
            "place": list(row.place),
            "measures": {
                key: {
                    "value": None if math.isnan(cell.value) else cell.value,
                    "interval": None if math.isnan(cell.value) else [cell.low, cell.high],
                    "n": cell.n,
                    "seeds": cell.seeds,
                    "published": row.published.get(key),
                }
                for key, cell in row.cells.items()
            },
        }
        for row in rows
    ]
