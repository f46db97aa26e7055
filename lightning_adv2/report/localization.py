"""Localisation: what was found, as file, table, figure and part of a page."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

from rich.console import Console
from rich.table import Table
from torch import Tensor

from lightning_adv2.files import write_json
from lightning_adv2.metrics.localization import (
    CANDIDATES,
    Image,
    Located,
    baselines,
    calibrates,
    choose,
    evaluate,
    images_of,
)
from lightning_adv2.report.harmless import SAME, draw
from lightning_adv2.report.localization_figure import localization_figure
from lightning_adv2.report.old_tables import show
from lightning_adv2.results.summary import Row
from lightning_adv2.results.tables import write_csv

STATUSES = ("located", "misclassified", "without_object", "too_large")
"""What became of an image: explained; or left out, and why."""

IMAGE_KEYS = (
    "interpreter", "image_id", "part", "rule", "alpha", "xmin", "ymin", "xmax", "ymax", "iou", "correct",
    "mask_iou", "pointing", "energy_inside",
)  # fmt: skip


@dataclass
class Tally:
    """What became of the images that a process saw.

    Attributes:
        status: identifier -> number of one of ``STATUSES``.
        size: H, W of the images; zeros before the first.
    """

    status: dict[str, int] = field(default_factory=dict)
    size: tuple[int, int] = (0, 0)

    def add(self, image_id: Sequence[str], status: Sequence[int], size: Sequence[int]) -> None:
        """Count a batch."""
        self.status |= dict(zip(image_id, status, strict=True))
        self.size = (size[0], size[1])

    @classmethod
    def joined(cls, tallies: Iterable[Tally]) -> Tally:
        """That of all processes."""
        whole = cls()
        for one in tallies:
            whole.status |= one.status
            whole.size = max(whole.size, one.size)
        return whole

    def misclassified(self, image_id: Iterable[str]) -> None:
        """Count images that were left out before."""
        self.status |= dict.fromkeys(image_id, STATUSES.index("misclassified"))

    def counts(self) -> dict[str, int]:
        """How many images have each status."""
        numbers = list(self.status.values())
        return {name: numbers.count(i) for i, name in enumerate(STATUSES)}


class Example(NamedTuple):
    """A reported image to show: its place, pixels ``(C, H, W)`` uint8, and each interpreter's map ``(1, h, w)``."""

    batch_index: int
    place: int
    image_id: str
    image: Tensor
    maps: dict[str, Tensor]


class Results(NamedTuple):
    """``localization.json``, and what its figures come from: each interpreter's images and chosen candidate."""

    content: dict[str, Any]
    images: dict[str, list[Image]]
    chosen: dict[str, int | None]


def localization_results(
    parts: Mapping[str, Sequence[Located]], tally: Tally, settings: Mapping[str, float]
) -> Results:
    """From what all processes found, in whatever order, to rows: one per interpreter, then one per baseline.

    Args:
        parts: of each interpreter.
        tally: of all images.
        settings: ``calibration`` and ``max_area``.
    """
    share = settings["calibration"]
    images = {name: images_of(own) for name, own in parts.items()}
    rows: list[Row] = []
    chosen: dict[str, int | None] = {}
    tried: dict[str, list[Row]] = {}
    for name, own in images.items():
        row, chosen[name] = evaluate(own, share)
        rows.append({"interpreter": name, **row})
        choice = choose([one for one in own if calibrates(one.image_id, share) and bool(one.iou.isfinite().all())])
        pairs = zip(CANDIDATES, choice.errors, strict=True) if choice else ()
        tried[name] = [{"rule": rule, "alpha": alpha, "error": error} for (rule, alpha), error in pairs]
    first = next(iter(images.values()), [])
    reported = sum(not calibrates(one.image_id, share) for one in first)
    counts = tally.counts() | {"calibration": len(first) - reported, "reported": reported}
    rows += [{"interpreter": name, **row} for name, row in baselines(first, tally.size, share).items()]
    content = {"settings": dict(settings), "images": counts, "rows": rows, "calibration": tried}
    return Results(content, images, chosen)


def image_rows(results: Results) -> list[Row]:
    """One per interpreter and image: its part, and what the chosen rule makes of it; empty where none was chosen."""
    rows: list[Row] = []
    for name, images in results.images.items():
        best = results.chosen[name]
        rule, alpha = ("", "") if best is None else CANDIDATES[best]
        for one in images:
            part = "calibration" if calibrates(one.image_id, results.content["settings"]["calibration"]) else "reported"
            row: Row = dict.fromkeys(IMAGE_KEYS, "")
            row |= {"interpreter": name, "image_id": one.image_id, "part": part, "rule": rule, "alpha": alpha}
            if best is not None and bool(one.iou.isfinite().all()):
                row |= dict(zip(("xmin", "ymin", "xmax", "ymax"), one.boxes[best].tolist(), strict=True))
                row |= {"iou": float(one.iou[best]), "correct": int(one.iou[best] > 0.5)}
                row |= {"mask_iou": "" if one.mask_iou is None else float(one.mask_iou[best])}
                row |= {"pointing": int(one.pointing), "energy_inside": one.energy}
            rows.append(row)
    return rows


def write_localization(folder: Path, results: Results, examples: Sequence[Example] = ()) -> None:
    """Write ``localization.json``, ``localization.csv`` and, if an image was located, ``figures/localization.png``."""
    write_json(folder / "localization.json", results.content)
    write_csv(image_rows(results), folder / "localization.csv", IMAGE_KEYS)
    rows, pictures = results.content["rows"], [(one.image_id, one.image, one.maps) for one in examples]
    some = any(row["n"] for row in rows)
    draw(
        folder / "figures" / "localization.png",
        lambda: localization_figure(rows, pictures, results.images, results.chosen) if some else None,
        SAME,
    )


_COLUMNS = (
    "interpreter", "images", "error", "95% interval", "rule", "alpha", "error, calibration", "box IoU", "mask IoU",
    "pointing", "energy inside",
)  # fmt: skip


def _cells(row: Row) -> tuple[str, ...]:
    def text(key: str, form: str) -> str:
        value = row.get(key)
        return "-" if value is None else form.format(value)

    interval = "-" if row["low"] is None else f"{row['low']:.1%} - {row['high']:.1%}"
    cells = [row["interpreter"], str(row["n"]), text("error", "{:.1%}"), interval, text("rule", "{}")]
    cells += [text("alpha", "{:g}"), text("calibration_error", "{:.1%}"), text("iou", "{:.3f}")]
    return (*cells, text("mask_iou", "{:.3f}"), text("pointing", "{:.1%}"), text("energy_inside", "{:.3f}"))


def _note(content: Mapping[str, Any]) -> str:
    images = content["images"]
    left_out = ", ".join(f"{images[name]} {name.replace('_', ' ')}" for name in STATUSES[1:])
    return (
        f"A box is right when its IoU is above 0.5. Rule and alpha are chosen on {images['calibration']} other images "
        f"than the {images['reported']} reported. Left out: {left_out} (a box over "
        f"{content['settings']['max_area']:.0%} of the image)."
    )


def print_localization(content: Mapping[str, Any], console: Console | None = None) -> None:
    """The table in the terminal, baselines dimmed."""
    table = Table(title="Localisation error", title_justify="left", title_style="bold", header_style="bold")
    table.caption, table.caption_justify = _note(content), "left"
    for i, name in enumerate(_COLUMNS):
        table.add_column(name, justify="left" if i in (0, 4) else "right")
    for row in content["rows"]:
        table.add_row(*_cells(row), style="" if "rule" in row else "dim")
    show(table, console)
