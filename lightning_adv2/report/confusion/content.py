"""The content of a confusion matrix: a row per class, and the cells that are not 0.

Nothing here holds a matrix of K x K: cells are kept, of which there are no more than images.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from lightning_adv2.report.findings import Findings
from lightning_adv2.results.summary import Row

MOST_SHOWN = 30
"""Up to so many classes figure and table show every class; beyond, the worst ``LISTED`` and the largest confusions."""
LISTED = 15


class Confused(NamedTuple):
    """Images of one class that are taken for another: their number and the share of the class."""

    true: int
    predicted: int
    images: int
    share: float


def confusion_content(counts: Tensor, classes: Sequence[str], stage: str) -> Findings:
    """The findings of a confusion matrix.

    ``rows``: each class's ``class`` (title), ``images``, ``recall`` and ``precision``, None where it is 0/0.
    ``settings``: ``stage``, ``images``, ``accuracy`` and ``balanced_accuracy``. ``details``: ``cells`` that are not 0,
    each with the numbers of ``true_class`` and ``predicted_class``, and ``images``.

    Args:
        counts: ``(K, K)`` whole numbers, dense or sparse; rows true, columns predicted.
        classes: K titles.
        stage: test or val.
    """
    cells = (counts.cpu() if counts.is_sparse else counts.cpu().to_sparse()).coalesce()
    (true, predicted), number = cells.indices(), cells.values()
    size, right = _sums(true, number, len(classes)), _sums(true, number * (true == predicted), len(classes))
    recall, precision = right / size, right / _sums(predicted, number, len(classes))
    total, found = int(number.sum()), int(right.sum())
    columns = map(str, classes), size.long().tolist(), _numbers(recall), _numbers(precision)
    settings: Row = {"stage": stage, "images": total, "accuracy": found / total if total else None}
    settings["balanced_accuracy"] = _numbers(torch.nanmean(recall)[None])[0]
    return Findings(
        [_row(("class", "images", "recall", "precision"), values) for values in zip(*columns, strict=True)],
        settings,
        details={
            "cells": [
                _row(("true_class", "predicted_class", "images"), cell)
                for cell in torch.stack([true, predicted, number], 1).tolist()
            ]
        },
    )


def _row(keys: Sequence[str], values: Sequence[object]) -> Row:
    return dict(zip(keys, values, strict=True))


def _sums(group: Tensor, number: Tensor, count: int) -> Tensor:
    """The sum of the numbers of each group, ``(count,)`` float64."""
    return torch.zeros(count, dtype=torch.float64).index_add(0, group, number.double())


def _numbers(values: Tensor) -> list[float | None]:
    return [None if math.isnan(value) else value for value in values.tolist()]


def cells_of(matrix: Findings) -> tuple[Tensor, Tensor, Tensor]:
    """True class, predicted class and number of images of every cell that is not 0, each ``(M,)``."""
    cells = [(one["true_class"], one["predicted_class"], one["images"]) for one in matrix.details["cells"]]
    true, predicted, number = torch.tensor(cells, dtype=torch.int64).reshape(-1, 3).T
    return true, predicted, number


def class_titles(matrix: Findings) -> list[str]:
    """Of all classes, by number."""
    return [row["class"] for row in matrix.rows]


def largest_confusions(matrix: Findings, of: Collection[int] | None = None) -> list[Confused]:
    """The ``LISTED`` cells off the diagonal with most images, of equal ones those of the greater share of their class.

    Args:
        matrix: see :func:`confusion_content`.
        of: all of these true classes instead.
    """
    cells = ((one["true_class"], one["predicted_class"], one["images"]) for one in matrix.details["cells"])
    found = [
        Confused(true, predicted, images, images / matrix.rows[true]["images"])
        for true, predicted, images in cells
        if true != predicted and (of is None or true in of)
    ]
    found.sort(key=lambda one: (-one.images, -one.share, one.true, one.predicted))
    return found[:LISTED] if of is None else found


def worst_classes(matrix: Findings) -> list[int]:
    """The ``LISTED`` classes with images of which least are found, of equal ones the larger first."""
    known = [(row["recall"], -row["images"], i) for i, row in enumerate(matrix.rows) if row["recall"] is not None]
    return [i for _, _, i in sorted(known)[:LISTED]]


def confusion_title(matrix: Findings) -> str:
    """The two accuracies and the number of images."""
    accuracy, balanced = (percent(matrix.settings[key]) for key in ("accuracy", "balanced_accuracy"))
    return f"Accuracy {accuracy}, balanced {balanced}, {matrix.settings['images']} {matrix.settings['stage']} images"


def percent(value: float | None) -> str:
    """A share for people."""
    return "-" if value is None else f"{value:.1%}"
