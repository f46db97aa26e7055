"""Grouped bars: the figure of rows that share a group and differ by a series, such as interpreters under attacks."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, NamedTuple

from matplotlib.figure import Figure

from lightning_adv2.report.figures import PALETTE, heading, legend, plain_axis
from lightning_adv2.results.records import record_key
from lightning_adv2.results.summary import Row

_BY_ROLE = {
    "class": ("#d1495b", "#e07a5f", "#8d5524", "#b56576"),
    "joint": ("#00798c", "#30638e", "#66a182", "#6a4c93", "#2a9d8f", "#457b9d"),
    "control": ("#b0b0b0", "#edae49", "#d9d9d9"),
}


class Metric(NamedTuple):
    """A measure that bars show.

    Attributes:
        key: of the value in a row; where the row has ``<key>_low`` and ``<key>_high``, an interval is drawn, and where
            it has ``<key>_published``, a diamond.
        label: of the axis.
        limit: upper end of the axis; None fits the bars.
        level: a level to mark; None marks none.
        empty: key of the number of images without the value, which the bar's label then says.
    """

    key: str
    label: str
    limit: float | None = None
    level: float | None = None
    empty: str = "empty"


def attack_label(row: Row) -> str:
    """The label of a row's attack: name and schedule, the name alone for a control."""
    return record_key(row["attack"], row["schedule"])


def by_interpreter(row: Row) -> str:
    """The label of a row's interpreter, in capitals."""
    return str(row["interpreter"]).upper()


def colours_of(rows: Iterable[Row], series: Callable[[Row], str] = attack_label) -> dict[str, str]:
    """A colour for each series, by the attack's role: reds for the class alone, blues and greens for class and map.

    Args:
        rows: with ``role``, where the series are attacks.
        series: label of a row's series.
    """
    known: dict[str, str] = {}
    for row in rows:
        name, role = series(row), row.get("role", "")
        if name not in known:
            choice = _BY_ROLE.get(role, PALETTE)
            known[name] = next((colour for colour in choice if colour not in known.values()), choice[0])
    return known


def grouped_bars(
    rows: Sequence[Row],
    metrics: Sequence[Metric],
    title: str,
    *,
    group: Callable[[Row], str] = by_interpreter,
    series: Callable[[Row], str] = attack_label,
    panel: Callable[[Row], str] | None = None,
    colours: Mapping[str, str] | None = None,
) -> Figure:
    """A figure of bars in groups, one axis per metric and panel; numbers stand above the bars where they have room.

    Args:
        rows: flat rows; those without a value of a metric have no bar there.
        metrics: what is measured.
        title: heading; wrapped where it is longer than the figure is wide.
        group: label of a row's group.
        series: label of a row's bar within its group, which the legend explains.
        panel: heading of a row's axis; None draws all rows in one.
        colours: of the series; None takes :func:`colours_of`.
    """
    panels = list(dict.fromkeys(panel(row) for row in rows)) if panel else [""]
    labels = list(dict.fromkeys(map(series, rows)))
    groups = {p: list(dict.fromkeys(group(r) for r in rows if panel is None or panel(r) == p)) for p in panels}
    most, count = max(map(len, groups.values()), default=1), len(panels) * len(metrics)
    across = max(2.6, min(15.0, 0.9 + 0.36 * most * (len(labels) + 1)))  # inches of an axis
    columns = 2 if count > 1 and 2 * across <= 12.5 else 1
    lines = -(-count // columns)
    tilted = max((len(g) for names in groups.values() for g in names), default=0) * 0.09 > 0.92 * across / most
    figure = Figure((max(4.4, columns * across), lines * (3.0 if tilted else 2.6) + 0.9), layout="constrained")
    heading(figure, title)
    colours = colours or colours_of(rows, series)
    axes = list(figure.subplots(lines, columns, squeeze=False).flat)
    for axis, (name, metric) in zip(axes, [(p, m) for p in panels for m in metrics], strict=False):
        shown = [row for row in rows if panel is None or panel(row) == name]
        _bars(axis, shown, metric, groups[name], labels, (group, series), colours, across)
        axis.set_xticks(range(len(groups[name])), groups[name], fontsize=8,
                        **({"rotation": 25, "ha": "right", "rotation_mode": "anchor"} if tilted else {}))  # fmt: skip
        axis.set_title(name, fontsize=9)
    for axis in axes[count:]:
        axis.set_axis_off()
    legend(figure, across * columns)
    return figure


def _bars(
    axis: Any,
    rows: Sequence[Row],
    metric: Metric,
    groups: Sequence[str],
    labels: Sequence[str],
    by: tuple[Callable[[Row], str], Callable[[Row], str]],
    colours: Mapping[str, str],
    inches: float,
) -> None:
    group, series = by
    width = 0.8 / len(labels)
    roomy = inches / max(1, len(groups)) * width >= 0.24  # inches that a number takes
    for j, label in enumerate(labels):
        own = {group(row): row for row in rows if series(row) == label and row.get(metric.key) is not None}
        found = [(i + (j - (len(labels) - 1) / 2) * width, own[one]) for i, one in enumerate(groups) if one in own]
        values = [row[metric.key] for _, row in found]
        ends = [[row.get(f"{metric.key}{end}") for _, row in found] for end in ("_low", "_high")]
        some = found and all(end is not None for side in ends for end in side)
        spread = [[max(0.0, abs(v - e)) for v, e in zip(values, side, strict=True)] for side in ends] if some else None
        drawn = axis.bar([x for x, _ in found], values, width * 0.92, yerr=spread, error_kw={"linewidth": 0.8},
                         label=label, color=colours[label])  # fmt: skip
        if roomy:
            axis.bar_label(drawn, [_bar_text(row, metric) for _, row in found], fontsize=7, padding=1)
        stated = [(x, row[key]) for x, row in found if row.get(key := f"{metric.key}_published") is not None]
        if stated:
            axis.plot(*zip(*stated, strict=True), "D", color="white", markeredgecolor="black", ms=5, label="paper")
    axis.set_xlim(-0.55, len(groups) - 0.45)
    shown = [row[metric.key] for row in rows if row.get(metric.key) is not None]
    lowest, highest = min(shown, default=0.0), metric.limit or max(shown, default=0.0)
    axis.set_ylim(lowest - 0.12 * (highest - lowest) if lowest < 0 else 0, metric.limit)
    axis.set_ylabel(metric.label)
    if metric.level is not None:
        axis.axhline(metric.level, color="black", linewidth=0.8, linestyle=":")
    plain_axis(axis)


def _bar_text(row: Row, metric: Metric) -> str:
    empty = row.get(metric.empty) if "iou" in metric.key else 0
    text = f"{row[metric.key]:.2f}"
    return f"{text}\nn={row['n'] - empty}" if empty else text
