"""A report as one HTML file: no server, no network, nothing beside it; opens from a disk, prints, reads on a phone."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined

from lightning_adv2.files import write_text
from lightning_adv2.files.text import visible
from lightning_adv2.report.harmless import harmless
from lightning_adv2.report.html.gallery import HEADINGS, cards
from lightning_adv2.report.html.pictures import Pictures, figure_uri
from lightning_adv2.report.page import Block, Listing, Picture, Section
from lightning_adv2.report.table import Table

BADGES = {"held": "good", "not held": "bad", "not tested": "open"}
"""Cells with exactly this text stand out."""


@dataclass
class _Drawn:
    """What the template draws: the block, its kind, and what it takes besides."""

    kind: str
    block: Block
    more: dict[str, Any] = field(default_factory=dict)


def write_page(path: Path, title: str, sections: Sequence[Section], lead: str = "") -> Path:
    """Write a page in one file, without links to others, whole or not at all; returns its path.

    Args:
        path: the ``.html`` file.
        title: heading.
        sections: in their order; each has its entry in the table of contents. The reason stands in the place of a
            figure or gallery that cannot be read.
        lead: a line below the heading.

    Returns:
        ``path``.

    Raises:
        OSError: the page cannot be written.
    """
    pictures = Pictures()
    shown = [
        {
            "anchor": f"s{number}",
            "title": section.title,
            "paragraphs": [text.strip() for text in section.text.split("\n\n") if text.strip()],
            "blocks": [_block(block, pictures) for block in section.blocks],
        }
        for number, section in enumerate(sections, 1)
    ]
    text = _environment().get_template("page.html.j2").render(
        title=title, lead=lead, sections=shown, rules=pictures.rules, badges=BADGES, headings=HEADINGS
    )  # fmt: skip
    write_text(path, text)
    return path


def _block(block: Block, pictures: Pictures) -> _Drawn:
    if isinstance(block, Table):
        return _Drawn("table", block)
    if isinstance(block, Listing):
        return _Drawn("listing", block)
    drawn: list[_Drawn] = []
    what = f"{block.path} on the page" if isinstance(block, Picture) else f"the gallery of {block.run.folder}"
    with harmless(what) as missing:
        if isinstance(block, Picture):
            drawn.append(_Drawn("picture", block, {"uri": figure_uri(block.path)}))
        else:
            shown = cards(block, pictures)
            more = {"cards": shown.cards, "note": shown.note, "small": shown.small}
            drawn.append(_Drawn("gallery", block, more))
    return drawn[0] if drawn else _Drawn("missing", block, {"said": missing[0]})


@cache
def _environment() -> Environment:
    """Everything that a template puts in is escaped: names of classes and images come from anywhere.

    Nor do they turn the reading direction of what stands beside them, or hold what no file can.
    """
    return Environment(
        finalize=lambda value: visible(value, keep="\n\t") if type(value) is str else value,
        loader=PackageLoader("lightning_adv2", "report/html/templates"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
