"""What a report shows, before anyone decides where: the terminal and the HTML page are two views of the same."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from lightning_adv2.report.table import Table
from lightning_adv2.results.run import Run


@dataclass(frozen=True)
class Picture:
    """A figure.

    Attributes:
        title: heading.
        path: PNG file.
        note: a sentence below it.
    """

    title: str
    path: Path
    note: str = ""


@dataclass(frozen=True)
class Gallery:
    """Images of a run: benign, PGD and ADV2, each as image, perturbation and map overlay, with a sheet for each image.

    Attributes:
        title: heading.
        run: whose records are shown.
        limit: at most so many images.
    """

    title: str
    run: Run
    limit: int = 24


@dataclass(frozen=True)
class Listing:
    """A long text, a file's for instance, folded away until somebody asks for it.

    Attributes:
        title: heading.
        text: shown as it is.
    """

    title: str
    text: str


Block = Table | Picture | Gallery | Listing


@dataclass(frozen=True)
class Section:
    """A part of a page, with its own entry in the page's table of contents.

    Attributes:
        title: heading.
        text: paragraphs of plain text, separated by empty lines.
        blocks: tables, figures, galleries and listings in their order.
    """

    title: str
    text: str = ""
    blocks: list[Block] = field(default_factory=list)
