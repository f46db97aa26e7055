"""What is shown costs no run its success: a figure, a table or a page that fails costs only itself, and is said."""

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
    """Turn an error in the block, want of memory too, into a warning: what is missing, why, and how to have it again.

    This is for what is shown alone. Whoever writes data (``results.json``, tables as CSV) lets the error through.

    Args:
        what: what the block makes; of a file its path, and an earlier file does not stay in its place.
        again: how to make it later.

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
    """Why, in a line."""
    known = os.strerror(error.errno) if isinstance(error, OSError) and error.errno else str(error)
    return visible(" ".join(known.split())) or type(error).__name__


def draw(path: Path, make: Callable[[], Figure | None], again: str = AGAIN, keep: bool = False) -> list[Path]:
    """Draw a figure as PNG, whatever may go wrong; see :func:`harmless`.

    Args:
        path: where to.
        make: makes the figure; None where there is nothing to show, and then no earlier one stays there either.
        again: how to draw it later.
        keep: leave a figure that is there.

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
