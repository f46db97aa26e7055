"""Curves: how much perturbation, and how many steps, does the attack need?"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

from matplotlib.figure import Figure

from lightning_adv2.files.run import record_paths
from lightning_adv2.functional.bootstrap import bootstrap_interval, share_interval
from lightning_adv2.report.bars import by_interpreter
from lightning_adv2.report.figures import PALETTE, heading, legend, plain_axis
from lightning_adv2.report.findings import Findings
from lightning_adv2.report.table import Column
from lightning_adv2.results.means import defined, mean_of
from lightning_adv2.results.records import Role, read_record, record_key
from lightning_adv2.results.run import Run
from lightning_adv2.results.summary import Row
from lightning_adv2.runtime.processes import on_rank_zero
from lightning_adv2.studies.base import Study
from lightning_adv2.studies.subject import Subject

_METRICS = {"asr": "ASR", "iou": "map IoU", "l1": "map L1"}
_AXES = {"epsilon": ("epsilon x255", 255), "steps": ("gradient steps", 1)}
"""What a curve runs over: label and scale of the axis."""
_STYLES = ("-", "--", "-.", ":")


class AttackCurves(Study):
    """Curves of success and agreement over epsilon and over the number of steps; comes after AttackEvaluation.

    Attacks make a curve when their names are the same but for an ending such as ``-eps4`` or ``-steps50``
    (``adv2-eps4``), their schedule is the same, and they differ in epsilon alone or in the number of steps alone;
    attacks that differ in both make several. The controls, of which nothing can be varied, stand beside, without an
    axis.
    """

    name = "curves"
    title = "Attacks of different strength"
    position = 80
    columns = (
        Column("axis", "curve over", main=True),
        Column("interpreter", main=True),
        Column("attack", main=True),
        Column("schedule"),
        Column("epsilon", "epsilon x255", ".3g", 255),
        Column("steps", "gradient steps", ","),
        Column("n", "images", ","),
        Column("asr", "ASR", ".3f", interval=True, main=True),
        Column("iou", "map IoU", ".3f", interval=True, empty="empty", main=True),
        Column("l1", "map L1", ".3f", interval=True),
    )
    keys = ("axis", "attack", "interpreter")
    logged = tuple(_METRICS)
    reads = "files"

    def check(self, subject: Subject) -> None:
        """Check that the attacks make a curve.

        Raises:
            ValueError: no two attacks do.
        """
        found: list[Setting] = []
        for interpreter in subject.interpreters:
            attacks = subject.evaluation.attacks_on(interpreter)
            found = [
                Setting(
                    one.name, one.schedule, "joint" if one.needs_map else "class", one.perturbation.threat_model,
                    getattr(one.perturbation, "epsilon", None), one.steps,
                )
                for one in attacks
            ]  # fmt: skip
            if find_curves(found):
                return
        raise ValueError(
            f"attacks: {', '.join(one.attack for one in found)} make no curve; AttackCurves needs attacks of one "
            "schedule that differ in epsilon alone or in steps alone and are named so, such as adv2-eps4 and "
            "adv2-eps8, or adv2-steps50 and adv2-steps100"
        )

    def conclude(self, observed: Sequence[Any], subject: Subject) -> Findings:
        """Summarise on one process what AttackEvaluation has read there."""
        return on_rank_zero(subject.trainer, lambda: self.summarise(observed, subject))

    def summarise(self, observed: Sequence[Any], subject: Subject) -> Findings:
        """One row per point of a curve, and one per control."""
        run = subject.evaluation.run
        assert run is not None  # it has come to its end before
        return Findings(curve_rows(run))

    @classmethod
    def figure(cls, findings: Findings) -> Figure | None:
        """ASR, map IoU and L1 with their intervals, a row of axes each for epsilon and steps.

        A colour is an interpreter, a line style a family of attacks. Thin lines are the controls: dotted for the noise,
        dash-dotted for the benign image explained for the target class.
        """
        if not any(row["n"] for row in findings.rows if row["axis"]):
            return None
        return curves_figure(findings.rows)


class Setting(NamedTuple):
    """An attack, as far as curves ask; see :class:`~lightning_adv2.results.records.AttackRecord`."""

    attack: str
    schedule: str
    role: Role
    threat_model: str
    epsilon: float | None
    steps: int

    @property
    def family(self) -> str:
        """The name without an ending such as ``-eps4`` or ``-steps50``."""
        return re.sub(r"-(eps|epsilon|steps)-?[\d.]+$", "", self.attack)


def find_curves(settings: Iterable[Setting]) -> list[tuple[str, list[Setting]]]:
    """The attacks that make a curve: those of a family that differ in epsilon alone, and in the number of steps alone.

    Returns:
        ``epsilon`` or ``steps``, and the attacks in the order of that; two or more in each.
    """
    groups: dict[tuple[Any, ...], dict[float, Setting]] = defaultdict(dict)
    for one in settings:
        if one.role != "control":
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
            settings[record.interpreter] = [
                Setting(a.attack, a.schedule, a.role, a.threat_model, a.epsilon, a.steps) for a in record.attacks
            ]
    return settings


def curve_rows(run: Run) -> list[Row]:
    """One row per point of a curve, curves over epsilon first; then one per control.

    ``axis`` is what the curve runs over, ``epsilon`` or ``steps``, and ``value`` the point's, both None for a control;
    the points of a curve share interpreter, ``family``, schedule and the other of epsilon and steps. ``asr``, ``iou``
    and ``l1`` are means with 95% intervals (``iou_low``, ``iou_high``): of ASR Wilson's, of the others by bootstrap
    over images; None without an image. ``empty`` of the ``n`` images have two empty maps, and so no IoU.
    """
    values, settings = _values(run), read_settings(run)
    points = [
        (axis, interpreter, one)
        for interpreter, own in settings.items()
        for axis, curve in find_curves(own)
        for one in curve
    ]
    points.sort(key=lambda point: tuple(_AXES).index(point[0]))
    controls = [(None, name, one) for name, own in settings.items() for one in own if one.role == "control"]
    return [
        {"axis": axis, "value": getattr(one, axis) if axis else None, "interpreter": interpreter, "family": one.family}
        | one._asdict()
        | _point(values[interpreter, one.attack, one.schedule])
        for axis, interpreter, one in [*points, *controls]
    ]


def _values(run: Run) -> dict[tuple[str, str, str], dict[str, list[float]]]:
    """(interpreter, attack, schedule) -> metric -> one value per valid image."""
    values: dict[tuple[str, str, str], dict[str, list[float]]] = defaultdict(lambda: {name: [] for name in _METRICS})
    for image in run.summary.images:
        if image["valid"]:
            own = values[image["interpreter"], image["attack"], image["schedule"]]
            for name, value in zip(_METRICS, (image["success"], image["iou"], image["l1"]), strict=True):
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


def curves_figure(rows: Sequence[Row]) -> Figure:
    """See :meth:`AttackCurves.figure`; the rows are of :func:`curve_rows`, with one curve or more."""
    axes = [axis for axis in _AXES if any(row["axis"] == axis for row in rows)]
    points, controls = [row for row in rows if row["axis"]], [row for row in rows if row["axis"] is None]
    colours = {name: PALETTE[i % len(PALETTE)] for i, name in enumerate(dict.fromkeys(map(by_interpreter, points)))}
    families = list(dict.fromkeys(map(_label, points)))
    figure = Figure((11, 3.2 * len(axes) + 0.8), layout="constrained")
    heading(figure, "Attack success and map agreement (95% intervals)")
    for line, axis in zip(figure.subplots(len(axes), len(_METRICS), squeeze=False), axes, strict=True):
        for plot, (metric, name) in zip(line, _METRICS.items(), strict=True):
            for curve in _curves_over(axis, points):
                label, colour = _label(curve[0]), colours[by_interpreter(curve[0])]
                _draw(plot, curve, metric, _STYLES[families.index(label) % len(_STYLES)], colour)
            for row in controls if metric != "asr" else ():
                if row[metric] is not None and by_interpreter(row) in colours:
                    thin: Any = (0, (6, 2, 1, 2)) if row["threat_model"] == "none" else ":"
                    plot.axhline(row[metric], color=colours[by_interpreter(row)], linewidth=0.9, linestyle=thin)
            title, scale = _AXES[axis]
            ticks = sorted({row["value"] * scale for row in points if row["axis"] == axis})
            plot.set_xscale("log", base=2)
            plot.set_xticks(ticks, [f"{tick:.3g}" for tick in ticks])
            plot.minorticks_off()
            plot.set_xlabel(title)
            plot.set_ylabel(name)
            plot.set_ylim(0, None if metric == "l1" else 1.03)
            plain_axis(plot)
    legend(figure)
    return figure


def _curves_over(axis: str, points: Sequence[Row]) -> list[list[Row]]:
    """The points of each curve over ``epsilon`` or over ``steps``."""
    (fixed,) = (one for one in _AXES if one != axis)
    curves: dict[tuple[Any, ...], list[Row]] = {}
    for row in points:
        if row["axis"] == axis:
            key = tuple(row[name] for name in ("interpreter", "family", "schedule", fixed))
            curves.setdefault(key, []).append(row)
    return list(curves.values())


def _draw(plot: Any, curve: Sequence[Row], metric: str, style: str, colour: str) -> None:
    shown = [row for row in curve if row[metric] is not None]
    x = [row["value"] * _AXES[row["axis"]][1] for row in shown]
    y, low, high = ([row[key] for row in shown] for key in (metric, f"{metric}_low", f"{metric}_high"))
    plot.plot(x, y, style, color=colour, marker="o", markersize=3, linewidth=1.4,
              label=f"{by_interpreter(curve[0])} {_label(curve[0])}")  # fmt: skip
    plot.fill_between(x, low, high, color=colour, alpha=0.13, linewidth=0)


def _label(row: Row) -> str:
    return record_key(row["family"], row["schedule"])
