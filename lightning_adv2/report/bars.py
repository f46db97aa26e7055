"""Grouped bars: the figure of rows that share a group and differ by a series, such as interpreters under attacks."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, NamedTuple

from matplotlib.figure import Figure

from lightning_adv2.report.figures import PALETTE, heading, legend, plain_axis
from lightning_adv2.report.table import Column
from lightning_adv2.results.means import over_below
from lightning_adv2.results.records import record_key
from lightning_adv2.results.summary import Row

_BY_ROLE = {
    "class": ("#d1495b", "#e07a5f", "#8d5524", "#b56576"),
    "joint": ("#00798c", "#30638e", "#66a182", "#6a4c93", "#2a9d8f", "#457b9d"),
    "control": ("#b0b0b0", "#edae49", "#d9d9d9"),
}

_CHARACTER = 0.06
"""Inches that a character of a bar's number takes."""


class Metric(NamedTuple):
    """A measure that bars show.

    Attributes:
        column: names the value in a row, the label of the axis and the format of the numbers; a number says over how
            many images the mean is, where some have no value. Where the row has ``<key>_low`` and ``<key>_high``, an
            interval is drawn, and where it has ``<key>_published``, a diamond.
        limit: upper end of the axis, if all bars and intervals are lower; None fits them.
        level: a level to mark; None marks none.
    """

    column: Column
    limit: float | None = None
    level: float | None = None

    def value(self, row: Row, end: str = "") -> float | None:
        """The value of a row under the key with this ending, such as ``_low``, scaled; None where it has none."""
        value = row.get(self.column.key + end)
        return None if value is None else value * self.column.scale

    def ends(self, row: Row) -> tuple[float, float]:
        """The interval of a row with a value; without an interval, the value twice."""
        value, low, high = (self.value(row, end) for end in ("", "_low", "_high"))
        assert value is not None
        return min(value, value if low is None else low), max(value, value if high is None else high)

    def text(self, row: Row) -> str:
        """The number of a bar."""
        return over_below(self.column.number(row[self.column.key]), *self.column.counted(row))


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
    shown = [row for row in rows if metric.value(row) is not None]
    texts = [metric.text(row) for row in shown]
    width = 0.8 / len(labels)
    needed = _CHARACTER * max((len(line) for text in texts for line in text.split("\n")), default=0)
    roomy = inches / max(1, len(groups)) * width >= needed
    for j, label in enumerate(labels):
        own = {group(row): row for row in shown if series(row) == label}
        found = [(i + (j - (len(labels) - 1) / 2) * width, own[one]) for i, one in enumerate(groups) if one in own]
        values, ends = [metric.value(row) or 0.0 for _, row in found], [metric.ends(row) for _, row in found]
        spread = [[v - low for v, (low, _) in zip(values, ends, strict=True)],
                  [high - v for v, (_, high) in zip(values, ends, strict=True)]]  # fmt: skip
        drawn = axis.bar([x for x, _ in found], values, width * 0.92, yerr=spread if any(map(any, spread)) else None,
                         error_kw={"linewidth": 0.8}, label=label, color=colours[label])  # fmt: skip
        if roomy:
            axis.bar_label(drawn, [metric.text(row) for _, row in found], fontsize=7, padding=1)
        stated = [(x, value) for x, row in found if (value := metric.value(row, "_published")) is not None]
        if stated:
            axis.plot(*zip(*stated, strict=True), "D", color="white", markeredgecolor="black", ms=5, label="paper")
    axis.set_xlim(-0.55, len(groups) - 0.45)
    axis.set_ylim(*_limits(shown, metric, max((text.count("\n") + 1 for text in texts), default=0) if roomy else 0))
    axis.set_ylabel(metric.column.title)
    if metric.level is not None:
        axis.axhline(metric.level, color="black", linewidth=0.8, linestyle=":")
    plain_axis(axis)


def _limits(rows: Sequence[Row], metric: Metric, lines: int) -> tuple[float, float]:
    """The ends of the axis: zero, every bar, interval and published value, and room for numbers of so many lines."""
    stated = [value for row in rows if (value := metric.value(row, "_published")) is not None]
    seen = [0.0, *stated, *(end for row in rows for end in metric.ends(row))]
    lowest, highest, room = min(seen), max(seen), max(0.05, 0.09 * lines)  # a share of the axis
    limited = metric.limit is not None and highest <= metric.limit
    top = metric.limit if metric.limit is not None and limited else highest
    below, above = room * (lowest < 0), room * (highest > 0 and not limited)
    height = (top - lowest) / (1 - below - above)
    return (lowest - below * height, top + above * height) if height else (0.0, 1.0)
