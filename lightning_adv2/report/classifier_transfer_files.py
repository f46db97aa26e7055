"""Transfer across classifiers, once the rows are there: file, figure and table."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure
from rich.console import Console, Group
from rich.table import Table
from rich.text import Text

from lightning_adv2.files import write_json
from lightning_adv2.report.harmless import draw
from lightning_adv2.report.old_tables import show
from lightning_adv2.results.means import OVER, over
from lightning_adv2.results.records import record_key
from lightning_adv2.results.summary import Row

_COLOURS = ("#30638e", "#d1495b", "#edae49", "#66a182", "#6a4c93", "#8d5524")


def write_classifier_transfer(
    folder: Path, classifiers: Sequence[Row], rows: Sequence[Row], skipped: Sequence[Row]
) -> None:
    """Write ``classifier_transfer.json`` and, if there are rows, ``figures/classifier_transfer.png``.

    Args:
        folder: the run's.
        classifiers: ``name``, ``sha256`` and, but for the attacked one, which comes first, ``asked`` and ``right``: of
            how many images it got how many right when benign.
        rows: see :func:`~lightning_adv2.report.classifier_transfer.transfer_rows`.
        skipped: ``classifier``, ``interpreter``, ``reason``: whose maps are left out.
    """
    content: dict[str, Any] = {"classifiers": list(classifiers), "rows": list(rows), "skipped": list(skipped)}
    write_json(folder / "classifier_transfer.json", content)
    draw_classifier_transfer(folder, rows)


def draw_classifier_transfer(folder: Path, rows: Sequence[Row]) -> None:
    """Draw ``figures/classifier_transfer.png``, if there are rows."""
    path = folder / "figures" / "classifier_transfer.png"
    draw(path, lambda: classifier_transfer_figure(rows) if rows else None)


def classifier_transfer_figure(rows: Sequence[Row]) -> Figure:
    """Bars per interpreter and attack, one per classifier: taken for c_t, not taken for c, and the maps' IoU."""
    groups = list(dict.fromkeys(map(_group, rows)))
    classifiers = list(dict.fromkeys(row["classifier"] for row in rows))
    width = 0.8 / len(classifiers)
    figure = Figure((max(6.4, min(16.0, 1.4 + 0.75 * len(groups))), 7.2), layout="constrained")
    figure.suptitle(f"Images attacked on {classifiers[0]}, seen by others", fontsize=12, fontweight="bold")
    names = (("asr", "taken for c_t"), ("wrong", "not taken for c"), ("iou", "map IoU"))
    all_axes = figure.subplots(3, 1, sharex=True)
    for axis, (metric, label) in zip(all_axes, names, strict=True):
        for j, classifier in enumerate(classifiers):
            own = {groups.index(_group(row)): row[metric] for row in rows if row["classifier"] == classifier}
            shown = {i: value for i, value in own.items() if value is not None}
            drawn = axis.bar(
                [i + (j - (len(classifiers) - 1) / 2) * width for i in shown], list(shown.values()), width * 0.92,
                label=classifier, color=_COLOURS[j % len(_COLOURS)],
            )  # fmt: skip
            axis.bar_label(drawn, fmt="%.2f", fontsize=7)
        axis.set_ylabel(label)
        axis.set_ylim(0, 1.12)
        axis.spines[["top", "right"]].set_visible(False)
    all_axes[-1].set_xticks(range(len(groups)), groups, fontsize=8, rotation=30, ha="right")
    handles, labels = all_axes[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=len(labels), fontsize=8, frameon=False)
    return figure


def _group(row: Row) -> str:
    return f"{row['interpreter'].upper()} {record_key(row['attack'], row['schedule'])}"


def print_classifier_transfer(
    classifiers: Sequence[Row], rows: Sequence[Row], skipped: Sequence[Row], console: Console | None = None
) -> None:
    """One line per interpreter, attack and classifier in the terminal, the attacked one in bold; below, who counts."""
    attacked = classifiers[0]["name"]
    title = f"Images attacked on {attacked}, seen by {', '.join(one['name'] for one in classifiers[1:])}"
    table = Table(title=title, title_justify="left", title_style="bold", header_style="bold")
    for heading in ("interpreter", "attack", "classifier"):
        table.add_column(heading)
    for heading in ("images", "c_t", "not c", "P(c_t)", "map L1", "map IoU", "not c: map L1", "map IoU"):
        table.add_column(heading, justify="right")
    previous = None
    for row in rows:
        if previous not in (None, row["interpreter"]):
            table.add_section()
        previous = row["interpreter"]
        cells = [row["interpreter"], record_key(row["attack"], row["schedule"]), row["classifier"], str(row["n"])]
        cells += [_format(row[name], "{:.1%}") for name in ("asr", "wrong")]
        cells += [_format(row["confidence"], "{:.3f}")]
        for suffix, n in (("", row["maps"]), ("_fooled", row["fooled"])):
            l1, iou = (_format(row[f"{name}{suffix}"], "{:.3f}") for name in ("l1", "iou"))
            cells += [l1, over(iou, n - row.get(f"empty{suffix}", 0), n)]  # older files do not count them
        table.add_row(*cells, style="bold" if row["classifier"] == attacked else "")
    lines = [
        f"{one['name']} gets {one['right']:,} of the {one['asked']:,} attacked images right when benign; only those "
        "count for it" for one in classifiers[1:]
    ]  # fmt: skip
    lines += [OVER] if any(row.get("empty") or row.get("empty_fooled") for row in rows) else []
    lines += [f"No maps by {one['interpreter']} of {one['classifier']}: {one['reason']}" for one in skipped]
    show(Group(table, Text("\n".join(lines), style="dim")), console)


def _format(value: float | None, form: str) -> str:
    return "-" if value is None or not math.isfinite(value) else form.format(value)
