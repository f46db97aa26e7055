"""Transfer: what other interpreters make of an image whose attack aimed at one or none: rows, tables, figure, file."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import torch
from matplotlib.figure import Figure
from rich.console import Console, Group
from rich.table import Table
from rich.text import Text
from torch import Tensor

from lightning_adv2.files import write_json
from lightning_adv2.functional.agreement import compare_maps
from lightning_adv2.functional.bootstrap import bootstrap_interval
from lightning_adv2.functional.validity import unfit_maps
from lightning_adv2.interpreters import Interpreter
from lightning_adv2.models import Classifier
from lightning_adv2.report.harmless import draw
from lightning_adv2.report.old_tables import show
from lightning_adv2.results.means import defined, iou_label, mean_of
from lightning_adv2.results.records import AttackRecord, BatchRecord, record_key, to_float
from lightning_adv2.results.summary import Row

METRICS = ("l1", "iou")
"""Adversarial map, for the predicted class, against the benign one of the same interpreter."""

NO_MAP = "none"
"""The source of images that were made without a look at any map: PGD's and the noise control's."""

_CHUNK = 64


class Pair(NamedTuple):
    """One cell: an attack on ``source``, the ``place``-th of its record, and the interpreter that explains.

    ``source`` is ``NO_MAP`` for an attack that aims at no map.
    """

    source: str
    place: int
    attack: str
    schedule: str
    interpreter: str


class Seen(NamedTuple):
    """One image in a cell; ``l1`` and ``iou`` are NaN where a map is not finite, ``iou`` where both are empty."""

    batch_index: int
    image_id: str
    l1: float
    iou: float


Cells = dict[Pair, list[Seen]]


def aims_at_map(attack: AttackRecord) -> bool:
    """Whether the attack saw a map on its way: its trace has a point for each step that did, and no other has one."""
    return bool(attack.trace)


def judge_batch(
    classifier: Classifier,
    interpreters: Sequence[Interpreter],
    records: Mapping[str, BatchRecord],
    device: torch.device,
    judges: Sequence[Interpreter] = (),
) -> Cells:
    """Explain the adversarial images of one batch, made against each interpreter, by every other one.

    Args:
        classifier: in eval mode.
        interpreters: in eval mode.
        records: of the same batch, by interpreter.
        device: where to compute.
        judges: in eval mode; never attacked, so without records. They also explain the images of the attacks that aim
            at no map, and of the noise control, as far as the first interpreter can explain them.
    """
    attacked = [one for one in interpreters if one.name in records]
    benign = {}
    for one in attacked:
        benign[one.name] = dict(zip(records[one.name].image_id, records[one.name].benign_map, strict=True))
    benign |= {judge.name: _benign_maps(classifier, judge, records, device) for judge in judges}
    cells: Cells = {}
    alone = set[str]()
    for record in (records[one.name] for one in attacked):
        for place, attack in enumerate(record.attacks):
            aims = aims_at_map(attack)
            if not aims and (attack.attack == "target_class" or attack.key in alone):
                continue  # that control has the benign images; what aims at no map is the same for all interpreters
            if not aims:
                alone.add(attack.key)
            for judge in (*attacked, *judges) if aims else judges:
                source = record.interpreter if aims else NO_MAP
                pair = Pair(source, place, attack.attack, attack.schedule, judge.name)
                cells[pair] = _judge(classifier, judge, record, attack, benign[judge.name], device)
    return cells


def _benign_maps(
    classifier: Classifier, judge: Interpreter, records: Mapping[str, BatchRecord], device: torch.device
) -> dict[str, Tensor]:
    """The judge's map ``(1, h, w)`` of each benign image of a batch, by the image's id.

    Images whose map says nothing, because it is not finite or has one value everywhere, are left out.
    """
    images, label = dict[str, Tensor](), dict[str, Tensor]()
    for record in records.values():
        images |= dict(zip(record.image_id, record.images, strict=True))
        label |= dict(zip(record.image_id, record.label, strict=True))
    if not images:
        return {}
    maps = _explain(classifier, judge, torch.stack([*images.values()]), torch.stack([*label.values()]), device)
    return {name: one for name, one, reason in zip(images, maps, unfit_maps(maps, maps), strict=True) if not reason}


def _explain(classifier: Classifier, judge: Interpreter, images: Tensor, asked: Tensor, device: torch.device) -> Tensor:
    """Maps ``(n, 1, h, w)`` on the CPU: images ``(n, C, H, W)`` in 8 bits and the classes ``(n,)`` to explain."""
    parts = zip(torch.split(to_float(images).to(device), _CHUNK), torch.split(asked.to(device), _CHUNK), strict=True)
    return torch.cat([judge.explain(classifier, *part).attribution_map.float().cpu() for part in parts])


def _judge(
    classifier: Classifier,
    judge: Interpreter,
    source: BatchRecord,
    attack: AttackRecord,
    benign: Mapping[str, Tensor],
    device: torch.device,
) -> list[Seen]:
    """One cell of one batch: the images that are valid under the attack and have a benign map of the judge's."""
    keep = [i for i, name in enumerate(source.image_id) if bool(attack.valid[i]) and name in benign]
    if not keep:
        return []
    names = [source.image_id[i] for i in keep]
    if judge.name == source.interpreter:
        shown = attack.adv_map[keep]
    else:
        shown = _explain(classifier, judge, attack.adv_images[keep], attack.adv_predicted[keep], device)
    before = torch.stack([benign[name] for name in names])
    rows = zip(names, *(values.tolist() for values in compare_maps(shown, before)), strict=True)
    return [Seen(source.batch_index, *row) for row in rows]


