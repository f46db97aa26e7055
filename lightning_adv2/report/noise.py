"""Noise sensitivity: from correctly classified images to levels, rows, table, figure and file."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cache, partial
from itertools import product
from pathlib import Path

import torch
from matplotlib.figure import Figure
from rich.console import Console, Group
from rich.table import Table
from rich.text import Text
from torch import Tensor

from lightning_adv2.files import write_json
from lightning_adv2.functional.agreement import compare_maps
from lightning_adv2.functional.noise import Kind, add_noise, find_level
from lightning_adv2.functional.validity import is_finite
from lightning_adv2.interpreters import Interpreter
from lightning_adv2.models import Classifier
from lightning_adv2.report.harmless import draw
from lightning_adv2.report.old_tables import show
from lightning_adv2.results.means import OVER, defined, iou_label, mean_of, over
from lightning_adv2.results.records import to_float
from lightning_adv2.results.summary import Row

METRICS = ("l1", "iou", "l1_predicted", "iou_predicted")
"""Noisy map against benign map (for the true class): the former for the true class, then for the predicted one."""

Moved = dict[tuple[str, int], list[tuple[float, ...]]]
"""(interpreter, place of the level) -> for each image its ``METRICS``, NaN where a map is not finite."""

Key = tuple[int, int, str]
"""An image: number of its batch, place in it, identifier."""

_CHUNK = 64
_COLOURS = {"normal": "#30638e", "uniform": "#edae49"}


@dataclass(frozen=True)
class Correct:
    """Those images of one batch that the classifier gets right.

    They stay together, because float32 results depend on what else is in a batch: so they are the same on any number
    of processes.

    Attributes:
        batch_index: the batch's number.
        image_id: n identifiers.
        label: ``(n,)`` on the CPU.
        images: ``(n, C, H, W)`` uint8 on the CPU.
    """

    batch_index: int
    image_id: list[str]
    label: Tensor
    images: Tensor

    @property
    def keys(self) -> list[Key]:
        """One per image."""
        return [(self.batch_index, place, name) for place, name in enumerate(self.image_id)]

    def only(self, keys: set[Key]) -> Correct:
        """The images with these keys."""
        keep = [place for _, place, name in self.keys if (self.batch_index, place, name) in keys]
        return Correct(self.batch_index, [self.image_id[i] for i in keep], self.label[keep], self.images[keep])

    def chunks(self, device: torch.device) -> Iterator[tuple[Tensor, Tensor, list[str]]]:
        """Images in [0, 1], labels and identifiers, at most 64 at a time."""
        for start in range(0, len(self.image_id), _CHUNK):
            rows = slice(start, start + _CHUNK)
            yield to_float(self.images[rows].to(device)), self.label[rows].to(device), self.image_id[rows]


def choose(keys: Iterable[Key], most: int | None) -> set[Key]:
    """The first ``most`` images in the order of the batches (None: all); one that comes twice counts once."""
    first: dict[str, Key] = {}
    for key in sorted(keys):
        first.setdefault(key[2], key)
    return set(list(first.values())[:most])


def predict(classifier: Classifier, images: Tensor, label: Tensor) -> tuple[Tensor, Tensor]:
    """The predicted class ``(B,)``, and whether it is right ``(B,)`` bool; NaN or infinity never is."""
    with torch.no_grad():
        logits = classifier(images)
    predicted = logits.argmax(1)
    return predicted, (predicted == label) & is_finite(logits)


def count_wrong(
    classifier: Classifier, parts: Sequence[Correct], kind: Kind, level: float, seed: int, device: torch.device
) -> int:
    """How many of the images are misclassified under noise of this level."""
    wrong = 0
    for part in parts:
        for images, label, names in part.chunks(device):
            wrong += int((~predict(classifier, add_noise(images, names, kind, level, seed), label)[1]).sum())
    return wrong


def find_levels(
    kinds: Sequence[Kind], rates: Sequence[float], images: int, count: Callable[[Kind, float], int]
) -> list[Row]:
    """The levels at which at least these shares of the images are misclassified; a pure function of ``count``.

    Args:
        kinds: of noise.
        rates: shares in (0, 1].
        images: how many there are.
        count: how many of them are misclassified under noise of a kind and level; called once for each.

    Returns:
        ``kind``, ``rate``, ``level`` in units of the pixel range (None without images), ``images``, ``misclassified``
        and ``rate_reached``: with few images more than ``rate``, and less where no noise reaches it.
    """
    known = cache(count)
    rows: list[Row] = []
    for kind, rate in product(kinds, rates):
        row: Row = {"kind": kind, "rate": rate, "level": None, "images": images, "misclassified": 0}
        row["rate_reached"] = None
        if images:
            # The small number undoes 0.07 * 100 = 7.000000000000001.
            row["level"] = find_level(partial(known, kind), math.ceil(rate * images - 1e-9))
            row["misclassified"] = known(kind, row["level"])
            row["rate_reached"] = row["misclassified"] / images
        rows.append(row)
    return rows


def measure(
    classifier: Classifier,
    interpreters: Sequence[Interpreter],
    parts: Sequence[Correct],
    levels: Sequence[Row],
    seed: int,
    device: torch.device,
) -> Moved:
    """How far each interpreter's map of each image moves at each level."""
    moved: Moved = {(one.name, place): [] for one in interpreters for place in range(len(levels))}
    for images, label, names in (chunk for part in parts for chunk in part.chunks(device)):
        noisy = [add_noise(images, names, level["kind"], level["level"], seed) for level in levels]
        predicted = [predict(classifier, one, label)[0] for one in noisy]
        for interpreter in interpreters:
            benign = interpreter.explain(classifier, images, label).attribution_map
            for place in range(len(levels)):
                maps = _explain_both(classifier, interpreter, noisy[place], label, predicted[place])
                values = torch.stack([measured for shown in maps for measured in compare_maps(shown, benign)], dim=1)
                moved[interpreter.name, place] += [tuple(row) for row in values.tolist()]
    return moved


