"""Rows computed from records: one per image, and one per attack."""

from __future__ import annotations

import csv
import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from hashlib import sha256
from pathlib import Path
from typing import Any

from torchmetrics import MetricCollection

from lightning_adv2.files import written_whole
from lightning_adv2.functional.agreement import map_iou, perturbation_norm
from lightning_adv2.metrics import AGREEMENTS, METRICS, attack_metrics
from lightning_adv2.results.benign import benign_facts, map_areas
from lightning_adv2.results.blind import NOISE, blind_flags
from lightning_adv2.results.records import AttackRecord, BatchRecord, to_float
from lightning_adv2.results.summary import STATUS_KEYS, Row, Status, Summary, count_statuses, merge
from lightning_adv2.results.traces import MeanTraces

ROW_KEYS = (
    "dataset", "classifier", "interpreter", "attack", "schedule", "role", "needs_map", "threat_model", "target",
    "steps", "mean_steps", "n", "empty", *METRICS, "unit", "flags",
)  # fmt: skip


def summarize(
    records: Iterable[BatchRecord],
    names: dict[str, str],
    passed_over: Mapping[str, Sequence[str]] | None = None,
    selected: int | None = None,
    classes: int | None = None,
) -> Summary:
    """The summary of records: all tables of a run.

    Args:
        records: a run's records; an image that comes twice (a padded distributed sampler) counts once.
        names: ``dataset``, ``classifier``.
        passed_over: status and reason of the images that never came to an attack, by identifier; see
            ``data.Manifest.passed_over``.
        selected: how many images were left. Under an interpreter whose records hold another number, part of a run
            say, ``passed_over`` does not count. None counts it always.
        classes: K, the number of classes; None where it is not known.
    """
    tallies: dict[str, _Tally] = {}
    for record in records:
        name = record.interpreter
        if name not in tallies:
            tallies[name] = _Tally({**names, "interpreter": name})
        tallies[name].add(record)
    before: dict[str, Status] = {name: (status, reason) for name, (status, reason) in (passed_over or {}).items()}
    summaries = {name: tally.summary(before, selected, classes) for name, tally in tallies.items()}
    if len(summaries) > 1:
        return merge(summaries)
    return next(iter(summaries.values()), _Tally(names).summary({}, None, classes))


class _Tally:
    """What the records of one interpreter add up to."""

    def __init__(self, names: dict[str, str]) -> None:
        self.names = names
        self.attacks: dict[str, _AttackTally] = {}
        self.order: list[Row] = []
        self.images: dict[str, list[Row]] = {}
        self.statuses: dict[str, Status] = {}
        self.sizes: set[tuple[int, int]] = set()
        self.areas: list[float] = []
        self.halvings = 0

    def add(self, record: BatchRecord) -> None:
        self.halvings += record.pieces - 1
        fresh = []
        for i, name in enumerate(record.image_id):
            if name not in self.statuses:
                self.statuses[name] = ("attacked", "")
                fresh.append(i)
        for name in record.already_wrong:
            self.statuses.setdefault(name, ("already_wrong", ""))
        for name, reason in record.invalid.items():
            self.statuses.setdefault(name, ("invalid", reason))
        for name, reason in record.skipped.items():
            self.statuses.setdefault(name, ("skipped", reason))
        if fresh:
            self.sizes.add((record.benign_map.shape[-2], record.benign_map.shape[-1]))
            self.areas += map_areas(record.benign_map[fresh])
        for attack in record.attacks:
            own = [_image_row(record, attack, i, self.names) for i in fresh]
            self.images.setdefault(attack.key, []).extend(own)
            if attack.key not in self.attacks:
                head: Row = {"attack": attack.attack, "schedule": attack.schedule, "role": attack.role}
                head |= {"needs_map": attack.needs_map, "threat_model": attack.threat_model, "target": record.target}
                self.attacks[attack.key] = _AttackTally({**self.names, **head, "steps": attack.steps}, attack.unit)
            self.attacks[attack.key].add(record, attack, fresh)
            self.order += own

    def summary(self, before: Mapping[str, Status], selected: int | None, classes: int | None) -> Summary:
        whole = selected in (None, len(self.statuses))
        statuses = {**(before if whole else {}), **self.statuses}
        name = self.names.get("interpreter", "")
        joint = [key for key, attack in self.attacks.items() if attack.head["needs_map"]]
        others = [k for k, attack in self.attacks.items() if k == NOISE or attack.head["role"] == "class"]
        part = count_statuses(statuses) | {"attacks": {key: attack.count for key, attack in self.attacks.items()}}
        blind = blind_flags(self.images, joint, others)
        return Summary(
            [attack.row(blind.get(key, {})) for key, attack in self.attacks.items()],
            self.order,
            part,
            [dict(zip(STATUS_KEYS, (one, name, *status), strict=True)) for one, status in statuses.items()],
            {name: {key: attack.seconds for key, attack in self.attacks.items()}},
            {name: benign_facts(part if whole else None, classes, self.sizes, self.areas)},
            {name: {key: curves for key, attack in self.attacks.items() if (curves := attack.traces.means())}},
            {name: self.halvings},
        )