def transfer_rows(cells: Sequence[Cells], interpreters: Sequence[str]) -> list[Row]:
    """One row per source, attack and explaining interpreter; a pure function of all batches' cells, in whatever order.

    An image that comes twice counts once. ``n`` images count, those of which every map is finite; the mean IoU leaves
    out the ``empty`` ones with two empty maps. The means are None where nothing counts. ``source`` is ``none`` (first)
    for an attack that aims at no map. ``l1_low``, ``l1_high``, ``iou_low`` and ``iou_high`` are 95% bootstrap
    intervals.

    Args:
        cells: of each batch.
        interpreters: their names and the judges', in the order of the rows.
    """
    gathered: Cells = {}
    for part in cells:
        for pair, found in part.items():
            gathered.setdefault(pair, []).extend(found)
    order = {name: place for place, name in enumerate([NO_MAP, *interpreters])}
    rows: list[Row] = []
    for pair in sorted(gathered, key=lambda p: (order[p.source], p.place, order[p.interpreter])):
        once: dict[str, Seen] = {}
        for one in sorted(gathered[pair]):
            once.setdefault(one.image_id, one)
        fine = [one for one in once.values() if math.isfinite(one.l1)]
        row: Row = {"source": pair.source, "attack": pair.attack, "schedule": pair.schedule}
        row |= {"interpreter": pair.interpreter, "n": len(fine)}
        for name in METRICS:  # exact sums, so that no order shows
            values = defined(getattr(one, name) for one in fine)
            row[name] = mean_of(values)
            row[f"{name}_low"], row[f"{name}_high"] = bootstrap_interval(values) if values else (None, None)
        row["empty"] = len(fine) - len(defined(one.iou for one in fine))
        rows.append(row)
    return rows


def write_transfer(folder: Path, rows: Sequence[Row]) -> None:
    """Write ``transfer.json`` (rows) and, if there are rows, ``figures/transfer.png``."""
    write_json(folder / "transfer.json", {"rows": list(rows)})
    draw_transfer(folder, rows)


