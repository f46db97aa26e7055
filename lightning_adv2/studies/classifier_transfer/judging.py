"""From the records of a batch to what each classifier says of the attacked images, and from there to rows."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from lightning_adv2.functional.agreement import compare_maps
from lightning_adv2.functional.validity import is_finite, unfit_maps
from lightning_adv2.interpreters import Interpreter, TrainableInterpreter
from lightning_adv2.models import Classifier
from lightning_adv2.results.means import defined, mean_of
from lightning_adv2.results.records import AttackRecord, BatchRecord, to_float
from lightning_adv2.results.summary import Row
from lightning_adv2.studies.rows import attack_heads

_KEYS = ("classifier", "interpreter", "attack", "schedule", "role")
_CHUNK = 64


@dataclass
class Judged:
    """What the classifiers say of one batch.

    Attributes:
        images: rows for :func:`classifier_rows`.
        asked: classifier -> images of the records that it was asked about.
        right: classifier -> those of them that it gets right when benign; all others are left out.
        skipped: (classifier, interpreter) -> why this one's maps of that one are left out.
    """

    images: list[Row]
    asked: dict[str, set[str]]
    right: dict[str, set[str]]
    skipped: dict[tuple[str, str], str]


def own_map(interpreter: Interpreter) -> str | None:
    """Why an interpreter cannot go along to another classifier; None where it can."""
    trained = [one for one in interpreter.modules() if isinstance(one, TrainableInterpreter)]
    return f"{trained[0].name} has weights of its own, which were trained for one classifier" if trained else None


def judge_batch(
    attacked: str,
    others: Mapping[str, Classifier],
    interpreters: Sequence[Interpreter],
    records: Mapping[str, BatchRecord],
    device: torch.device,
) -> Judged:
    """Classify and explain the images of all attacks, and the benign ones, by each classifier.

    What the attacked classifier says is in the records. The control that changes no image is left out.

    Args:
        attacked: that classifier's name.
        others: by name, in eval mode.
        interpreters: in eval mode.
        records: of one batch, by interpreter.
        device: where to compute.
    """
    judged = Judged([], {name: set() for name in others}, {name: set() for name in others}, {})
    by_name = {one.name: one for one in interpreters}
    for record in (one for one in records.values() if one.image_id):
        for head, attack in _attacks(record):
            keep = attack.valid.nonzero()[:, 0].tolist()
            agreement = compare_maps(attack.adv_map[keep], record.benign_map[keep])
            columns = (attack.adv_predicted[keep], attack.confidence[keep], *agreement)
            judged.images += _rows(head | {"classifier": attacked}, 0, record, keep, columns)
        for number, (name, classifier) in enumerate(others.items(), start=1):
            _judge(judged, record, number, name, classifier, by_name[record.interpreter], device)
    return judged


def _attacks(record: BatchRecord) -> list[tuple[Row, AttackRecord]]:
    return [(head, attack) for head, attack in attack_heads(record) if attack.threat_model != "none"]


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
    for head, attack in _attacks(record):
        logits = _logits(classifier, attack.adv_images, device)
        fine = (attack.valid & is_finite(logits)).tolist()
        keep = [i for i in right if fine[i]]
        if not keep:
            continue
        predicted, target_class = logits[keep].argmax(1), record.target_class[keep]
        l1 = iou = torch.full((len(keep),), torch.nan)
        if benign is not None:
            now = _maps(classifier, interpreter, attack.adv_images[keep], predicted, device)
            l1, iou = compare_maps(now, benign[keep])
            fit = torch.tensor([not unfit for unfit in unfit_maps(benign[keep], benign[keep])])
            l1, iou = torch.where(fit, l1, torch.nan), torch.where(fit, iou, torch.nan)
        confidence = logits[keep].softmax(1).gather(1, target_class[:, None])[:, 0]
        judged.images += _rows(head | {"classifier": name}, number, record, keep, (predicted, confidence, l1, iou))


def _rows(head: Row, number: int, record: BatchRecord, keep: list[int], columns: tuple[Tensor, ...]) -> list[Row]:
    """The images ``keep`` under one attack; ``columns`` are the predicted class, ``confidence``, ``l1`` and ``iou``."""
    found = []
    for i, predicted, confidence, l1, iou in zip(keep, *(column.tolist() for column in columns), strict=True):
        hit, wrong = predicted == int(record.target_class[i]), predicted != int(record.label[i])
        order = (*head["order"], number, record.batch_index, i)
        own = {"order": order, "image_id": record.image_id[i], "hit": hit, "wrong": wrong}
        found.append(head | own | {"confidence": confidence, "l1": l1, "iou": iou})
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


def classifier_rows(images: Iterable[Row]) -> list[Row]:
    """One row per classifier, interpreter and attack; a pure function of all images' rows, in whatever order.

    ``n`` images count, ``maps`` of them with a map to compare, ``fooled`` of those now wrong; a mean over none is None.
    ``asr`` is the share taken for c_t, ``wrong`` the share not taken for c, ``confidence`` the mean probability of c_t.
    ``l1`` and ``iou`` compare the map on the attacked image, for the class predicted, with the benign one for c, of the
    same classifier; ``l1_fooled`` and ``iou_fooled`` do over the fooled images. ``empty`` and ``empty_fooled`` images
    have two empty maps, and are in no mean of the IoU. An image that comes twice counts once.
    """
    groups: dict[tuple[Any, ...], dict[str, Row]] = {}
    for one in sorted(images, key=lambda row: row["order"]):
        groups.setdefault(tuple(one[key] for key in _KEYS), {}).setdefault(one["image_id"], one)
    rows: list[Row] = []
    for names, found in groups.items():
        own = list(found.values())
        shown = [one for one in own if math.isfinite(one["l1"])]
        fooled = [one for one in shown if one["wrong"]]
        row: Row = dict(zip(_KEYS, names, strict=True)) | {"n": len(own), "maps": len(shown), "fooled": len(fooled)}
        row |= {"asr": mean_of(one["hit"] for one in own), "wrong": mean_of(one["wrong"] for one in own)}
        row |= {"confidence": mean_of(one["confidence"] for one in own)}
        for suffix, part in (("", shown), ("_fooled", fooled)):
            row |= {f"{metric}{suffix}": mean_of(one[metric] for one in part) for metric in ("l1", "iou")}
            row[f"empty{suffix}"] = len(part) - len(defined(one["iou"] for one in part))
        rows.append(row)
    return rows
