"""Which classes the classifier takes for which (Figure 18), for any number of classes.

Nothing here holds a matrix of K x K: counts are kept as cells, of which there are no more than images.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

MOST_DENSE = 100
"""Up to so many classes ``confusion.json`` has the matrix itself."""
MOST_SHOWN = 30
"""Up to so many classes figure and table show every class; beyond, the worst ``LISTED`` and the largest confusions."""
LISTED = 15


class Confused(NamedTuple):
    """Images of one class that are taken for another: their number and the share of the class."""

    true: int
    predicted: int
    images: int
    share: float


def confusion_content(counts: Tensor, classes: Sequence[str], stage: str) -> dict[str, Any]:
    """What ``confusion.json`` holds.

    ``stage``, ``classes``, ``counts`` (rows true, columns predicted; None beyond ``MOST_DENSE`` classes, where
    ``cells`` has true and predicted class and number of all that are not 0), ``images``, ``accuracy``,
    ``balanced_accuracy``, and each class's ``recall`` and ``precision``, None where it is 0/0.

    Args:
        counts: ``(K, K)`` whole numbers, dense or sparse.
        classes: K titles.
        stage: test or val.
    """
    cells = counts.cpu() if counts.is_sparse else counts.cpu().to_sparse()
    cells = cells.coalesce()
    (true, predicted), number = cells.indices(), cells.values()
    right = _sums(true, number * (true == predicted), len(classes))
    recall, precision = right / _sums(true, number, len(classes)), right / _sums(predicted, number, len(classes))
    total, found = int(number.sum()), int(right.sum())
    dense = len(classes) <= MOST_DENSE
    content = {
        "stage": stage,
        "classes": list(classes),
        "counts": cells.to_dense().tolist() if dense else None,
        "images": total,
        "accuracy": found / total if total else None,
        "balanced_accuracy": _numbers(torch.nanmean(recall)[None])[0],
        "recall": _numbers(recall),
        "precision": _numbers(precision),
    }
    return content if dense else content | {"cells": torch.stack([true, predicted, number], 1).tolist()}


def _sums(group: Tensor, number: Tensor, count: int) -> Tensor:
    """The sum of the numbers of each group, ``(count,)`` float64."""
    return torch.zeros(count, dtype=torch.float64).index_add(0, group, number.double())


def _numbers(values: Tensor) -> list[float | None]:
    return [None if value != value else value for value in values.tolist()]


def cells_of(content: dict[str, Any]) -> tuple[Tensor, Tensor, Tensor]:
    """True class, predicted class and number of images of every cell that is not 0, each ``(M,)``."""
    if content["counts"] is None:
        true, predicted, number = torch.tensor(content["cells"], dtype=torch.int64).reshape(-1, 3).T
        return true, predicted, number
    counts = torch.tensor(content["counts"])
    true, predicted = counts.nonzero().T
    return true, predicted, counts[true, predicted]


def class_sizes(content: dict[str, Any]) -> Tensor:
    """How many images each class has, ``(K,)`` float64."""
    true, _, number = cells_of(content)
    return _sums(true, number, len(content["classes"]))


def largest_confusions(content: dict[str, Any], of: Collection[int] | None = None) -> list[Confused]:
    """The ``LISTED`` cells off the diagonal with most images, of equal ones those of the greater share of their class.

    Args:
        content: see :func:`confusion_content`.
        of: all of these true classes instead.
    """
    true, predicted, number = cells_of(content)
    sizes, wrong = class_sizes(content), true != predicted
    if of is not None:
        wrong &= torch.isin(true, torch.tensor(list(of), dtype=torch.int64))
    found = [
        Confused(i, j, n, n / float(sizes[i]))
        for i, j, n in zip(true[wrong].tolist(), predicted[wrong].tolist(), number[wrong].tolist(), strict=True)
    ]
    found.sort(key=lambda one: (-one.images, -one.share, one.true, one.predicted))
    return found[:LISTED] if of is None else found


def worst_classes(content: dict[str, Any]) -> list[int]:
    """The ``LISTED`` classes with images of which least are found, of equal ones the larger first."""
    sizes = class_sizes(content).tolist()
    known = [(recall, -sizes[i], i) for i, recall in enumerate(content["recall"]) if recall is not None]
    return [i for _, _, i in sorted(known)[:LISTED]]


def confusion_title(content: dict[str, Any]) -> str:
    """The two accuracies and the number of images."""
    accuracy, balanced = (percent(content[key]) for key in ("accuracy", "balanced_accuracy"))
    return f"Accuracy {accuracy}, balanced {balanced}, {content['images']} {content['stage']} images"


def percent(value: float | None) -> str:
    """A share for people."""
    return "-" if value is None else f"{value:.1%}"