def draw_transfer(folder: Path, rows: Sequence[Row]) -> None:
    """Draw ``figures/transfer.png``, if there are rows."""
    draw(folder / "figures" / "transfer.png", lambda: transfer_figure(rows) if rows else None)


def _matrices(rows: Sequence[Row]) -> dict[str, dict[tuple[str, str], Row]]:
    """Attack -> (source, interpreter) -> row."""
    matrices: dict[str, dict[tuple[str, str], Row]] = {}
    for row in rows:
        matrix = matrices.setdefault(record_key(row["attack"], row["schedule"]), {})
        matrix[row["source"], row["interpreter"]] = row
    return matrices


def transfer_figure(rows: Sequence[Row]) -> Figure:
    """A heat map of the IoU for each attack: whom it aimed at, and who explains."""
    matrices = _matrices(rows)
    side = max(2.6, 0.75 * len({row["interpreter"] for row in rows}) + 1.0)
    figure = Figure((side * len(matrices) + 1.0, side + 0.5), layout="constrained")
    figure.suptitle("Map IoU, adversarial and benign image", fontsize=12, fontweight="bold")
    for axis, (attack, matrix) in zip(
        figure.subplots(1, len(matrices), squeeze=False)[0], matrices.items(), strict=True
    ):
        sources, names = _sides(matrix)
        values = [[_iou(matrix.get((source, name))) for name in names] for source in sources]
        drawn = axis.imshow(values, vmin=0, vmax=1, cmap="viridis")
        for i, line in enumerate(values):
            for j, iou in enumerate(line):
                if math.isfinite(iou):
                    text = iou_label(matrix[sources[i], names[j]])
                    axis.text(j, i, text, ha="center", va="center", color="black" if iou > 0.6 else "white")
        axis.set_xticks(range(len(names)), [name.upper() for name in names], fontsize=8, rotation=20, ha="right")
        axis.set_yticks(range(len(sources)), [name if name == NO_MAP else name.upper() for name in sources], fontsize=8)
        axis.set_title(attack, fontsize=9)
        axis.set_xlabel("explained by", fontsize=8)
        axis.set_ylabel("attack aimed at", fontsize=8)
    figure.colorbar(drawn, ax=figure.axes, shrink=0.8)
    return figure


def _sides(matrix: Mapping[tuple[str, str], Row]) -> tuple[list[str], list[str]]:
    """Whom a matrix's attack aimed at, and who explains."""
    return list(dict.fromkeys(source for source, _ in matrix)), list(dict.fromkeys(name for _, name in matrix))


def _iou(row: Row | None) -> float:
    return math.nan if row is None or row["iou"] is None else float(row["iou"])


def print_transfer(rows: Sequence[Row], console: Console | None = None) -> None:
    """A matrix for each attack in the terminal: IoU and L1, what the attack aimed at in bold."""
    for attack, matrix in _matrices(rows).items():
        title = f"{attack}: map IoU (L1)"
        table = Table(title=title, title_justify="left", title_style="bold", header_style="bold")
        table.add_column("aimed at")
        sources, names = _sides(matrix)
        for name in names:
            table.add_column(f"by {name}", justify="right")
        for source in sources:
            table.add_row(source, *(_cell(matrix.get((source, name))) for name in names))
        some = [Text(_OVER, style="dim")] if any(row.get("empty") for row in matrix.values()) else []
        show(Group(table, *some), console)


_OVER = "IoU of 3/16: over 3 of 16 images, for both maps of each other one are empty"


def _cell(row: Row | None) -> str | Text:
    if row is None or not row["n"]:
        return "-"
    iou = "-" if row["iou"] is None else f"{row['iou']:.3f}"  # where both maps of every image are empty
    fewer = f" IoU of {row['n'] - row['empty']}/{row['n']}" if row.get("empty") else ""  # older files do not count them
    text = f"{iou} ({row['l1']:.3f}){fewer}"
    return Text(text, style="bold") if row["source"] == row["interpreter"] else text
