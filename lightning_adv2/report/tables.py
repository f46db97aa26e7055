"""From records to rows: per image, per attack, and on the terminal."""

from __future__ import annotations

import csv
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table
from torchmetrics import MetricCollection

from lightning_adv2.files import written_whole
from lightning_adv2.functional.agreement import map_iou, map_l1, map_l2, perturbation_size
from lightning_adv2.metrics import METRICS, attack_metrics
from lightning_adv2.report.records import AttackRecord, BatchRecord, to_float

Row = dict[str, Any]
ROW_KEYS = ("dataset", "classifier", "interpreter", "attack", "schedule", "steps", "n", *METRICS, "seconds")


@dataclass
class Summary:
    """What a run's records add up to.

    Attributes:
        rows: one per attack, with the keys ``ROW_KEYS``.
        images: one per image and attack.
        denominators: ``considered = already_wrong + invalid + selected``; ``selected`` images are attacked; of those,
            per attack, ``invalid`` are left out of the means and ``successful`` reach the target class.
    """

    rows: list[Row] = field(default_factory=list)
    images: list[Row] = field(default_factory=list)
    denominators: dict[str, Any] = field(default_factory=dict)


def summarize(records: Iterable[BatchRecord], names: dict[str, str]) -> Summary:
    """Compute all tables from records; a pure function of them.

    Args:
        records: a run's records; an image that comes twice (a padded distributed sampler) counts once.
        names: ``dataset``, ``classifier``, ``interpreter``.
    """
    metrics: dict[str, MetricCollection] = {}
    first: dict[str, AttackRecord] = {}
    counts: dict[str, dict[str, int]] = defaultdict(lambda: {"n": 0, "invalid": 0, "successful": 0})
    seconds: dict[str, float] = defaultdict(float)
    seen: set[str] = set()
    wrong: set[str] = set()
    invalid: set[str] = set()
    summary = Summary()
    for record in records:
        wrong.update(record.already_wrong)
        invalid.update(record.invalid)
        fresh = []
        for i, name in enumerate(record.image_id):
            if name not in seen:
                seen.add(name)
                fresh.append(i)
        for attack in record.attacks:
            key = attack.key
            first.setdefault(key, attack)
            seconds[key] += attack.seconds
            summary.images += [_image_row(record, attack, i, names) for i in fresh]
            keep = [i for i in fresh if bool(attack.valid[i])]
            count = counts[key]
            count["n"] += len(keep)
            count["invalid"] += len(fresh) - len(keep)
            count["successful"] += int((attack.adv_predicted == record.target_class)[keep].sum())
            if keep:
                metrics.setdefault(key, local_metrics()).update(**record_fields(record, attack, keep))
    for key, attack in first.items():
        values = {name: float(value) for name, value in metrics[key].compute().items()} if key in metrics else {}
        row = {**names, "attack": attack.attack, "schedule": attack.schedule, "steps": attack.steps}
        row |= {"n": counts[key]["n"], **{name: values.get(name) for name in METRICS}, "seconds": seconds[key]}
        summary.rows.append(row)
    summary.denominators = {
        "considered": len(seen) + len(wrong) + len(invalid),
        "already_wrong": len(wrong),
        "invalid": len(invalid),
        "selected": len(seen),
        "attacks": {key: dict(count) for key, count in counts.items()},
    }
    return summary


def local_metrics() -> MetricCollection:
    """Metrics of one process: the records already hold what all processes did, so nothing is exchanged."""
    return attack_metrics(sync_on_compute=False)


def record_fields(record: BatchRecord, attack: AttackRecord, keep: Sequence[int]) -> dict[str, Any]:
    """What the metrics take, by name, for the images ``keep`` of a batch."""
    index = list(keep)
    return {
        "adv_predicted": attack.adv_predicted[index],
        "target_class": record.target_class[index],
        "confidence": attack.confidence[index],
        "adv_map": attack.adv_map[index],
        "target_map": record.target_map[index],
        "adv_images": to_float(attack.adv_images[index]),
        "images": to_float(record.images[index]),
    }


def _image_row(record: BatchRecord, attack: AttackRecord, i: int, names: dict[str, str]) -> Row:
    values = record_fields(record, attack, [i])
    maps = values["adv_map"], values["target_map"]
    return {
        **names,
        "attack": attack.attack,
        "schedule": attack.schedule,
        "image_id": record.image_id[i],
        "label": int(record.label[i]),
        "target_class": int(record.target_class[i]),
        "adv_predicted": int(attack.adv_predicted[i]),
        "success": bool(attack.adv_predicted[i] == record.target_class[i]),
        "valid": bool(attack.valid[i]),
        "confidence": float(attack.confidence[i]),
        "l1": float(map_l1(*maps)),
        "l2": float(map_l2(*maps)),
        "iou": float(map_iou(*maps)),
        "linf": float(perturbation_size(values["adv_images"], values["images"])),
    }


def write_csv(rows: Sequence[Row], path: Path) -> None:
    """Write rows that share their keys."""
    with written_whole(path) as temporary, temporary.open("w", newline="", encoding="utf-8") as stream:
        writer = csv.DictWriter(stream, fieldnames=list(rows[0]) if rows else ROW_KEYS)
        writer.writeheader()
        writer.writerows(rows)


def print_table(rows: Sequence[Row], title: str, console: Console | None = None) -> None:
    """Show rows in the terminal; ADV2 in bold, controls dimmed."""
    table = Table(title=title, title_justify="left", title_style="bold", header_style="bold")
    for heading in ("interpreter", "attack", "schedule"):
        table.add_column(heading)
    for heading in ("steps", "images", "ASR", "confidence", "map L1", "map IoU", "plausible", "Linf x255", "s/image"):
        table.add_column(heading, justify="right")
    previous = None
    for row in rows:
        if previous not in (None, row["interpreter"]):
            table.add_section()
        previous = row["interpreter"]
        style = "bold" if row["attack"] == "adv2" else "dim" if row["schedule"] == "control" else ""
        percent = [_format(row[k], "{:.1%}") for k in ("asr", "plausible")]
        table.add_row(
            row["interpreter"], row["attack"], row["schedule"], str(row["steps"]), str(row["n"]),
            percent[0], _format(row["confidence"], "{:.3f}"), _format(row["l1"], "{:.3f}"),
            _format(row["iou"], "{:.3f}"), percent[1],
            _format(row["linf"] and row["linf"] * 255, "{:.1f}"),
            _format(row["seconds"] / row["n"] if row["n"] else None, "{:.3f}"),
            style=style,
        )  # fmt: skip
    show(table, console)


def show(table: Table, console: Console | None = None) -> None:
    """Print a table whole: a file or a pipe has no width, and rich would squeeze it into 80 columns."""
    console = console or Console()
    if not console.is_terminal:
        console.width = max(console.width, 150)
    console.print(table)


def _format(value: float | None, form: str) -> str:
    return "-" if value is None else form.format(value)
