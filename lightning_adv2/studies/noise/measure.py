"""From correctly classified images to levels of noise, and to rows of how far the maps move."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cache, partial
from itertools import product

import torch
from torch import Tensor

from lightning_adv2.functional.agreement import compare_maps
from lightning_adv2.functional.noise import Kind, add_noise, find_level
from lightning_adv2.functional.validity import is_finite
from lightning_adv2.interpreters import Interpreter
from lightning_adv2.models import Classifier
from lightning_adv2.results.means import defined, mean_of
from lightning_adv2.results.records import to_float
from lightning_adv2.results.summary import Row

METRICS = ("l1", "iou", "l1_predicted", "iou_predicted")
"""Noisy map against benign map (for the true class): the former for the true class, then for the predicted one."""

Moved = dict[tuple[str, int], list[tuple[float, ...]]]
"""(interpreter, place of the level) -> for each image its ``METRICS``, NaN where a map is not finite."""

Key = tuple[int, int, str]
"""An image: number of its batch, place in it, identifier."""

_CHUNK = 64


@dataclass(frozen=True)
class Correct:
    """Those images of one batch that the classifier gets right.

    They stay together, because float32 results depend on what else is in a batch: so they are the same on any number
    of processes.

    Attributes:
        batch_index: the batch's number.
        image_id: n identifiers.
        label: ``(n,)`` on the CPU.
        images: ``(n, C, H, W)`` uint8 on the CPU.
    """

    batch_index: int
    image_id: list[str]
    label: Tensor
    images: Tensor

    @property
    def keys(self) -> list[Key]:
        """One per image."""
        return [(self.batch_index, place, name) for place, name in enumerate(self.image_id)]

    def only(self, keys: set[Key]) -> Correct:
        """The images with these keys."""
        keep = [place for _, place, name in self.keys if (self.batch_index, place, name) in keys]
        return Correct(self.batch_index, [self.image_id[i] for i in keep], self.label[keep], self.images[keep])

    def chunks(self, device: torch.device) -> Iterator[tuple[Tensor, Tensor, list[str]]]:
        """Images in [0, 1], labels and identifiers, at most 64 at a time."""
        for start in range(0, len(self.image_id), _CHUNK):
            rows = slice(start, start + _CHUNK)
            yield to_float(self.images[rows].to(device)), self.label[rows].to(device), self.image_id[rows]


def choose(keys: Iterable[Key], most: int | None) -> set[Key]:
    """The first ``most`` images in the order of the batches (None: all); one that comes twice counts once."""
    first: dict[str, Key] = {}
    for key in sorted(keys):
        first.setdefault(key[2], key)
    return set(list(first.values())[:most])


def predict(classifier: Classifier, images: Tensor, label: Tensor) -> tuple[Tensor, Tensor]:
    """The predicted class ``(B,)``, and whether it is right ``(B,)`` bool; NaN or infinity never is."""
    with torch.no_grad():
        logits = classifier(images)
    predicted = logits.argmax(1)
    return predicted, (predicted == label) & is_finite(logits)


def count_wrong(
    classifier: Classifier, parts: Sequence[Correct], kind: Kind, level: float, seed: int, device: torch.device
) -> int:
    """How many of the images are misclassified under noise of this level."""
    wrong = 0
    for part in parts:
        for images, label, names in part.chunks(device):
            wrong += int((~predict(classifier, add_noise(images, names, kind, level, seed), label)[1]).sum())
    return wrong


def find_levels(
    kinds: Sequence[Kind], rates: Sequence[float], images: int, count: Callable[[Kind, float], int]
) -> list[Row]:
    """The levels at which at least these shares of the images are misclassified; a pure function of ``count``.

    Args:
        kinds: of noise.
        rates: shares in (0, 1].
        images: how many there are.
        count: how many of them are misclassified under noise of a kind and level; called once for each.

    Returns:
        ``kind``, ``rate``, ``level`` in units of the pixel range (None without images), ``images``, ``misclassified``
        and ``rate_reached``: with few images more than ``rate``, and less where no noise reaches it.
    """
    known = cache(count)
    rows: list[Row] = []
    for kind, rate in product(kinds, rates):
        row: Row = {"kind": kind, "rate": rate, "level": None, "images": images, "misclassified": 0}
        row["rate_reached"] = None
        if images:
            # The small number undoes 0.07 * 100 = 7.000000000000001.
            row["level"] = find_level(partial(known, kind), math.ceil(rate * images - 1e-9))
            row["misclassified"] = known(kind, row["level"])
            row["rate_reached"] = row["misclassified"] / images
        rows.append(row)
    return rows


def measure(
    classifier: Classifier,
    interpreters: Sequence[Interpreter],
    parts: Sequence[Correct],
    levels: Sequence[Row],
    seed: int,
    device: torch.device,
) -> Moved:
    """How far each interpreter's map of each image moves at each level."""
    moved: Moved = {(one.name, place): [] for one in interpreters for place in range(len(levels))}
    for images, label, names in (chunk for part in parts for chunk in part.chunks(device)):
        noisy = [add_noise(images, names, level["kind"], level["level"], seed) for level in levels]
        predicted = [predict(classifier, one, label)[0] for one in noisy]
        for interpreter in interpreters:
            benign = interpreter.explain(classifier, images, label).attribution_map
            for place in range(len(levels)):
                maps = _explain_both(classifier, interpreter, noisy[place], label, predicted[place])
                values = torch.stack([measured for shown in maps for measured in compare_maps(shown, benign)], dim=1)
                moved[interpreter.name, place] += [tuple(row) for row in values.tolist()]
    return moved


def _explain_both(
    classifier: Classifier, interpreter: Interpreter, images: Tensor, label: Tensor, predicted: Tensor
) -> tuple[Tensor, Tensor]:
    """The maps for the true and for the predicted class; explained twice only where these differ."""
    for_label = interpreter.explain(classifier, images, label).attribution_map
    missed = predicted != label
    for_predicted = for_label.clone()
    if missed.any():
        for_predicted[missed] = interpreter.explain(classifier, images[missed], predicted[missed]).attribution_map
    return for_label, for_predicted


def noise_rows(levels: Sequence[Row], moved: Sequence[Moved]) -> list[Row]:
    """One row per interpreter and level; a pure function of what all processes measured, in whatever order.

    ``kind``, ``rate``, ``rate_reached`` and ``level`` are those of :func:`find_levels`. ``n`` images count, ``invalid``
    ones gave NaN or infinity; the means are None where none counts. Images whose two maps are both empty have no IoU
    and are not in its mean: ``empty`` of them for the true class, ``empty_predicted``.
    """
    rows: list[Row] = []
    for interpreter, place in moved[0]:
        values = [row for part in moved for row in part[interpreter, place]]
        fine = [row for row in values if not any(map(math.isnan, (row[0], row[2])))]  # the two L1
        row: Row = {"interpreter": interpreter}
        row |= {key: levels[place][key] for key in ("kind", "rate", "rate_reached", "level")}
        row |= {"n": len(fine), "invalid": len(values) - len(fine)}
        for name, column in zip(METRICS, zip(*fine, strict=True) if fine else [[]] * len(METRICS), strict=True):
            row[name] = mean_of(column)
            if name.startswith("iou"):
                row[name.replace("iou", "empty")] = len(fine) - len(defined(column))
        rows.append(row)
    return rows


def noise_name(row: Row) -> str:
    """Kind and rate of a row or a level, as in ``normal-0.03``."""
    return f"{row['kind']}-{row['rate']:g}"
