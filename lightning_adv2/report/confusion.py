"""A confusion matrix for people: a table on the terminal, a picture, and the figures beside them (Figure 18)."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from matplotlib.figure import Figure
from rich.console import Console
from rich.table import Table
from rich.text import Text
from torch import Tensor

from lightning_adv2.files import write_json
from lightning_adv2.metrics.classification import balanced_accuracy, recall
from lightning_adv2.report.figures import save
from lightning_adv2.report.terminal import show


def confusion_content(counts: Tensor, classes: Sequence[str], stage: str) -> dict[str, Any]:
    """What ``confusion.json`` holds: ``stage``, ``classes``, ``counts`` (rows true, columns predicted), ``images``,
    ``accuracy``, ``balanced_accuracy``, and each class's ``recall`` and ``precision``, None where it is 0/0.

    Args:
        counts: ``(K, K)`` whole numbers.
        classes: K titles.
        stage: test or val.
    """
    counts = counts.cpu()
    total, found = int(counts.sum()), int(counts.trace())
    return {
        "stage": stage,
        "classes": list(classes),
        "counts": counts.tolist(),
        "images": total,
        "accuracy": found / total if total else None,
        "balanced_accuracy": _numbers(balanced_accuracy(counts)[None])[0],
        "recall": _numbers(recall(counts)),
        "precision": _numbers(recall(counts.T)),
    }


def _numbers(values: Tensor) -> list[float | None]:
    return [None if value != value else value for value in values.tolist()]


def write_confusion(folder: Path, content: dict[str, Any]) -> Path:
    """Write ``confusion.json``, whose path comes back, and ``figures/confusion.png``; print the table."""
    write_json(folder / "confusion.json", content)
    save(confusion_figure(content), folder / "figures" / "confusion.png")
    print_confusion(content)
    return folder / "confusion.json"


def confusion_title(content: dict[str, Any]) -> str:
    """The two accuracies and the number of images."""
    accuracy, balanced = (_percent(content[key]) for key in ("accuracy", "balanced_accuracy"))
    return f"Accuracy {accuracy}, balanced {balanced}, {content['images']} {content['stage']} images"


def confusion_figure(content: dict[str, Any]) -> Figure:
    """Counts in cells whose colour is the share of the row: of the images that are of the class.

    Args:
        content: see :func:`confusion_content`.
    """
    counts, classes = torch.tensor(content["counts"]), content["classes"]
    share = counts / counts.sum(1, keepdim=True).clamp(min=1)
    side = 2.6 + 0.62 * len(classes)
    figure = Figure(figsize=(side + 1.2, side), layout="constrained")
    figure.suptitle(confusion_title(content), fontsize=11, fontweight="bold")
    axis = figure.subplots()
    drawn = axis.imshow(share.numpy(), cmap="Blues", vmin=0, vmax=1)
    axis.set_xticks(range(len(classes)), classes, rotation=40, ha="right", rotation_mode="anchor")
    axis.set_yticks(range(len(classes)), classes)
    axis.set_xlabel("classified as")
    axis.set_ylabel("true class")
    if len(classes) <= 30:  # more numbers would not be read
        for row in range(len(classes)):
            for column in range(len(classes)):
                colour = "white" if share[row, column] > 0.5 else "black" if counts[row, column] else "#c0c0c0"
                text = str(int(counts[row, column]))
                axis.text(column, row, text, ha="center", va="center", color=colour, fontsize=9)
    figure.colorbar(drawn, ax=axis, label="share of the true class", shrink=0.8)
    return figure


def print_confusion(content: dict[str, Any], console: Console | None = None) -> None:
    """Show one row per true class: how its images are classified, and its recall and precision."""
    classes = content["classes"]
    table = Table(title=confusion_title(content), title_justify="left", title_style="bold", header_style="bold")
    table.add_column("true class, classified as:", no_wrap=True)
    shown = len(classes) <= 12
    for name in [*(classes if shown else ()), "recall", "precision"]:
        table.add_column(name, justify="right")
    for i, name in enumerate(classes):
        counts = content["counts"][i]
        cells = [Text(str(n), style="bold") if i == j else str(n) for j, n in enumerate(counts)] if shown else []
        table.add_row(name, *cells, _percent(content["recall"][i]), _percent(content["precision"][i]))
    show(table, console)


def _percent(value: float | None) -> str:
    return "-" if value is None else f"{value:.1%}"
