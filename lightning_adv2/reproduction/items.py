"""The parts of the report: which runs each needs, and what it shows of them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from lightning_adv2.report.page import Block, Gallery, Picture, Section
from lightning_adv2.reproduction import studies, tables
from lightning_adv2.reproduction.cells import Measured, Row, evaluation
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
        table: from a plan to rows and tables; None where the item shows studies alone.
        bars: drawn from the rows.
        pictures: patterns of figures that the runs left, under a role each.
        gallery: roles whose images are shown.
        studies: role and name of the studies whose tables follow, as the pages of the runs show them.
    """

    key: str
    title: str
    roles: tuple[str, ...]
    table: Callable[[Plan], tables.Found] | None = None
    bars: Sequence[Bars] = ()
    pictures: Sequence[tuple[str, str, str]] = ()
    gallery: Sequence[str] = ()
    studies: Sequence[tuple[str, str]] = ()


@dataclass(frozen=True)
class Shown:
    """What a reproduction has of an item.

    Attributes:
        section: of the page.
        rows: of the item's table; none where its runs are not there.
        studies: of each study, by its name, the rows of every run, by the name of its folder.
    """

    section: Section
    rows: Sequence[Measured] = ()
    studies: Mapping[str, Mapping[str, Sequence[Row]]] = field(default_factory=dict)


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
                   ("skin", "*/gallery.png", "Figure 7: more lesions")], gallery=["skin"],
         studies=[("skin", "confusion")]),
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
         studies=[("attacks", "proposition")],
         pictures=[("attacks", "proposition.png", "Gain of the prediction against the L1 norm of the difference map")]),
    Item("curves", "Success and agreement over the attack's strength", ("curves",),
         studies=[("curves", "curves")],
         pictures=[("curves", "curves.png", "Success and map over the attack's strength")]),
    Item("aid", "AID: training against the attack", ("aid",), studies.table_aid,
         pictures=[("aid", "noise.png", "Figure 15: noise"), ("aid", "noise_maps.png", "Figure 15: noisy images"),
                   ("aid", "overview.png", "Figure 16: the same image under RTS and RTS-A"),
                   ("aid", "resilience.png", "Resilience and benign map quality")],
         studies=[("aid", "noise"), ("aid", "map_quality"), ("aid", "resilience")]),
)  # fmt: skip
"""In the order of the report."""


def show_item(plan: Plan, item: Item, folder: Path) -> Shown:
    """What a reproduction has of an item; a sentence instead where its runs are not there.

    Args:
        plan: whose runs to read.
        item: what to show.
        folder: for the bars.
    """
    found = item.table(plan) if item.table else None
    files = {name: studies.study_files(plan, role, name) for role, name in item.studies}
    studied = [table for runs in files.values() for study in runs.values() for table in study.tables]
    if found is None and not studied:
        missing = " and ".join(item.roles)
        return Shown(Section(item.title, f"Not run: this reproduction has no finished run for {missing}."))
    rows, blocks = (found[0], list[Block](found[1])) if found else ([], [])
    blocks += studied
    for name, metric, label, title, line in item.bars:
        path = write_bars(folder, name, rows, metric, label, title, line)
        blocks.append(Picture(title, path, "Bars: means with 95% intervals; diamonds: what the paper states."))
    for role, pattern, title in item.pictures:
        own = evaluation(plan, role)
        blocks += [Picture(_named(title, path), path) for path in (own.pictures(pattern) if own else [])[:8]]
    for role in item.gallery:
        own = evaluation(plan, role)
        blocks += [Gallery(f"Images of {path.name}", read_run(path)) for path in (own.attacked[:1] if own else ())]
    read = {name: {run: study.findings.rows for run, study in runs.items()} for name, runs in files.items() if runs}
    return Shown(Section(item.title, "", blocks), rows, read)


def _named(title: str, path: Path) -> str:
    """With the interpreter whose folder the figure lies in."""
    return title if path.parent.name == "figures" else f"{title} ({path.parent.name.upper()})"
