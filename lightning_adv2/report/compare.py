"""``lightning-adv2 report``: the page of one run, or several runs side by side."""

from __future__ import annotations

from argparse import Namespace
from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from lightning_adv2.files.run import stray_lines
from lightning_adv2.files.sums import renew_sums
from lightning_adv2.files.text import visible
from lightning_adv2.report.harmless import SAME, draw, harmless
from lightning_adv2.report.html.run_page import FILE, run_sections, write_run_page
from lightning_adv2.report.html.writing import write_page
from lightning_adv2.report.page import Picture, Section
from lightning_adv2.report.results_table import EMPTY as NO_IOU
from lightning_adv2.report.run_figures import bars as run_bars
from lightning_adv2.report.run_report import complete_figures
from lightning_adv2.report.table import Table, text_table
from lightning_adv2.report.terminal import show
from lightning_adv2.results.run import Run, read_run
from lightning_adv2.results.summary import Row
from lightning_adv2.runtime.describe import differences

KEYS = ("dataset", "classifier", "target", "interpreter", "attack", "schedule")
"""What a row is about: rows that share all of these are compared. Where each run has but one interpreter, those are."""
MAIN = {"n": "images", "asr": "ASR", "l1": "map L1", "iou": "map IoU"}
EMPTY = {"empty": "no IoU"}
"""Shown beside the others where an image has two empty maps, and so no IoU."""
MORE = {
    "confidence": "confidence",
    "iou_true_class": "IoU, c",
    "iou_target_class": "IoU, c_t",
    "plausible": "plausible",
}
_IMAGES = 8  # of each run in the gallery: a page of several runs holds several


def names_of(runs: Sequence[Run]) -> list[str]:
    """A short name for each run: the folder's name, with more of the path where two folders have the same name."""
    paths = [run.folder.resolve() for run in runs]
    depth = 1
    while len({path.parts[-depth:] for path in paths}) < len(set(paths)):
        depth += 1
    return ["/".join(path.parts[-depth:]).lstrip("/") for path in paths]


def comparison(runs: Sequence[Run], names: Sequence[str], metrics: dict[str, str], title: str) -> Table:
    """The rows of several runs side by side, each number with its difference from the first run's number.

    A column of ``KEYS`` with the same value in all rows is left out; a cell is empty where a run lacks the row. Runs of
    one interpreter each are compared whatever the names of their interpreters.

    Args:
        runs: two or more; the first is what the others are compared with.
        names: of the runs.
        metrics: column of a row -> heading.
        title: heading.
    """
    by_key: dict[tuple[str, ...], dict[int, Row]] = {}
    only = _only_interpreters(runs)
    for place, run in enumerate(runs):
        for row in run.summary.rows:
            called = row | ({"interpreter": " / ".join(only)} if only else {})
            by_key.setdefault(tuple(called[key] for key in KEYS), {})[place] = row
    if any(row["empty"] for found in by_key.values() for row in found.values()):
        metrics = metrics | EMPTY
    told = [place for place in range(len(KEYS)) if len({key[place] for key in by_key}) > 1]
    told = told or [KEYS.index("attack")]
    order = list(dict.fromkeys(key[KEYS.index("interpreter")] for key in by_key))
    rows: list[tuple[str, ...]] = []
    for key in sorted(by_key, key=lambda one: order.index(one[KEYS.index("interpreter")])):
        found = by_key[key]
        cells = [
            _cell(metric, found[place][metric], found[0][metric] if place and 0 in found else None)
            if place in found
            else ""
            for metric in metrics
            for place in range(len(runs))
        ]
        rows.append((*(key[place] for place in told), *cells))
    columns = (*(KEYS[place] for place in told), *(f"{text}: {name}" for text in metrics.values() for name in names))
    same = "; ".join(
        f"{KEYS[place]}: {next(iter(by_key))[place]}" for place in range(len(KEYS)) if by_key and place not in told
    )
    compared = any(0 in found and len(found) > 1 for found in by_key.values())
    said = [
        f"In brackets: the difference from {names[0]}." if compared else "No row of one run has its like in another.",
        f"In all rows {same}." if same else "",
        NO_IOU if metrics.keys() >= EMPTY.keys() else "",
    ]
    numbers = columns[len(told) :]
    return text_table(title, columns, rows, " ".join(filter(None, said)), numbers)


def _only_interpreters(runs: Sequence[Run]) -> list[str]:
    """The names, each once, of the interpreters of runs that have one each; empty where a run has several."""
    if any(len(run.interpreters) != 1 for run in runs):
        return []
    return list(dict.fromkeys(run.interpreters[0] for run in runs))


def _cell(metric: str, value: float | None, first: float | None) -> str:
    if value is None:
        return "-"
    form = {"n": "d", "empty": "d", "asr": ".1%", "plausible": ".1%"}.get(metric, ".3f")
    return f"{value:{form}}" if first is None else f"{value:{form}} ({value - first:+{form}})"


