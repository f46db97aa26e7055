"""The paper's proposition 1 on attacked images: from records to rows, table, figure and file."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any, NamedTuple

import torch
from matplotlib.figure import Figure
from rich.console import Console
from rich.table import Table

from lightning_adv2.files import write_json
from lightning_adv2.functional.proposition import judge_bound, prediction_bound
from lightning_adv2.models import Classifier
from lightning_adv2.report.figures import FORMULA
from lightning_adv2.report.harmless import draw
from lightning_adv2.report.old_tables import show
from lightning_adv2.results.records import AttackRecord, BatchRecord, record_key, to_float
from lightning_adv2.results.summary import Row

METRICS = ("held", "violated", "unresolved", "gain", "l1", "slack", "error", "max_error")
"""Of a row: counts of images by verdict, mean gain and L1 norm, how loose the bound is, and how far the sums miss."""

_CHUNK = 32
_COLOURS = ("#d1495b", "#00798c", "#edae49", "#66a182", "#6a4c93", "#8d5524", "#30638e", "#b0b0b0")


class Checked(NamedTuple):
    """One attacked image: both sides of the proposition; ``source`` is empty for an attack that ignores the map."""

    source: str
    place: int
    attack: str
    schedule: str
    batch_index: int
    image_id: str
    gain: float
    total: float
    l1: float


def check_batch(
    classifier: Classifier, records: Mapping[str, BatchRecord], steps: int, device: torch.device
) -> list[Checked]:
    """Both sides of the proposition for every image of one batch under every attack.

    An attack that ignores the map made the same images for all interpreters, and is looked at under the first alone.
    The control that attacks nothing has nothing to gain, and is left out.

    Args:
        classifier: in eval mode.
        records: of the same batch, by interpreter.
        steps: points of the quadrature.
        device: where to compute.
    """
    found: list[Checked] = []
    for number, record in enumerate(records.values()):
        for place, attack in enumerate(record.attacks):
            aimed = attack.needs_map
            if attack.attack != "target_class" and (aimed or not number):
                head = (record.interpreter if aimed else "", place, attack.attack, attack.schedule, record.batch_index)
                found += [Checked(*head, *values) for values in _check(classifier, record, attack, steps, device)]
    return found


def _check(
    classifier: Classifier, record: BatchRecord, attack: AttackRecord, steps: int, device: torch.device
) -> list[tuple[str, float, float, float]]:
    keep = [i for i in range(len(record.image_id)) if bool(attack.valid[i])]
    rows: list[tuple[str, float, float, float]] = []
    for start in range(0, len(keep), _CHUNK):
        part = keep[start : start + _CHUNK]
        images, adv_images = (to_float(pixels[part]).to(device) for pixels in (record.images, attack.adv_images))
        target_class = record.target_class[part].to(device)
        bound = prediction_bound(classifier, images, adv_images, target_class, steps=steps)
        rows += zip([record.image_id[i] for i in part], *(side.tolist() for side in bound), strict=True)
    return rows


def proposition_images(checked: Iterable[Checked], interpreters: Sequence[str], tolerance: float) -> list[Row]:
    """One row per image and attack, in the order of the attacks; an image that comes twice counts once.

    ``error`` is by how much the difference map's sum misses the gain, ``slack`` the L1 norm over the gain (None where
    nothing is gained beyond ``tolerance``).
    """
    once: dict[tuple[Any, ...], Checked] = {}
    order = {name: place for place, name in enumerate(["", *interpreters])}
    for one in sorted(checked, key=lambda c: (order[c.source], c.place, c.batch_index, c.image_id)):
        once.setdefault((one.source, one.place, one.image_id), one)
    return [
        {
            "interpreter": one.source or None,
            "attack": one.attack,
            "schedule": one.schedule,
            "image_id": one.image_id,
            "gain": one.gain,
            "l1": one.l1,
            "error": one.gain - one.total,
            "slack": one.l1 / one.gain if one.gain > tolerance else None,
            "verdict": judge_bound(one.gain, one.total, one.l1, tolerance),
        }
        for one in once.values()
    ]


def proposition_rows(images: Sequence[Row]) -> list[Row]:
    """One row per attack and, where it aims at a map, interpreter (else None): ``n`` and ``METRICS``.

    ``slack`` is the median of the images that have one, ``error`` the mean and ``max_error`` the largest of the
    absolute errors; None where there is no number to take. Sums are exact, so that no order shows.
    """
    groups: dict[tuple[Any, ...], list[Row]] = {}
    for image in images:
        groups.setdefault((image["interpreter"], image["attack"], image["schedule"]), []).append(image)
    rows: list[Row] = []
    for (interpreter, attack, schedule), own in groups.items():
        verdicts = Counter(image["verdict"] for image in own)
        errors = [abs(image["error"]) for image in own]
        row: Row = {"interpreter": interpreter, "attack": attack, "schedule": schedule, "n": len(own)}
        row |= {verdict: verdicts[verdict] for verdict in METRICS[:3]}
        row |= {name: _mean([image[name] for image in own]) for name in ("gain", "l1")}
        slacks = [image["slack"] for image in own if image["slack"] is not None and math.isfinite(image["slack"])]
        row["slack"] = median(slacks) if slacks else None
        row |= {"error": _mean(errors), "max_error": max(filter(math.isfinite, errors), default=None)}
        rows.append(row)
    return rows


def _mean(values: Sequence[float]) -> float | None:
    fine = [value for value in values if math.isfinite(value)]
    return math.fsum(fine) / len(fine) if fine else None


def write_proposition(folder: Path, images: Sequence[Row], rows: Sequence[Row], steps: int, tolerance: float) -> None:
    """Write ``proposition.json`` (settings, rows, images) and, if there are rows, ``figures/proposition.png``."""
    settings = {"steps": steps, "tolerance": tolerance}
    finite = [{key: _or_none(value) for key, value in image.items()} for image in images]
    write_json(folder / "proposition.json", settings | {"rows": list(rows), "images": finite})
    draw_proposition(folder, finite)


def draw_proposition(folder: Path, images: Sequence[Row]) -> None:
    """Draw ``figures/proposition.png``, if there are images."""
    draw(folder / "figures" / "proposition.png", lambda: proposition_figure(images) if images else None)


def _or_none(value: Any) -> Any:
    return None if isinstance(value, float) and not math.isfinite(value) else value


def proposition_figure(images: Sequence[Row]) -> Figure:
    """Every attacked image: prediction gain against the map's L1 norm; nothing may lie below the diagonal."""
    groups: dict[str, list[tuple[float, float]]] = {}
    for image in images:
        gain, l1 = _or_none(image["gain"]), _or_none(image["l1"])
        if gain is not None and l1 is not None:
            groups.setdefault(_label(image), []).append((gain, l1))
    figure = Figure((10.5, 4.4), layout="constrained")
    figure.suptitle("Proposition 1: prediction gain is at most the difference map's L1", fontsize=12, fontweight="bold")
    scatter, strips = figure.subplots(1, 2, sharey=True)
    for number, (label, points) in enumerate(groups.items()):
        gain, l1 = zip(*points, strict=True)
        style: dict[str, Any] = {"s": 16, "alpha": 0.7, "linewidths": 0, "color": _COLOURS[number % len(_COLOURS)]}
        scatter.scatter(gain, l1, label=label, **style)
        # Beside one another, for successful attacks all gain nearly 1.
        spread = [number + 0.5 * (i / max(1, len(l1) - 1) - 0.5) for i in range(len(l1))]
        strips.scatter(spread, l1, **style)
        strips.hlines(math.fsum(gain) / len(gain), number - 0.35, number + 0.35, color="black", linewidth=1.2)
    line = [1e-6 * 10 ** (6 * i / 100) for i in range(101)]
    scatter.fill_between(line, line, 1e-9, color="0.9", linewidth=0, label="ruled out")
    scatter.plot(line, line, color="black", linewidth=0.8)
    highest = max((l1 for points in groups.values() for _, l1 in points), default=1.0)
    scatter.set(xlim=(-0.05, 1.05), ylim=(0.01, 2 * max(1.0, highest)), yscale="log")
    scatter.yaxis.set_major_formatter("{x:g}")
    scatter.yaxis.set_minor_formatter("")
    scatter.set_xlabel(r"prediction gain $f_{c_t}(x^*) - f_{c_t}(x_0)$", gid=FORMULA)
    scatter.set_ylabel(r"$\|\Delta m\|_1$", gid=FORMULA)
    strips.set_xticks(range(len(groups)), list(groups), fontsize=8, rotation=20, ha="right")
    strips.set_title("by attack; the bar is the mean gain", fontsize=8)
    for axis in (scatter, strips):
        axis.spines[["top", "right"]].set_visible(False)
    scatter.legend(loc="lower center", fontsize=8, frameon=False)
    return figure


