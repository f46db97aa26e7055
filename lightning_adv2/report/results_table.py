"""The table of an evaluation: every attack and control under every interpreter."""

from __future__ import annotations

import math
from collections import Counter

from rich.console import Console

from lightning_adv2.metrics import AGREEMENTS
from lightning_adv2.report.table import Column, Table
from lightning_adv2.report.terminal import show
from lightning_adv2.results.benign import accuracy_lines, benign_flags, resolution
from lightning_adv2.results.blind import FLAG, LEAST_IMAGES, MEANING
from lightning_adv2.results.records import BENIGN, record_key, titled
from lightning_adv2.results.summary import Row, Summary, denominator_lines

EMPTY = (
    "no IoU: images whose two maps are both below 0.5 everywhere. They have no map IoU; its mean and the share of "
    "plausible maps leave them out."
)
ONE_CLASS = (
    "IoU, c and IoU, c_t: the attacked and the benign image, both explained for the true class c or both for the "
    "target class c_t. The two maps then differ by the attack alone, not by the class."
)


def print_table(summary: Summary, title: str, console: Console | None = None) -> None:
    """Print the table of an evaluation, with the denominators and the flags."""
    table = results_table(summary, title)
    told = [*denominator_lines(summary), *accuracy_lines(summary.benign), *blind_notes(summary)]
    show(Table(table.title, table.columns, table.rows, [*table.notes, *told], table.alerts), console)


def results_table(summary: Summary, title: str) -> Table:
    """The table of an evaluation: means under every attack and control.

    Args:
        summary: of the run.
        title: heading, to which the target map is added where it is not the benign one.
    """
    counts = Counter(
        (*_key(one), key) for one in summary.images if one["valid"] for key in AGREEMENTS if math.isnan(one[key])
    )
    rows = [_shown(row, summary, counts) for row in summary.rows]
    targets = [row["target"] for row in rows if row["target"] != BENIGN]
    notes = [ONE_CLASS] * bool(rows) + [EMPTY] * any(row["empty"] for row in rows)
    notes += [f"{line}."] if (line := resolution(summary.benign)) else []
    return Table(
        titled(title, ", ".join(dict.fromkeys(targets)) or BENIGN), _columns(rows, bool(targets)), rows, notes,
        _alerts(summary),
    )  # fmt: skip


def _columns(rows: list[Row], other_target: bool) -> list[Column]:
    def mean(key: str, heading: str, form: str = ".3f", main: bool = False) -> Column:
        empty = f"without_{'iou' if key == 'plausible' else key}" if key in (*AGREEMENTS, "plausible") else ""
        return Column(key, heading, form, empty=empty, main=main)

    columns = [Column(key, main=True) for key in ("interpreter", "attack", "schedule")]
    columns += [Column("steps_taken", "steps", "s"), Column("n", "images", "d")]
    columns += [Column("asr", "ASR", ".1%", main=True), mean("confidence", "confidence", main=True)]
    columns += [mean("l1", "map L1", main=True), mean("iou", "map IoU", main=True)]
    columns += [mean("iou_true_class", "IoU, c"), mean("iou_target_class", "IoU, c_t")]
    columns += [mean("plausible", "plausible", ".1%")]
    if any(row["empty"] for row in rows):
        columns.append(Column("empty", "no IoU", "d"))
    if other_target:
        columns += [mean("l1_benign", "benign L1"), mean("iou_benign", "benign IoU")]
    if any(row["unit"] != "Linf" for row in rows):
        columns.append(Column("size_with_unit", "size", "s"))
    return [*columns, Column("linf", "Linf x255", ".1f", 255), Column("seconds", "s/image", ".3f")]


def _shown(row: Row, summary: Summary, empty: Counter[tuple[str, str, str, str]]) -> Row:
    """A row with what its cells need besides: how many images have no value of a comparison; texts of two values."""
    missing = {f"without_{key}": empty[(*_key(row), key)] for key in AGREEMENTS}
    stopped = row["mean_steps"] is not None and row["mean_steps"] < row["steps"]
    steps = f"{row['mean_steps']:.0f}/{row['steps']}" if stopped else str(row["steps"])
    attacked = summary.by_interpreter[row["interpreter"]]["selected"]
    taken = summary.seconds[row["interpreter"]][record_key(row["attack"], row["schedule"])]
    size = None if row["size"] is None else f"{row['size']:.{3 if row['unit'] == 'Linf' else 2}f} {row['unit']}"
    seconds = taken / attacked if attacked else None  # per image that was attacked, whether or not it counts
    return row | missing | {"steps_taken": steps, "size_with_unit": size, "seconds": seconds}


def _key(row: Row) -> tuple[str, str, str]:
    return row["interpreter"], row["attack"], row["schedule"]


def blind_notes(summary: Summary) -> list[str]:
    """The meaning of the flag ``blind_attack``, or that there are too few images to raise it; empty without a flag."""
    if any(flag.startswith(FLAG) for row in summary.rows for flag in row["flags"]):
        return [MEANING]
    few = max((row["n"] for row in summary.rows), default=LEAST_IMAGES) < LEAST_IMAGES
    return [f"Fewer than {LEAST_IMAGES} images are too few to tell whether a joint attack was blind."] if few else []


def _alerts(summary: Summary) -> list[str]:
    """What makes figures doubtful."""
    found = [f"{name}: {text}" for name, text in benign_flags(summary.benign)]
    found += [
        f"{key}/{name}: {count['invalid']} of {part['selected']} images not finite under attack, left out"
        for name, part in summary.by_interpreter.items()
        for key, count in part["attacks"].items()
        if count["invalid"]
    ]
    for row in summary.rows:
        name = f"{record_key(row['attack'], row['schedule'])}/{row['interpreter']}"
        found += [f"{name}: {flag}" + f", {n} batches" * (n > 1) for flag, n in row["flags"].items()]
    return found
