"""What each study leaves in a run's folder, ``<name>.json``, as tables for a page and as its figure, made anew."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

from rich.console import Console

from lightning_adv2 import files
from lightning_adv2.report.confusion import draw_confusion, print_confusion
from lightning_adv2.report.findings import read_findings
from lightning_adv2.report.harmless import SAME, harmless
from lightning_adv2.report.localization import print_localization
from lightning_adv2.report.old_tables import tables_of
from lightning_adv2.report.resilience_files import draw_resilience, print_resilience
from lightning_adv2.report.table import Table


class Study(NamedTuple):
    """How a study's file is shown.

    Attributes:
        title: heading.
        tables: of the file's content.
        draw: draws the figure into a run's folder from the content; None where that takes more.
    """

    title: str
    tables: Callable[[Any], list[Table]]
    draw: Callable[[Path, Any], None] | None = None


def _printed(show: Callable[[Any, Console], None]) -> Callable[[Any], list[Table]]:
    return lambda content: tables_of(lambda console: show(content, console))


STUDIES: dict[str, Study] = {
    "resilience": Study(
        "Who resists",
        _printed(lambda read, to: print_resilience(read["rows"], read["reference"], to)),
        lambda folder, read: draw_resilience(folder, read["rows"], read["tolerance"]),
    ),
    "localization": Study("Do the maps find the object?", _printed(print_localization)),
    "confusion": Study("What the classifier takes for what", _printed(print_confusion), draw_confusion),
}
"""A study's file and figure, ``<name>.json`` and ``figures/<name>.png`` -> how they are shown, in a page's order."""


def study_tables(folder: Path, name: str) -> list[Table]:
    """The tables of one study in a run's folder; none where it was not run.

    Raises:
        ValueError: its file is damaged.
    """
    if name not in STUDIES:
        study = read_findings(folder, name)
        return study.tables if study else []
    content = read_json(folder / f"{name}.json")
    return [] if content is None else STUDIES[name].tables(content)


def draw_missing(folder: Path) -> None:
    """Draw those figures of the studies of a run that are missing, as far as they follow from its files alone."""
    for name, study in STUDIES.items():
        path = folder / "figures" / f"{name}.png"
        if study.draw is not None and not path.is_file():
            with harmless(path, SAME):
                content = read_json(folder / f"{name}.json")
                if content is not None:
                    study.draw(folder, content)


def read_json(path: Path) -> Any:
    """A JSON file's content; None where there is none.

    Raises:
        ValueError: it is damaged.
    """
    try:
        return files.read_json(path)
    except FileNotFoundError:
        return None
    except ValueError as error:
        raise ValueError(f"{path} is damaged ({error}); run the same command again, and it is made anew") from error