def experiment_table(runs: Sequence[Run], names: Sequence[str]) -> Table:
    """The differences of the experiments from the first experiment; nothing else can make the numbers differ."""
    rows: list[tuple[str, ...]] = []
    first, *others = [_renamed(run) if len(_only_interpreters(runs)) > 1 else run.experiment for run in runs]
    for experiment, name in zip(others, names[1:], strict=True):
        found = differences(first, experiment)
        parts = [line.partition(": ") for line in found] or [("", "", "nothing: the same experiment")]
        rows += [(name, what, how) for what, _, how in parts]
    return text_table(
        f"Where the experiments differ from {names[0]}", ("run", "what", "how"), rows, f"'before' is {names[0]}."
    )


def _renamed(run: Run) -> dict[str, Any]:
    """The experiment of a run of one interpreter, which is called by no name of its own."""
    (name,) = run.interpreters
    own = {
        key: {"the interpreter": value[name]} if isinstance(value, dict) and list(value) == [name] else value
        for key, value in run.experiment.items()
    }
    return {"name of the interpreter": name} | own


def compare_sections(runs: Sequence[Run], names: Sequence[str], folder: Path) -> list[Section]:
    """The sections of the page of several runs: the comparison, then the sections of each run.

    Args:
        runs: two or more.
        names: of the runs.
        folder: takes the figure until the page is written.
    """
    text = f"{len(runs)} runs: {', '.join(names)}. All numbers are computed anew from their records."
    blocks = [comparison(runs, names, MAIN, "Attacks"), comparison(runs, names, MORE, "More of the same rows")]
    bars = _bars(runs)
    drawn = []
    if bars:
        note = ", ".join(f"({number}) {name}" for number, name in enumerate(names, 1))
        paths = draw(folder / "runs.png", lambda: run_bars(bars), SAME)
        drawn += [Picture("Map agreement", path, note) for path in paths]
    sections = [Section("Comparison", text, [*blocks[:1], *drawn, *blocks[1:], experiment_table(runs, names)])]
    for run, name in zip(runs, names, strict=True):
        sections += [
            Section(f"{name}: {section.title}", section.text, section.blocks) for section in run_sections(run, _IMAGES)
        ]
    return sections


def _bars(runs: Sequence[Run]) -> list[Row]:
    """All runs' attacks, without controls, as rows that one figure takes; each interpreter's runs together."""
    rows = [
        row | {"interpreter": f"{row['interpreter']}\n({number})"}
        for number, run in enumerate(runs, 1)
        for row in run.summary.rows
        if row["role"] != "control"
    ]
    order = list(dict.fromkeys(row["interpreter"].split("\n")[0] for row in rows))
    return sorted(rows, key=lambda row: order.index(row["interpreter"].split("\n")[0]))


def report(folders: Sequence[Path], output: Path | None = None) -> Path:
    """Write the page of one run or of several runs, and draw their missing figures; returns the page's path.

    Args:
        folders: of evaluations.
        output: the page; by default ``report.html`` in the run's folder or, of several runs, in the current folder.

    Returns:
        The page.

    Raises:
        FileNotFoundError: there is no evaluation in a folder.
        ValueError: a file of it is damaged, or a folder is given twice.
    """
    runs = [read_run(folder) for folder in folders]
    for line in (line for folder in folders for line in stray_lines(folder / "records")):
        print(line, flush=True)
    if len({folder.resolve() for folder in folders}) < len(folders):
        raise ValueError(f"RUN: {', '.join(map(str, folders))} has a folder twice; give each once")
    for run in runs:
        complete_figures(run)
    if len(runs) == 1:
        page = write_run_page(runs[0], output)
        renew_sums(runs[0].folder, page)
        return page
    names = names_of(runs)
    with harmless("the comparison on the terminal", SAME):
        show(comparison(runs, names, {key: MAIN[key] for key in ("asr", "iou")}, "Attacks"))
        show(experiment_table(runs, names))
    with TemporaryDirectory() as temporary:
        sections = compare_sections(runs, names, Path(temporary))
        return write_page(output or Path(FILE), f"ADV2: {len(runs)} evaluations", sections, ", ".join(names))


def main(options: Namespace) -> None:
    """Run ``lightning-adv2 report``.

    Args:
        options: of :func:`lightning_adv2.cli.options.report`.

    Raises:
        SystemExit: a folder holds no evaluation, a file is damaged, or the page cannot be written.
    """
    try:
        page = report(options.runs, options.output)
    except FileNotFoundError as error:
        raise SystemExit(f"{error}; give the folder that an evaluation wrote, with records/ in it") from error
    except (OSError, ValueError) as error:
        raise SystemExit(str(error)) from error
    print(f"{visible(str(page.resolve()))}: open it in a browser", flush=True)