def _explain_both(
    classifier: Classifier, interpreter: Interpreter, images: Tensor, label: Tensor, predicted: Tensor
) -> tuple[Tensor, Tensor]:
    """The maps for the true and for the predicted class; explained twice only where these differ."""
    for_label = interpreter.explain(classifier, images, label).attribution_map
    missed = predicted != label
    for_predicted = for_label.clone()
    if missed.any():
        for_predicted[missed] = interpreter.explain(classifier, images[missed], predicted[missed]).attribution_map
    return for_label, for_predicted


def noise_rows(levels: Sequence[Row], moved: Sequence[Moved]) -> list[Row]:
    """One row per level and interpreter; a pure function of what all processes measured, in whatever order.

    ``n`` images count, ``invalid`` ones gave NaN or infinity; the means are None where none counts. Images whose two
    maps are both empty have no IoU and are not in its mean: ``empty`` of them for the true class, ``empty_predicted``.
    """
    rows: list[Row] = []
    for interpreter, place in moved[0]:
        values = [row for part in moved for row in part[interpreter, place]]
        fine = [row for row in values if not any(map(math.isnan, (row[0], row[2])))]  # the two L1
        row = {"interpreter": interpreter, "kind": levels[place]["kind"], "rate": levels[place]["rate"]}
        row |= {"n": len(fine), "invalid": len(values) - len(fine)}
        for name, column in zip(METRICS, zip(*fine, strict=True) if fine else [[]] * len(METRICS), strict=True):
            row[name] = mean_of(column)
            if name.startswith("iou"):
                row[name.replace("iou", "empty")] = len(fine) - len(defined(column))
        rows.append(row)
    return rows


def write_noise(folder: Path, levels: Sequence[Row], rows: Sequence[Row]) -> None:
    """Write ``noise.json`` (levels, rows) and ``figures/noise.png``."""
    write_json(folder / "noise.json", {"levels": list(levels), "rows": list(rows)})
    draw_noise(folder, rows)


