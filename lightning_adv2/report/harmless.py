"""A figure, a table or a page that fails costs a warning, not the run."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from matplotlib.figure import Figure
from pytorch_lightning.utilities import rank_zero_warn

from lightning_adv2.files.text import visible
from lightning_adv2.report.figures import save

AGAIN = "'lightning-adv2 report RUN' makes it again"
"""What makes a run's page, the figures that follow from its files, and the tables of both."""
SAME = "the same command makes it again"
"""What makes figures that need the networks."""


@contextmanager
def harmless(what: str | Path, again: str = AGAIN) -> Iterator[list[str]]:
    """Turn an error in the block, also an exhausted memory, into a warning with the reason and the remedy.

    Use it for figures, tables and pages alone; errors of data files (``results.json``, CSV) are not caught.

    Args:
        what: name of the block's product, or the path of its file; an earlier file at this path is deleted.
        again: how to make the product later.

    Yields:
        A list that holds the warning, once there is one.
    """
    said: list[str] = []
    try:
        yield said
    except Exception as error:
        rest = ""
        if isinstance(what, Path):
            with suppress(OSError):
                what.unlink(missing_ok=True)
            rest = "; what lies there is of an earlier run" if what.is_file() else ""
        said.append(f"{visible(str(what))} is not made ({reason(error)}){rest}; once the cause is gone, {again}")
        rank_zero_warn(said[0])


def reason(error: Exception) -> str:
    """The reason of an error in one line."""
    known = os.strerror(error.errno) if isinstance(error, OSError) and error.errno else str(error)
    return visible(" ".join(known.split())) or type(error).__name__


def draw(path: Path, make: Callable[[], Figure | None], again: str = AGAIN, keep: bool = False) -> list[Path]:
    """Draw a figure as PNG; an error becomes a warning, see :func:`harmless`.

    Args:
        path: of the PNG file.
        make: makes the figure; returns None where there is nothing to show, and then an earlier file is deleted.
        again: how to draw the figure later.
        keep: keep a figure that is there already.

    Returns:
        The path, if the figure is there.
    """
    if keep and path.is_file():
        return [path]
    with harmless(path, again):
        figure = make()
        if figure is not None:
            return [save(figure, path)]
        path.unlink(missing_ok=True)
    return []
