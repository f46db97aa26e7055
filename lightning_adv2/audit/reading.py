"""Reading of a run's files with any content: a fault is a finding, and never an exception."""

from __future__ import annotations

import csv
import math
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from lightning_adv2.files import open_table
from lightning_adv2.files.run import AGAIN

FAULTS = (
    KeyError, TypeError, IndexError, AttributeError, ValueError, ArithmeticError, RecursionError, OSError, csv.Error,
)  # fmt: skip
"""Exceptions that a file's content of another form can raise."""
TOLERANCE = 1e-6  # the report computes in single precision


def guarded(path: Path, check: Callable[[], Iterable[str]], named: bool = False) -> Iterator[str]:
    """Yield the findings of ``check`` for a file; a fault in reading the file is a finding, and no exception.

    Args:
        path: the file.
        check: yields a sentence for each finding.
        named: whether its sentences name the file already.
    """
    try:
        for one in check():
            yield one if named else f"{path}: {one}"
    except FileNotFoundError:
        yield f"{path}: it is missing; {AGAIN}"
    except FAULTS as error:
        yield f"{path}: it is not of this version, or damaged ({type(error).__name__}: {error}); {AGAIN}"


def read_table(path: Path) -> list[dict[str, str]]:
    """Return the rows of a CSV file as text, column -> cell.

    Raises:
        OSError: see :func:`~lightning_adv2.files.regular.open_regular`.
        ValueError: the file is empty or not UTF-8, a column is there twice, or a row has more or fewer cells than there
            are columns.
    """
    with open_table(path) as stream:
        lines = list(csv.reader(stream, strict=True))
    if not lines:
        raise ValueError("it is empty")
    names = lines[0]
    if len(set(names)) < len(names):
        raise ValueError("a column is in it twice")
    for number, line in enumerate(lines[1:], 2):
        if len(line) != len(names):
            raise ValueError(f"row {number} has {len(line)} cells for {len(names)} columns")
    return [dict(zip(names, line, strict=True)) for line in lines[1:]]


def differing(said: Any, wanted: Any, tolerance: float = TOLERANCE) -> bool:
    """Return whether a stated value differs from the recounted one.

    Args:
        said: the stated value.
        wanted: the recounted value.
        tolerance: of a number with a fraction, relative and absolute; all other values must be equal.
    """
    if isinstance(wanted, bool) or isinstance(said, bool):
        return said is not wanted
    if isinstance(wanted, float) and isinstance(said, (int, float)):
        if math.isnan(wanted) or math.isnan(said):
            return math.isnan(wanted) != math.isnan(said)
        return not math.isclose(said, wanted, rel_tol=tolerance, abs_tol=tolerance)
    return bool(said != wanted)


def differing_cell(said: str | None, wanted: Any, tolerance: float = TOLERANCE) -> bool:
    """Return whether a cell of a CSV file, which is text, differs from the recounted value; see :func:`differing`."""
    if said is None or not isinstance(wanted, float):
        return said != ("" if wanted is None else str(wanted))
    try:
        return differing(float(said), wanted, tolerance)
    except ValueError:
        return True


def in_range(value: Any, low: float = 0.0, high: float = 1e15) -> bool:
    """Return whether a value is a number in ``[low, high]``."""
    return isinstance(value, (int, float)) and not isinstance(value, bool) and low <= value <= high


def is_count(value: Any) -> bool:
    """Return whether a value is a whole number in [0, 1e15]."""
    return isinstance(value, int) and in_range(value)


def same(
    name: str,
    said: Mapping[str, Any],
    wanted: Mapping[str, Any],
    tolerance: float = TOLERANCE,
    unlike: Callable[[Any, Any, float], bool] = differing,
) -> Iterator[str]:
    """Yield a sentence for each value of a row that is not the recounted one.

    Args:
        name: the row's, for the sentence.
        said: the row in the file.
        wanted: the recounted values; other values of the row are not looked at.
        tolerance: see :func:`differing`.
        unlike: compares a stated value with a recounted one.
    """
    for key, value in wanted.items():
        if unlike(said.get(key), value, tolerance):
            yield f"{name}: {key} is {said.get(key)}, counted again {value}"


def same_rows(
    stated: Sequence[Mapping[str, Any]],
    keys: Sequence[str],
    wanted: Mapping[tuple[Any, ...], Mapping[str, Any]],
    unlike: Callable[[Any, Any, float], bool] = differing,
) -> Iterator[str]:
    """Yield a sentence for each row that is missing, foreign, doubled or out of order, and each value that differs.

    Args:
        stated: the rows in the file.
        keys: the columns that tell rows apart.
        wanted: the recounted rows by their keys, in their order.
        unlike: compares a stated value with a recounted one.
    """
    found = [tuple(row[key] for key in keys) for row in stated]
    yield from _out_of_order(found, list(wanted))
    rows = dict(zip(found, stated, strict=True))
    for key in dict.fromkeys([*wanted, *rows]):
        name = "/".join(map(str, key))
        if key in rows and key in wanted:
            yield from same(name, rows[key], wanted[key], unlike=unlike)
        else:
            yield f"{name} is {'not in it' if key in wanted else 'in no record'}"


def _out_of_order(found: Sequence[object], wanted: Sequence[object]) -> Iterator[str]:
    twice = [one for one, count in Counter(found).items() if count > 1]
    yield from (f"{one} is in it twice" for one in twice)
    if not twice and found != wanted and Counter(found) == Counter(wanted):
        row = next(i for i, pair in enumerate(zip(found, wanted, strict=True)) if pair[0] != pair[1])
        yield f"its rows are in another order than the records: row {row + 1} is {found[row]}, not {wanted[row]}"
