"""Transfer across classifiers: what others make of images that were attacked on one: rows."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor

from lightning_adv2.functional.agreement import compare_maps
from lightning_adv2.functional.validity import is_finite, unfit_maps
from lightning_adv2.interpreters import Interpreter, TrainableInterpreter
from lightning_adv2.models import Classifier
from lightning_adv2.results.means import defined, mean_of
from lightning_adv2.results.records import AttackRecord, BatchRecord, to_float
from lightning_adv2.results.summary import Row

METRICS = ("asr", "wrong", "confidence", "l1", "iou", "l1_fooled", "iou_fooled")
"""Share taken for c_t, share not taken for c, mean probability of c_t; the map on the attacked image for the class
predicted against the benign one for c, of the same classifier: over all images, and over those that are wrong now."""

_CHUNK = 64


class Seen(NamedTuple):
    """One image under one attack; the maps' agreement is NaN where there is none.

    Attributes:
        order: batch, place of the interpreter, place of the attack, number of the classifier: sorts the rows.
    """

    order: tuple[int, int, int, int]
    classifier: str
    interpreter: str
    attack: str
    schedule: str
    image_id: str
    hit: bool
    wrong: bool
    confidence: float
    l1: float
    iou: float


@dataclass
class Judged:
    """One process's findings.

    Attributes:
        seen: image by image.
        asked: classifier -> images of the records that it was asked about.
        right: classifier -> those of them that it gets right when benign; all others are left out.
        skipped: (classifier, interpreter) -> why this one's maps of that one are left out.
    """

    seen: list[Seen]
    asked: dict[str, set[str]]
    right: dict[str, set[str]]
    skipped: dict[tuple[str, str], str]


def own_map(interpreter: Interpreter) -> str | None:
    """Why an interpreter cannot go along to another classifier; None where it can."""
    trained = [one for one in interpreter.modules() if isinstance(one, TrainableInterpreter)]
    return f"{trained[0].name} has weights of its own, which were trained for one classifier" if trained else None


def judge_records(
    attacked: str,
    others: Mapping[str, Classifier],
    interpreters: Sequence[Interpreter],
    batches: Iterable[Mapping[str, BatchRecord]],
    device: torch.device,
) -> Judged:
    """Classify and explain the images of all attacks, and the benign ones, by each classifier.

    What the attacked classifier says is in the records. The control that attacks nothing is left out.

    Args:
        attacked: that classifier's name.
        others: by name, in eval mode.
        interpreters: in eval mode.
        batches: for each, its records by interpreter.
        device: where to compute.
    """
    judged = Judged([], {name: set() for name in others}, {name: set() for name in others}, {})
    by_name = {one.name: one for one in interpreters}
    for record in (record for records in batches for record in records.values() if record.image_id):
        for place, attack in _attacks(record):
            rows = attack.valid.nonzero()[:, 0].tolist()
            agreement = compare_maps(attack.adv_map[rows], record.benign_map[rows])
            columns = (attack.adv_predicted[rows], attack.confidence[rows], *agreement)
            judged.seen += _seen(record, place, 0, attacked, rows, columns)
        for number, (name, classifier) in enumerate(others.items(), start=1):
            _judge(judged, record, number, name, classifier, by_name[record.interpreter], device)
    return judged


def _attacks(record: BatchRecord) -> list[tuple[int, AttackRecord]]:
    return [(place, attack) for place, attack in enumerate(record.attacks) if attack.attack != "target_class"]


def _judge(
    judged: Judged,
    record: BatchRecord,
    number: int,
    name: str,
    classifier: Classifier,
    interpreter: Interpreter,
    device: torch.device,
) -> None:
    """Add what a classifier other than the attacked one makes of a batch."""
    logits = _logits(classifier, record.images, device)
    right = ((logits.argmax(1) == record.label) & is_finite(logits)).nonzero()[:, 0].tolist()
    judged.asked[name] |= set(record.image_id)
    judged.right[name] |= {record.image_id[i] for i in right}
    if not right:
        return
    benign, reason = None, own_map(interpreter)
    if not reason:
        try:
            shown = _maps(classifier, interpreter, record.images[right], record.label[right], device)
            benign = shown.new_full((len(record.image_id), *shown.shape[1:]), torch.nan)
            benign[right] = shown
        except (TypeError, ValueError) as error:  # such as CAM without a linear head
            reason = str(error)
    if reason:
        judged.skipped[name, interpreter.name] = reason
    for place, attack in _attacks(record):
        rows = [i for i in right if bool(attack.valid[i])]
        logits = _logits(classifier, attack.adv_images, device)
        rows = [i for i, fine in enumerate(is_finite(logits).tolist()) if fine and i in rows]
        if not rows:
            continue
        predicted, target_class = logits[rows].argmax(1), record.target_class[rows]
        l1 = iou = torch.full((len(rows),), torch.nan)
        if benign is not None:
            l1, iou = compare_maps(
                _maps(classifier, interpreter, attack.adv_images[rows], predicted, device), benign[rows]
            )
            fit = torch.tensor([not unfit for unfit in unfit_maps(benign[rows], benign[rows])])
            l1, iou = torch.where(fit, l1, torch.nan), torch.where(fit, iou, torch.nan)
        confidence = logits[rows].softmax(1).gather(1, target_class[:, None])[:, 0]
        judged.seen += _seen(record, place, number, name, rows, (predicted, confidence, l1, iou))


def _seen(
    record: BatchRecord, place: int, number: int, name: str, rows: list[int], columns: tuple[Tensor, ...]
) -> list[Seen]:
    """The images ``rows`` under one attack; ``columns`` are the predicted class, ``confidence``, ``l1`` and ``iou``."""
    attack, order = record.attacks[place], (record.batch_index, record.place, place, number)
    found = []
    for i, predicted, *values in zip(rows, *(column.tolist() for column in columns), strict=True):
        hit, wrong = predicted == int(record.target_class[i]), predicted != int(record.label[i])
        head = (order, name, record.interpreter, attack.attack, attack.schedule, record.image_id[i], hit, wrong)
        found.append(Seen(*head, *values))
    return found


def _logits(classifier: Classifier, images: Tensor, device: torch.device) -> Tensor:
    with torch.no_grad():
        parts = [classifier(to_float(part).to(device)).float().cpu() for part in torch.split(images, _CHUNK)]
    return torch.cat(parts)


def _maps(
    classifier: Classifier, interpreter: Interpreter, images: Tensor, asked: Tensor, device: torch.device
) -> Tensor:
    parts = zip(torch.split(images, _CHUNK), torch.split(asked, _CHUNK), strict=True)
    explained = [interpreter.explain(classifier, to_float(x).to(device), c.to(device)) for x, c in parts]
    return torch.cat([one.attribution_map.float().cpu() for one in explained])


def transfer_rows(seen: Iterable[Seen]) -> list[Row]:
    """One row per classifier, interpreter and attack; a pure function of all processes' findings, in whatever order.

    ``n`` images count, ``maps`` of them with a map to compare, ``fooled`` of those now wrong; a mean over none is None.
    ``empty`` of the former and ``empty_fooled`` of the latter have two empty maps, and are in no mean of the IoU.
    An image that comes twice counts once.
    """
    groups: dict[tuple[Any, ...], dict[str, Seen]] = {}
    for one in sorted(seen):
        key = (one.order[1:], one.classifier, one.interpreter, one.attack, one.schedule)
        groups.setdefault(key, {}).setdefault(one.image_id, one)
    rows: list[Row] = []
    for (_, classifier, interpreter, attack, schedule), images in sorted(groups.items(), key=lambda item: item[0]):
        own = list(images.values())
        shown = [one for one in own if math.isfinite(one.l1)]
        fooled = [one for one in shown if one.wrong]
        row: Row = {"classifier": classifier, "interpreter": interpreter, "attack": attack, "schedule": schedule}
        row |= {"n": len(own), "maps": len(shown), "fooled": len(fooled)}
        row |= {"asr": mean_of([one.hit for one in own]), "wrong": mean_of([one.wrong for one in own])}
        row |= {"confidence": mean_of([one.confidence for one in own])}
        for suffix, part in (("", shown), ("_fooled", fooled)):
            row |= {
                f"l1{suffix}": mean_of([one.l1 for one in part]),
                f"iou{suffix}": mean_of([one.iou for one in part]),
                f"empty{suffix}": len(part) - len(defined(one.iou for one in part)),
            }
        rows.append(row)
    return rows
