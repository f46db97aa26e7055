"""Success and agreement against epsilon and against the number of steps: curves, table, figure and file."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from matplotlib.figure import Figure
from rich.console import Console, Group
from rich.table import Table
from rich.text import Text

from lightning_adv2.files import write_json
from lightning_adv2.files.run import record_paths
from lightning_adv2.functional.bootstrap import bootstrap_interval, share_interval
from lightning_adv2.report.harmless import draw
from lightning_adv2.report.old_tables import show
from lightning_adv2.results.means import OVER, defined, mean_of, over
from lightning_adv2.results.records import read_record, record_key
from lightning_adv2.results.run import Run
from lightning_adv2.results.summary import Row

METRICS = ("asr", "iou", "l1")
_AXES = {"epsilon": "epsilon x255", "steps": "gradient steps"}
_COLOURS = ("#00798c", "#d1495b", "#edae49", "#66a182", "#6a4c93", "#8d5524", "#30638e", "#b0b0b0")
_STYLES = ("-", "--", "-.", ":")


class Setting(NamedTuple):
    """An attack, as far as curves ask: ``family`` is its name without an ending such as ``-eps4`` or ``-steps50``."""

    family: str
    schedule: str
    epsilon: float | None
    steps: int
    attack: str


def setting(attack: str, schedule: str, epsilon: float | None, steps: int) -> Setting:
    """The setting of an attack; ``adv2-eps4`` and ``adv2-steps50`` are of the family ``adv2``."""
    return Setting(re.sub(r"-(eps|epsilon|steps)-?[\d.]+$", "", attack), schedule, epsilon, steps, attack)


def find_curves(settings: Iterable[Setting]) -> list[tuple[str, list[Setting]]]:
    """Which attacks make a curve: those of a family that differ in epsilon alone, and in the number of steps alone.

    Returns:
        ``epsilon`` or ``steps``, and the attacks in the order of that; two or more in each.
    """
    groups: dict[tuple[Any, ...], dict[float, Setting]] = defaultdict(dict)
    for one in settings:
        if one.schedule != "control":
            if one.epsilon is not None:
                groups["epsilon", one.family, one.schedule, one.steps].setdefault(one.epsilon, one)
            groups["steps", one.family, one.schedule, one.epsilon].setdefault(one.steps, one)
    found = [(key[0], [own[value] for value in sorted(own)]) for key, own in groups.items() if len(own) > 1]
    return sorted(found, key=lambda curve: tuple(_AXES).index(curve[0]))


def read_settings(run: Run) -> dict[str, list[Setting]]:
    """The attacks of a run by interpreter, from the first record of each that has some."""
    settings: dict[str, list[Setting]] = {}
    for path in record_paths(run.folder / "records"):
        if path.parent.name not in settings and (record := read_record(path)).attacks:
            settings[record.interpreter] = [setting(a.attack, a.schedule, a.epsilon, a.steps) for a in record.attacks]
    return settings


def curve_rows(run: Run) -> list[Row]:
    """One row per curve: ``axis``, ``interpreter``, ``family``, ``schedule``, ``epsilon``, ``steps``, ``points``.

    That of ``epsilon`` and ``steps`` which the curve runs over is None. A point has ``value``, ``attack``, ``n`` and,
    for each of ``METRICS``, mean and 95% interval (``iou``, ``iou_low``, ``iou_high``): of ASR Wilson's, of the others
    by bootstrap over images; None without an image. ``empty`` of the n images have two empty maps, and so no IoU.
    """
    values = _values(run)
    rows: list[Row] = []
    for interpreter, settings in read_settings(run).items():
        for axis, own in find_curves(settings):
            row: Row = {"axis": axis, "interpreter": interpreter, "family": own[0].family, "schedule": own[0].schedule}
            row |= {name: None if name == axis else getattr(own[0], name) for name in _AXES}
            row["points"] = [
                {"value": getattr(one, axis), "attack": one.attack, **_point(values[interpreter, one[4], one[1]])}
                for one in own
            ]
            rows.append(row)
    return sorted(rows, key=lambda row: tuple(_AXES).index(row["axis"]))


def control_rows(run: Run) -> list[Row]:
    """The controls, which no setting of an attack changes: ``interpreter``, ``attack``, ``epsilon`` and a point."""
    values = _values(run)
    return [
        {"interpreter": interpreter, "attack": one.attack, "epsilon": one.epsilon}
        | _point(values[interpreter, one.attack, one.schedule])
        for interpreter, settings in read_settings(run).items()
        for one in settings
        if one.schedule == "control"
    ]


def _values(run: Run) -> dict[tuple[str, str, str], dict[str, list[float]]]:
    """(interpreter, attack, schedule) -> metric -> one value per valid image."""
    values: dict[tuple[str, str, str], dict[str, list[float]]] = defaultdict(lambda: {name: [] for name in METRICS})
    for image in run.summary.images:
        if image["valid"]:
            own = values[image["interpreter"], image["attack"], image["schedule"]]
            for name, value in zip(METRICS, (image["success"], image["iou"], image["l1"]), strict=True):
                own[name].append(float(value))
    return values


def _point(values: dict[str, list[float]]) -> Row:
    n = len(values["asr"])
    point: Row = {"n": n, "empty": n - len(defined(values["iou"]))}
    for name, own in values.items():
        fine = defined(own)
        low, high = share_interval(int(sum(own)), n) if name == "asr" else bootstrap_interval(fine)
        point |= {name: mean_of(fine), f"{name}_low": low if fine else None, f"{name}_high": high if fine else None}
    return point


def write_curves(folder: Path, curves: Sequence[Row], controls: Sequence[Row]) -> None:
    """Write ``curves.json`` (curves, controls) and, if there is a curve with images, ``figures/curves.png``."""
    write_json(folder / "curves.json", {"curves": list(curves), "controls": list(controls)})
    draw_curves(folder, curves, controls)


def draw_curves(folder: Path, curves: Sequence[Row], controls: Sequence[Row]) -> None:
    """Draw ``figures/curves.png``, if there is a curve with images."""
    some = any(point["n"] for curve in curves for point in curve["points"])
    draw(folder / "figures" / "curves.png", lambda: curves_figure(curves, controls) if some else None)


def curves_figure(curves: Sequence[Row], controls: Sequence[Row]) -> Figure:
    """ASR, map IoU and L1 with their intervals, a row of axes each for epsilon and steps.

    A colour is an interpreter, a line style a family. Thin lines are the controls: dotted for the noise, dash-dotted
    for the benign image explained for the target class.
    """
    axes = [axis for axis in _AXES if any(curve["axis"] == axis for curve in curves)]
    interpreters = list(dict.fromkeys(curve["interpreter"] for curve in curves))
    colours = {name: _COLOURS[i % len(_COLOURS)] for i, name in enumerate(interpreters)}
    families = list(dict.fromkeys(_label(curve) for curve in curves))
    figure = Figure((11, 3.2 * len(axes) + 0.8), layout="constrained")
    figure.suptitle("Attack success and map agreement (95% intervals)", fontsize=12, fontweight="bold")
    for line, axis in zip(figure.subplots(len(axes), 3, squeeze=False), axes, strict=True):
        own = [curve for curve in curves if curve["axis"] == axis]
        for plot, (metric, name) in zip(line, (("asr", "ASR"), ("iou", "map IoU"), ("l1", "map L1")), strict=True):
            for curve in own:
                points = [point for point in curve["points"] if point[metric] is not None]
                scale = 255 if axis == "epsilon" else 1
                x, y, low, high = (
                    [p[key] for p in points] for key in ("value", metric, f"{metric}_low", f"{metric}_high")
                )
                style, colour = _STYLES[families.index(_label(curve)) % len(_STYLES)], colours[curve["interpreter"]]
                x = [value * scale for value in x]
                plot.plot(x, y, style, color=colour, marker="o", markersize=3, linewidth=1.4,
                          label=f"{curve['interpreter'].upper()} {_label(curve)}")  # fmt: skip
                plot.fill_between(x, low, high, color=colour, alpha=0.13, linewidth=0)
            for control in controls:
                if metric != "asr" and control[metric] is not None and control["interpreter"] in colours:
                    thin: Any = ":" if control["attack"] == "noise" else (0, (6, 2, 1, 2))
                    plot.axhline(control[metric], color=colours[control["interpreter"]], linewidth=0.9, linestyle=thin)
            plot.set_xscale("log", base=2)
            ticks = sorted({p["value"] * (255 if axis == "epsilon" else 1) for curve in own for p in curve["points"]})
            plot.set_xticks(ticks, [f"{tick:.3g}" for tick in ticks])
            plot.minorticks_off()
            plot.set_xlabel(_AXES[axis])
            plot.set_ylabel(name)
            plot.set_ylim(0, None if metric == "l1" else 1.03)
            plot.spines[["top", "right"]].set_visible(False)
    handles = {label: h for plot in figure.axes for h, label in zip(*plot.get_legend_handles_labels(), strict=True)}
    figure.legend(handles.values(), handles, loc="outside lower center", ncols=4, fontsize=8, frameon=False)
    return figure


def _label(curve: Row) -> str:
    return record_key(curve["family"], curve["schedule"])


def print_curves(curves: Sequence[Row], controls: Sequence[Row], console: Console | None = None) -> None:
    """A table per axis in the terminal, one line per point, with its interval."""
    for axis, heading in _AXES.items():
        own = [curve for curve in curves if curve["axis"] == axis]
        if not own:
            continue
        table = Table(title=f"Against {heading}", title_justify="left", title_style="bold", header_style="bold")
        for name in ("interpreter", "attack"):
            table.add_column(name)
        for name in (heading, "images", "ASR", "map IoU", "map L1"):
            table.add_column(name, justify="right")
        for curve in own:
            for point in curve["points"]:
                value = f"{point['value'] * 255:.3g}" if axis == "epsilon" else str(point["value"])
                table.add_row(curve["interpreter"], _label(curve), value, *_cells(point))
            table.add_section()
        for control in controls:
            table.add_row(control["interpreter"], control["attack"], "-", *_cells(control), style="dim")
        points = [*controls, *(point for curve in own for point in curve["points"])]
        show(Group(table, *[Text(OVER, style="dim")] * any(point.get("empty") for point in points)), console)


def _cells(point: Row) -> list[str]:
    if not point["n"]:
        return ["0", "-", "-", "-"]
    shown = {m: "-" if point[m] is None else f"{point[m]:.3f} {_interval(point, m)}" for m in METRICS}
    shown["iou"] = over(shown["iou"], point["n"] - point.get("empty", 0), point["n"])  # older files do not count them
    return [str(point["n"]), *shown.values()]


def _interval(point: Row, metric: str) -> str:
    return f"[{point[f'{metric}_low']:.3f}, {point[f'{metric}_high']:.3f}]"
