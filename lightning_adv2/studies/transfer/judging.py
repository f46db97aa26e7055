"""From the records of a batch to what each interpreter makes of the attacked images, and from there to rows."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from lightning_adv2.functional.agreement import compare_maps
from lightning_adv2.functional.validity import unfit_maps
from lightning_adv2.interpreters import Interpreter
from lightning_adv2.models import Classifier
from lightning_adv2.results.records import AttackRecord, BatchRecord, to_float
from lightning_adv2.results.summary import Row
from lightning_adv2.studies.rows import attack_heads, mean_rows

NO_MAP = "none"
"""The source of images that were made without a look at any map: PGD's and the noise control's."""
Maps = Mapping[str, Mapping[str, Tensor]]
"""Interpreter -> image -> benign map ``(1, h, w)``."""

_CHUNK = 64
_KEYS = ("source", "attack", "schedule", "role", "interpreter")


def transfer_images(
    classifier: Classifier,
    interpreters: Sequence[Interpreter],
    records: Mapping[str, BatchRecord],
    device: torch.device,
    judges: Sequence[Interpreter] = (),
) -> list[Row]:
    """For :func:`transfer_rows`: each image of one batch under each attack, as each interpreter explains it.

    Args:
        classifier: in eval mode.
        interpreters: in eval mode; those without a record are left out.
        records: of the same batch, by interpreter.
        device: where to compute.
        judges: in eval mode; never attacked, so without records. They also explain the images of the attacks that aim
            at no map, and of the noise control, as far as the first interpreter can explain them.
    """
    benign = benign_maps(classifier, records, judges, device)
    everyone = [(number, one) for number, one in enumerate([*interpreters, *judges]) if one.name in benign]
    rows: list[Row] = []
    alone = set[str]()
    for record in records.values():
        for head, attack in attack_heads(record):
            explaining, order = everyone, head["order"]
            if not attack.needs_map:
                if attack.threat_model == "none" or attack.key in alone:
                    continue  # the benign images as they are; images that are the same for all interpreters
                alone.add(attack.key)
                explaining, order = everyone[len(everyone) - len(judges) :], (-1, order[1])
            for number, one in explaining:
                names = head | {"source": record.interpreter if attack.needs_map else NO_MAP, "interpreter": one.name}
                seen = _judged(classifier, one, record, attack, benign[one.name], device)
                # A row without an image stands for the group, which may have none.
                for image_id, l1, iou in [("", None, None), *seen]:
                    place = (*order, number, record.batch_index, image_id)
                    rows.append(names | {"order": place, "image_id": image_id or None, "l1": l1, "iou": iou})
    return rows


def benign_maps(
    classifier: Classifier, records: Mapping[str, BatchRecord], judges: Sequence[Interpreter], device: torch.device
) -> Maps:
    """The benign maps of one batch: those of the attacked interpreters as recorded, those of the judges computed here.

    An image whose map by a judge says nothing, because it is not finite or has one value everywhere, is left out there.
    """
    benign = {name: dict(zip(one.image_id, one.benign_map, strict=True)) for name, one in records.items()}
    images, label = dict[str, Tensor](), dict[str, Tensor]()
    for record in records.values():
        images |= dict(zip(record.image_id, record.images, strict=True))
        label |= dict(zip(record.image_id, record.label, strict=True))
    for judge in judges:
        benign[judge.name] = {}
        if images:
            maps = explain(classifier, judge, torch.stack([*images.values()]), torch.stack([*label.values()]), device)
            fit = [not reason for reason in unfit_maps(maps, maps)]
            benign[judge.name] = {name: one for name, one, fine in zip(images, maps, fit, strict=True) if fine}
    return benign


def explain(classifier: Classifier, judge: Interpreter, images: Tensor, asked: Tensor, device: torch.device) -> Tensor:
    """Maps ``(n, 1, h, w)`` on the CPU: images ``(n, C, H, W)`` in 8 bits and the classes ``(n,)`` to explain."""
    parts = zip(torch.split(to_float(images).to(device), _CHUNK), torch.split(asked.to(device), _CHUNK), strict=True)
    return torch.cat([judge.explain(classifier, *part).attribution_map.float().cpu() for part in parts])


def _judged(
    classifier: Classifier,
    judge: Interpreter,
    source: BatchRecord,
    attack: AttackRecord,
    benign: Mapping[str, Tensor],
    device: torch.device,
) -> list[tuple[str, float, float]]:
    """Image, L1 and IoU: of the images that are valid under the attack, have a benign map, and a finite map now."""
    keep = [i for i, name in enumerate(source.image_id) if bool(attack.valid[i]) and name in benign]
    if not keep:
        return []
    if judge.name == source.interpreter:
        shown = attack.adv_map[keep]
    else:
        shown = explain(classifier, judge, attack.adv_images[keep], attack.adv_predicted[keep], device)
    names = [source.image_id[i] for i in keep]
    values = (found.tolist() for found in compare_maps(shown, torch.stack([benign[name] for name in names])))
    return [one for one in zip(names, *values, strict=True) if math.isfinite(one[1])]


def transfer_rows(images: Sequence[Row]) -> list[Row]:
    """One row per source, attack and explaining interpreter: means of ``l1`` and ``iou`` with 95% bootstrap intervals.

    ``source`` is ``none`` (first) for an attack that aims at no map. Otherwise as
    :func:`~lightning_adv2.studies.rows.mean_rows` has it.
    """
    return mean_rows(images, _KEYS, ("l1", "iou"), intervals=("l1", "iou"))
