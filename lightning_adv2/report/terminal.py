"""A run's table on the terminal."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping
from errno import EPIPE
from typing import Any

from rich.console import Console, Group
from rich.table import Table
from rich.text import Text

from lightning_adv2.files.text import visible
from lightning_adv2.results.benign import accuracy_lines, benign_flags, resolution
from lightning_adv2.results.blind import FLAG, LEAST_IMAGES, MEANING
from lightning_adv2.results.means import OVER, over
from lightning_adv2.results.records import BENIGN, record_key, titled
from lightning_adv2.results.summary import Row, Summary, denominator_lines

_THREE_DIGITS = ("confidence", "l1", "iou", "iou_true_class", "iou_target_class")
IOUS = ("iou", "iou_benign", "iou_true_class", "iou_target_class")
"""Columns that have no value for an image whose two maps are both empty."""
_NARROW = ("interpreter", "attack", "schedule", "ASR", "confidence", "map L1", "map IoU")
"""What is left where a terminal has not room for all; the files and the page have everything."""
EMPTY = (
    "no IoU: images whose two maps are both empty, below 0.5 everywhere: they have no map IoU, and are not in its mean "
    "nor in the share of plausible maps"
)
ONE_CLASS = (
    "IoU, c / IoU, c_t: both images, attacked and clean, explained for the true class c / the target class c_t: "
    "what is left is the reaction to the attack and not to the class asked for"
)


def print_table(summary: Summary, title: str, console: Console | None = None) -> None:
    """Show the rows, below them where every image went, and what was flagged; ADV2 in bold, controls dimmed.

    A terminal that is too narrow for all columns gets the most important ones.
    """
    rows, console = summary.rows, console or Console()
    targets = [row["target"] for row in rows if row["target"] != BENIGN]
    moved = any(row["unit"] != "Linf" for row in rows)
    title = titled(title, ", ".join(dict.fromkeys(targets)) or BENIGN)
    table = Table(title=title, title_justify="left", title_style="bold", header_style="bold")
    for heading in ("interpreter", "attack", "schedule"):
        table.add_column(heading, no_wrap=True)
    numbers = ["steps", "images", "ASR", "confidence", "map L1", "map IoU", "IoU, c", "IoU, c_t", "plausible"]
    empty = any(row["empty"] for row in rows)
    numbers += ["no IoU"] if empty else []
    numbers += [*(["benign L1", "benign IoU"] if targets else []), *(["size"] if moved else []), "Linf x255", "s/image"]
    for heading in numbers:
        table.add_column(heading, justify="right", overflow="fold")  # a narrow terminal cuts no digit off
    counts = _counts(summary)
    previous = None
    for row in rows:
        if previous not in (None, row["interpreter"]):
            table.add_section()
        previous = row["interpreter"]
        style = "bold" if "adv2" in row["attack"] else "dim" if row["schedule"] == "control" else ""
        cells = [row["interpreter"], row["attack"], row["schedule"], _steps(row), str(row["n"])]
        cells += [_format(row["asr"], "{:.1%}"), *(_mean(row, k, counts) for k in _THREE_DIGITS)]
        cells.append(_mean(row, "plausible", counts, "{:.1%}"))
        if empty:
            cells.append(str(row["empty"]))
        if targets:
            cells += [_mean(row, k, counts) for k in ("l1_benign", "iou_benign")]
        if moved:
            cells.append(_format(row["size"], ("{:.3f} " if row["unit"] == "Linf" else "{:.2f} ") + row["unit"]))
        cells.append(_format(row["linf"] and row["linf"] * 255, "{:.1f}"))
        cells.append(_format(_seconds(summary, row), "{:.3f}"))
        table.add_row(*cells, style=style)
    as_text(table)
    if console.is_terminal and console.width < _width(table, console):
        table.columns = [one for one in table.columns if str(one.header) in _NARROW]
    below = [Text(ONE_CLASS, style="dim")] if rows else []
    below += [Text(note, style="dim") for note in empty_notes(summary)]
    below += [Text(line, style="dim")] if (line := resolution(summary.benign)) else []
    below += [Text("\n".join(denominator_lines(summary)))] if summary.denominators else []
    below += [Text("\n".join(lines))] if (lines := accuracy_lines(summary.benign)) else []
    below += [Text(note, style="dim") for note in blind_notes(summary)]
    if warnings := _benign(summary) + _invalid(summary) + _flags(rows):
        below.append(Text("\n".join(warnings), style="yellow"))
    show(Group(table, *below), console)


def empty_notes(summary: Summary) -> list[str]:
    """What it means that an image has no IoU, and that a mean is over fewer images, where there is any such."""
    counts = _counts(summary)
    empty = any(row["empty"] for row in summary.rows)
    fewer = any(
        0 < count < row["n"] for row in summary.rows for metric in IOUS if (count := counts[(*_key(row), metric)])
    )
    return [EMPTY] * empty + [OVER] * fewer


def _counts(summary: Summary) -> Counter[tuple[str, str, str, str]]:
    """Interpreter, attack, schedule and a column -> how many images have a value there."""
    valid = [one for one in summary.images if one["valid"]]
    return Counter((*_key(one), metric) for one in valid for metric in IOUS if not math.isnan(one[metric]))


def _key(row: Row) -> tuple[str, str, str]:
    return row["interpreter"], row["attack"], row["schedule"]


def _mean(row: Row, metric: str, counts: Mapping[tuple[str, str, str, str], int], form: str = "{:.3f}") -> str:
    text, of = _format(row[metric], form), "iou" if metric == "plausible" else metric
    return over(text, counts[(*_key(row), of)], row["n"]) if of in IOUS else text


def _seconds(summary: Summary, row: Row) -> float | None:
    """Per image that was attacked, whether or not it counts."""
    key = record_key(row["attack"], row["schedule"])
    attacked = summary.by_interpreter[row["interpreter"]]["selected"]
    return summary.seconds[row["interpreter"]][key] / attacked if attacked else None


def _benign(summary: Summary) -> list[str]:
    return [f"! {name}: {text}" for name, text in benign_flags(summary.benign)]


def _invalid(summary: Summary) -> list[str]:
    return [
        f"! {key}/{name}: {count['invalid']} of {part['selected']} images not finite under attack, left out"
        for name, part in summary.by_interpreter.items()
        for key, count in part["attacks"].items()
        if count["invalid"]
    ]


def blind_notes(summary: Summary) -> list[str]:
    """What the flag of a blind attack means, or that there are too few images to raise it."""
    if any(flag.startswith(FLAG) for row in summary.rows for flag in row["flags"]):
        return [MEANING]
    few = max((row["n"] for row in summary.rows), default=LEAST_IMAGES) < LEAST_IMAGES
    return [f"Fewer than {LEAST_IMAGES} images: too few to tell whether a joint attack was blind"] if few else []


def _flags(rows: list[Row]) -> list[str]:
    return [
        f"! {record_key(row['attack'], row['schedule'])}/{row['interpreter']}: {flag}" + f", {n} batches" * (n > 1)
        for row in rows
        for flag, n in row["flags"].items()
    ]


def show(table: Table | Group, console: Console | None = None) -> None:
    """Print a table whole: a file or a pipe has no width, and rich would squeeze it into 80 columns.

    Raises:
        BrokenPipeError: nobody reads any more; what is printed later goes nowhere.
    """
    console = console or Console()
    for one in table.renderables if isinstance(table, Group) else [table]:
        as_text(one, console.encoding)
        if not console.is_terminal and isinstance(one, Table):
            console.width = max(console.width, 200, _width(one, console))
    try:
        console.print(table)
    except SystemExit as end:  # so rich ends a program
        raise BrokenPipeError(EPIPE, "nobody reads what is printed") from end


def _width(table: Table, console: Console) -> int:
    """How many characters wide a table is that cuts nothing off."""
    return console.measure(table, options=console.options.update(max_width=1000)).maximum


def as_text(shown: Any, encoding: str = "utf-8") -> None:
    """Make all strings of a table :func:`plain`, in place; or a text, whose lines are our own."""
    if not isinstance(shown, Table):
        plain(shown, encoding, keep="\n")
        return
    for name in ("title", "caption"):
        setattr(shown, name, plain(getattr(shown, name), encoding))
    for column in shown.columns:
        column.header = plain(column.header, encoding)
        column._cells = [plain(cell, encoding) for cell in column._cells]


def plain(shown: Any, encoding: str = "utf-8", keep: str = "") -> Any:
    """A string as text that stands as it is, for it may hold any name: brackets are no markup.

    What a terminal obeys, or has no letters for, is written out (:func:`~lightning_adv2.files.text.visible`), also that
    of a ``Text``, which keeps its style. All else is handed back.
    """
    if not isinstance(shown, str | Text):
        return shown
    text = visible(str(shown), keep).encode(encoding, "backslashreplace").decode(encoding)
    if isinstance(shown, str):
        return Text(text)
    if text != shown.plain:
        shown.plain = text
    return shown


def _steps(row: Row) -> str:
    """The steps taken on average, where some images were left alone earlier than planned."""
    stopped = row["mean_steps"] is not None and row["mean_steps"] < row["steps"]
    return f"{row['mean_steps']:.0f}/{row['steps']}" if stopped else str(row["steps"])


def _format(value: float | None, form: str) -> str:
    return "-" if value is None else form.format(value)
