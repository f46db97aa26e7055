"""How an interpreter's benign maps fared while it was trained: files and figure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure

from lightning_adv2.files import write_json
from lightning_adv2.metrics.quality import BETTER_HIGH, BETTER_LOW
from lightning_adv2.report.harmless import SAME, draw

_LIMIT = {"color": "#d1495b", "linewidth": 1.0, "linestyle": "--"}


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
    figure = Figure(figsize=(11, 3.4), layout="constrained")
    figure.suptitle(f"{name.upper()}: benign maps against the teacher's", fontsize=12, fontweight="bold")
    distance, loss, measures = figure.subplots(1, 3)

    def draw(axis: Any, key: str, label: str) -> Any:
        return axis.plot(steps, [one.get(key, float("nan")) for one in validations], marker=".", label=label)[0]

    for key, label in (("agreement_l1", "true class"), ("agreement_l1_other_class", "another class")):
        draw(distance, key, label)
    distance.axhline(limits["agreement_l1"], label="limit", **_LIMIT)
    distance.set_ylabel("map L1 to the teacher")
    draw(loss, "lost", "largest loss")
    loss.axhline(limits["lost"], label="limit", **_LIMIT)
    loss.set_ylabel("relative to the teacher")
    for key in (*BETTER_HIGH, *BETTER_LOW):
        if key in teacher:
            line = draw(measures, key, key.replace("_", " "))
            measures.axhline(teacher[key], color=line.get_color(), linewidth=0.9, linestyle=":")
    measures.set_ylabel("measure (dotted: teacher)")
    for axis in (distance, loss, measures):
        axis.set_xlabel("step")
        axis.spines[["top", "right"]].set_visible(False)
        axis.legend(fontsize=7, frameon=False)
        broken = [one["step"] for one in validations if not one["held"]]
        for step in broken:
            axis.axvline(step, color=_LIMIT["color"], alpha=0.2, linewidth=3)
    return figure