def _label(row: Row) -> str:
    key = record_key(row["attack"], row["schedule"])
    return f"{row['interpreter'].upper()} {key}" if row["interpreter"] else key


def print_proposition(rows: Sequence[Row], steps: int, tolerance: float, console: Console | None = None) -> None:
    """One line per attack in the terminal; what does not hold in red."""
    title = f"Proposition 1: gain <= L1 of the difference map ({steps} points, tolerance {tolerance:g})"
    table = Table(title=title, title_justify="left", title_style="bold", header_style="bold")
    for heading in ("interpreter", "attack"):
        table.add_column(heading)
    for heading in ("images", *METRICS[:3], "gain", "L1", "L1 / gain", "error", "largest"):
        table.add_column(heading, justify="right")
    form = partial(_format, digits=4)
    for row in rows:
        cells = [row["interpreter"] or "-", record_key(row["attack"], row["schedule"]), str(row["n"])]
        cells += [str(row[verdict]) for verdict in METRICS[:3]]
        cells += [_format(row["gain"]), _format(row["l1"]), _format(row["slack"], 1)]
        table.add_row(*cells, form(row["error"]), form(row["max_error"]), style="red" if row["violated"] else "")
    show(table, console)


def _format(value: float | None, digits: int = 3) -> str:
    return "-" if value is None else f"{value:.{digits}f}"