class _AttackTally:
    """What the records of one attack on one interpreter add up to."""

    def __init__(self, head: Row, unit: str) -> None:
        self.head, self.unit, self.metrics, self.seconds = head, unit, local_metrics(), 0.0
        self.count = {"n": 0, "invalid": 0, "successful": 0}
        self.traces = MeanTraces()
        self.steps_taken = 0
        self.empty = 0
        self.flags: Counter[str] = Counter()

    def add(self, record: BatchRecord, attack: AttackRecord, fresh: Sequence[int]) -> None:
        self.seconds += attack.seconds
        self.flags.update(set(attack.flags))
        keep = [i for i in fresh if bool(attack.valid[i])]
        self.count["n"] += len(keep)
        self.traces.add(attack.trace, keep)
        self.steps_taken += int(attack.steps_taken[keep].sum())
        self.count["invalid"] += len(fresh) - len(keep)
        self.count["successful"] += int((attack.adv_predicted == record.target_class)[keep].sum())
        if keep:
            fields = record_fields(record, attack, keep)
            self.metrics.update(**fields)
            self.empty += int(map_iou(fields["adv_map"], fields["target_map"]).isnan().sum())

    def row(self, blind: Row) -> Row:
        n = self.count["n"]
        means = {name: float(value) for name, value in self.metrics.compute().items()} if n else {}
        means = {name: value for name, value in means.items() if not math.isnan(value)}  # of images without an IoU
        return {
            **self.head,
            "mean_steps": self.steps_taken / n if n else None,
            "n": n,
            "empty": self.empty,
            **{name: means.get(name) for name in METRICS},
            "unit": self.unit,
            "flags": dict(sorted(self.flags.items())) | blind,
        }


def local_metrics() -> MetricCollection:
    """The attack metrics without an exchange between processes: the records hold the images of all processes."""
    return attack_metrics(sync_on_compute=False)


def record_fields(record: BatchRecord, attack: AttackRecord, keep: Sequence[int]) -> dict[str, Any]:
    """The arguments of the attack metrics by name, for the images of a record at the indices ``keep``."""
    index = list(keep)
    return {
        "adv_predicted": attack.adv_predicted[index],
        "target_class": record.target_class[index],
        "confidence": attack.confidence[index],
        "adv_map": attack.adv_map[index],
        "target_map": record.target_map[index],
        "benign_map": record.benign_map[index],
        "adv_map_true_class": attack.adv_map_true_class[index],
        "adv_map_target_class": attack.adv_map_target_class[index],
        "benign_map_target_class": record.benign_map_target_class[index],
        "size": attack.size[index],
        "adv_images": to_float(attack.adv_images[index]),
        "images": to_float(record.images[index]),
    }


def _image_row(record: BatchRecord, attack: AttackRecord, i: int, names: dict[str, str]) -> Row:
    values = record_fields(record, attack, [i])
    measured = {name: function(values[first], values[second]) for name, (function, first, second) in AGREEMENTS.items()}
    measured |= {"linf": perturbation_norm(values["adv_images"], values["images"]), "size": attack.size[i]}
    return {
        **names,
        "attack": attack.attack,
        "schedule": attack.schedule,
        "target": record.target,
        "image_id": record.image_id[i],
        "label": int(record.label[i]),
        "target_class": int(record.target_class[i]),
        "adv_predicted": int(attack.adv_predicted[i]),
        "success": bool(attack.adv_predicted[i] == record.target_class[i]),
        "valid": bool(attack.valid[i]),
        "confidence": float(attack.confidence[i]),
        "steps": int(attack.steps_taken[i]),
        **{name: float(measured[name]) for name in METRICS if name in measured},
        "unit": attack.unit,
        # Of the pixels (H, W, C), as the manifest has it of the benign ones: a changed record shows.
        "adv_sha256": sha256(attack.adv_images[i].permute(1, 2, 0).numpy().tobytes()).hexdigest(),
    }


_ODD = "backslashreplace"
"""A name need not be UTF-8, which a file system does not ask for: what is none is written out."""


def write_csv(rows: Sequence[Row], path: Path, keys: Sequence[str] = ROW_KEYS) -> None:
    """Write rows with the same keys as CSV, whole or not at all; without a row, ``keys`` are the header.

    Raises:
        OSError: the file cannot be written; an old file is as it was.
        ValueError: a row has other keys than the first row.
    """
    with written_whole(path) as temporary, temporary.open("w", newline="", encoding="utf-8", errors=_ODD) as stream:
        writer = csv.DictWriter(stream, fieldnames=list(rows[0]) if rows else keys)
        writer.writeheader()
        writer.writerows({key: _cell(value) for key, value in row.items()} for row in rows)


def write_status(summary: Summary, path: Path) -> None:
    """Write the status of every image under every interpreter as CSV, with the columns ``STATUS_KEYS``.

    Raises:
        OSError: the file cannot be written; an old file is as it was.
    """
    write_csv(summary.statuses, path, STATUS_KEYS)


def _cell(value: Any) -> Any:
    return "; ".join(value) if isinstance(value, (dict, list)) else value  # names, such as flags