def draw_noise(folder: Path, rows: Sequence[Row]) -> None:
    """Draw ``figures/noise.png``, if there are images."""
    some = any(row["n"] for row in rows)
    draw(folder / "figures" / "noise.png", lambda: noise_figure(rows) if some else None)


def noise_figure(rows: Sequence[Row]) -> Figure:
    """Bars of map L1 and IoU per interpreter under each kind and rate of noise, for the true class."""
    interpreters = list(dict.fromkeys(row["interpreter"] for row in rows))
    labels = list(dict.fromkeys((row["kind"], row["rate"]) for row in rows))
    highest, width = max(rate for _, rate in labels), 0.8 / len(labels)
    places = len(interpreters) * (len(labels) + 1)
    figure = Figure((min(16.0, max(6.0, 1.2 + 0.42 * places)), 5.6), layout="constrained")
    figure.suptitle("Benign maps under plain noise, for the true class", fontsize=12, fontweight="bold")
    both = figure.subplots(2, 1)
    for axis, (metric, name) in zip(both, (("l1", "map L1"), ("iou", "map IoU")), strict=True):
        for j, label in enumerate(labels):
            found = {row["interpreter"]: row for row in rows if (row["kind"], row["rate"]) == label}
            shown = {i: found[one] for i, one in enumerate(interpreters) if found[one][metric] is not None}
            drawn = axis.bar(
                [i + (j - (len(labels) - 1) / 2) * width for i in shown],
                [row[metric] for row in shown.values()], width * 0.92,
                label=f"{label[0]}, {label[1]:.0%} wrong", color=_COLOURS[label[0]],
                alpha=1.0 if label[1] == highest else 0.5,
            )  # fmt: skip
            texts = [iou_label(row) if metric == "iou" else f"{row[metric]:.2f}" for row in shown.values()]
            axis.bar_label(drawn, texts, fontsize=7)
        axis.set_xticks(range(len(interpreters)), [one.upper() for one in interpreters], fontsize=8)
        axis.set_ylabel(name)
        axis.spines[["top", "right"]].set_visible(False)
    both[1].set_ylim(0, 1.05)
    handles, names = both[0].get_legend_handles_labels()
    figure.legend(handles, names, loc="outside lower center", ncols=min(len(names), 4), fontsize=8, frameon=False)
    return figure


def print_noise(levels: Sequence[Row], rows: Sequence[Row], title: str, console: Console | None = None) -> None:
    """Show rows in the terminal, each with its level."""
    table = Table(title=title, title_justify="left", title_style="bold", header_style="bold")
    for heading in ("interpreter", "noise"):
        table.add_column(heading)
    numbers = ("asked", "wrong", "level x255", "images", "map L1", "map IoU", "L1 predicted", "IoU predicted")
    for heading in numbers:
        table.add_column(heading, justify="right")
    by_name = {(level["kind"], level["rate"]): level for level in levels}
    previous = None
    for row in rows:
        if previous not in (None, row["interpreter"]):
            table.add_section()
        previous = row["interpreter"]
        level = by_name[row["kind"], row["rate"]]
        cells = [row["interpreter"], row["kind"], f"{row['rate']:.1%}"]
        cells += (
            ["-", "-"] if level["level"] is None else [f"{level['rate_reached']:.1%}", f"{level['level'] * 255:.1f}"]
        )
        cells += [str(row["n"]), *(_cell(row, name) for name in METRICS)]
        table.add_row(*cells)
    some = any(row.get("empty") or row.get("empty_predicted") for row in rows)
    show(Group(table, *[Text(OVER, style="dim")] * some), console)


def _cell(row: Row, name: str) -> str:
    if row[name] is None:
        return "-"
    empty = row.get(name.replace("iou", "empty"), 0) if name.startswith("iou") else 0  # older files do not count them
    return over(f"{row[name]:.3f}", row["n"] - empty, row["n"])
