"""How an interpreter's benign maps fared while it was trained: files and figure."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure

from lightning_adv2.files import write_json
from lightning_adv2.metrics.quality import BETTER_HIGH, BETTER_LOW
from lightning_adv2.report.figures import PALETTE, heading, legend, plain_axis
from lightning_adv2.report.harmless import SAME, draw

_LIMIT = PALETTE[0]


def write_benign_quality(folder: Path, content: Mapping[str, Any]) -> None:
    """Write ``benign_quality.json`` and ``figures/benign_quality.png``.

    Args:
        folder: of the run.
        content: ``interpreter``, ``limits`` (``agreement_l1``, ``agreement_l1_other_class``, ``lost``), ``teacher``
            (its measures), ``validations`` (see :class:`~lightning_adv2.modules.BenignQuality`), and what became of
            it.
    """
    write_json(folder / "benign_quality.json", content)
    drawn = (content[key] for key in ("interpreter", "validations", "teacher", "limits"))
    draw(folder / "figures" / "benign_quality.png", lambda: curves(*drawn), SAME)


def curves(
    name: str, validations: Sequence[Mapping[str, Any]], teacher: Mapping[str, float], limits: Mapping[str, float]
) -> Figure:
    """Distance to the teacher's maps, the largest loss, and the measures themselves, over the steps.

    Args:
        name: the interpreter's.
        validations: one per validation.
        teacher: its measures, drawn as dotted lines.
        limits: ``agreement_l1`` and ``lost``, drawn as dashed lines.
    """
    steps = [one["step"] for one in validations]
    figure = Figure(figsize=(11, 3.6), layout="constrained")
    heading(figure, f"{name.upper()}: benign maps against the teacher's")
    distance, loss, measures = figure.subplots(1, 3)
    measured = [key for key in (*BETTER_HIGH, *BETTER_LOW) if key in teacher]
    series = [(distance, "agreement_l1", "L1, true class"), (distance, "agreement_l1_other_class", "L1, another class")]
    series += [(loss, "lost", "largest loss"), *((measures, key, key.replace("_", " ")) for key in measured)]
    for (axis, key, label), colour in zip(series, PALETTE[1:], strict=False):
        values = [one.get(key, math.nan) for one in validations]
        axis.plot(steps, values, marker=".", label=label, color=colour)
        if axis is measures:
            axis.axhline(teacher[key], color=colour, linewidth=0.9, linestyle=":")
    for axis, key in ((distance, "agreement_l1"), (loss, "lost")):
        axis.axhline(limits[key], label="limit", color=_LIMIT, linewidth=1.0, linestyle="--")
    for axis, label in (
        (distance, "map L1 to the teacher"), (loss, "relative to the teacher"), (measures, "measure (dotted: teacher)"),
    ):  # fmt: skip
        axis.set_xlabel("step")
        axis.set_ylabel(label)
        plain_axis(axis)
        for one in validations:
            if not one["held"]:
                axis.axvline(one["step"], color=_LIMIT, alpha=0.2, linewidth=3, label="limit exceeded")
    legend(figure)
    return figure
