"""The parts of the report: which runs each needs, and what it shows of them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from lightning_adv2.report.page import Block, Gallery, Picture, Section
from lightning_adv2.reproduction import studies, tables
from lightning_adv2.reproduction.cells import Measured, evaluation
from lightning_adv2.reproduction.figures import write_bars
from lightning_adv2.reproduction.plan import Plan
from lightning_adv2.results.run import read_run

Bars = tuple[str, str, str, str, float | None]
"""File name, measure, axis label, title, and a level to mark."""


@dataclass(frozen=True)
class Item:
    """A table of the paper with the figures that belong to it.

    Attributes:
        key: what ``--tables`` calls it.
        title: heading.
        roles: of the runs that it needs.
        table: from a plan to rows and tables.
        bars: drawn from the rows.
        pictures: patterns of figures that the runs left, under a role each.
        gallery: roles whose images are shown.
    """

    key: str
    title: str
    roles: tuple[str, ...]
    table: Callable[[Plan], tables.Found]
    bars: Sequence[Bars] = ()
    pictures: Sequence[tuple[str, str, str]] = ()
    gallery: Sequence[str] = ()


ITEMS = (
    Item("2", "Localisation error of the interpreters", ("localization",), tables.table_2,
         pictures=[("localization", "localization.png", "Boxes made of the maps")]),
    Item("3", "Attack success and confidence", ("attacks", "second"), tables.table_3),
    Item("12", "Agreement of the maps", ("attacks", "second"), tables.table_12,
         [("figure_5", "l1", "map L1", "Figure 5: L1 between attacked and benign map", None),
          ("figure_6", "iou", "map IoU", "Figure 6: IoU of attacked and benign map", 0.5)],
         [("attacks", "overview.png", "Figure 4: one image under every interpreter"),
          ("attacks", "*/gallery.png", "Figure 4: more images"),
          ("second", "overview.png", "Figure 17: the second classifier")], ["attacks"]),
    Item("4", "Detection by feature squeezing", ("attacks", "squeezing"), tables.table_4),
    Item("5", "The adaptive attack's maps", ("attacks", "squeezing"), tables.table_5,
         pictures=[("squeezing", "overview.png", "The adaptive attack")]),
    Item("skin", "The skin-cancer case", ("skin",), studies.table_skin,
         pictures=[("skin", "confusion.png", "Figure 18: confusion matrix"),
                   ("skin", "overview.png", "Figure 7: a lesion under every interpreter"),
                   ("skin", "*/gallery.png", "Figure 7: more lesions")], gallery=["skin"]),
    Item("stadv", "StAdv: spatial perturbations", ("stadv",), tables.table_stadv,
         pictures=[("stadv", "overview.png", "StAdv and StAdv-ADV2 on one image")]),
    Item("8", "Target maps of the attacker's choice", ("patch", "class"), tables.table_8,
         [("figure_13_l1", "l1", "L1 to the target", "Figure 13: L1 to the target map", None),
          ("figure_13_iou", "iou", "IoU with the target", "Figure 13: IoU with the target map", 0.5)],
         [("patch", "overview.png", "Figure 11: a random patch"), ("patch", "gap.png", "Level of chance"),
          ("class", "overview.png", "Figure 12: another image's map"), ("class", "gap.png", "Level of chance")]),
    Item("9", "Transfer between interpreters", ("attacks",), tables.table_9,
         pictures=[("attacks", "transfer_maps.png", "Figure 14: one attack, explained by every interpreter"),
                   ("attacks", "transfer.png", "Table 9 as a matrix"),
                   ("attacks", "classifier_transfer.png", "Across classifiers")]),
    Item("ig", "Proposition 1: gain of the prediction and change of the map", ("attacks",),
         studies.study_table("proposition", "attacks"),
         pictures=[("attacks", "proposition.png", "Gain of the prediction against the L1 norm of the difference map")]),
    Item("curves", "Success and agreement over the attack's strength", ("curves",),
         studies.study_table("curves", "curves"),
         pictures=[("curves", "curves.png", "Success and map over the attack's strength")]),
    Item("aid", "AID: training against the attack", ("aid",), studies.table_aid,
         pictures=[("aid", "noise.png", "Figure 15: noise"), ("aid", "noise_maps.png", "Figure 15: noisy images"),
                   ("aid", "overview.png", "Figure 16: the same image under RTS and RTS-A"),
                   ("aid", "resilience.png", "Resilience and benign map quality")]),
)  # fmt: skip
"""In the order of the report."""


def section(plan: Plan, item: Item, folder: Path) -> tuple[Section, Sequence[Measured]]:
    """What an item shows, and its rows; with a sentence instead where its runs are not there."""
    found = item.table(plan)
    if found is None:
        missing = " and ".join(item.roles)
        return Section(item.title, f"Not run: this reproduction has no finished run for {missing}."), ()
    rows, blocks = found[0], list[Block](found[1])
    for name, metric, label, title, line in item.bars:
        path = write_bars(folder, name, rows, metric, label, title, line)
        blocks.append(Picture(title, path, "Bars: means with 95% intervals; diamonds: what the paper states."))
    for role, pattern, title in item.pictures:
        own = evaluation(plan, role)
        blocks += [Picture(_named(title, path), path) for path in (own.pictures(pattern) if own else [])[:8]]
    for role in item.gallery:
        own = evaluation(plan, role)
        blocks += [Gallery(f"Images of {path.name}", read_run(path)) for path in (own.attacked[:1] if own else ())]
    return Section(item.title, "", blocks), rows


def _named(title: str, path: Path) -> str:
    """With the interpreter whose folder the figure lies in."""
    return title if path.parent.name == "figures" else f"{title} ({path.parent.name.upper()})"
