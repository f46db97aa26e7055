"""From records to rows: per image, per attack, and on the terminal."""

from __future__ import annotations

import csv
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from rich.console import Console, Group
from rich.table import Table
from rich.text import Text
from torchmetrics import MetricCollection

from lightning_adv2.files import written_whole
from lightning_adv2.functional.agreement import map_iou, map_l1, map_l2, perturbation_size
from lightning_adv2.metrics import METRICS, attack_metrics
from lightning_adv2.report.records import BENIGN, AttackRecord, BatchRecord, record_key, titled, to_float

Row = dict[str, Any]
ROW_KEYS = (
    "dataset", "classifier", "interpreter", "attack", "schedule", "target", "steps", "n", *METRICS, "unit", "seconds",
    "flags",
)  # fmt: skip


@dataclass
class Summary:
    """What a run's records add up to.

    Attributes:
        rows: one per interpreter and attack, with the keys ``ROW_KEYS``; ``flags`` counts the batches that raised each.
        images: one per image, interpreter and attack.
        denominators: ``considered = already_wrong + invalid + selected``; ``selected`` images are attacked; of those,
            per attack, ``invalid`` are left out of the means and ``successful`` reach the target class. Where there
            are several interpreters, such a dictionary for each under its name.
    """

    rows: list[Row] = field(default_factory=list)
    images: list[Row] = field(default_factory=list)
    denominators: dict[str, Any] = field(default_factory=dict)

    @property
    def parts(self) -> list[dict[str, Any]]:
        """The denominators of each interpreter."""
        return [self.denominators] if "considered" in self.denominators else list(self.denominators.values())


def summarize(records: Iterable[BatchRecord], names: dict[str, str]) -> Summary:
    """Compute all tables from records; a pure function of them.

    Args:
        records: a run's records; an image that comes twice (a padded distributed sampler) counts once.
        names: ``dataset``, ``classifier``.
    """
    tallies: dict[str, _Tally] = {}
    for record in records:
        name = record.interpreter
        if name not in tallies:
            tallies[name] = _Tally({**names, "interpreter": name})
        tallies[name].add(record)
    summaries = {name: tally.summary() for name, tally in tallies.items()}
    return merge(summaries) if len(summaries) > 1 else next(iter(summaries.values()), _Tally(names).summary())


def merge(summaries: dict[str, Summary]) -> Summary:
    """Several evaluations as one; the denominators stay apart, under the keys given."""
    merged = Summary(denominators={key: summary.denominators for key, summary in summaries.items()})
    for summary in summaries.values():
        merged.rows += summary.rows
        merged.images += summary.images
    return merged


class _Tally:
    """What the records of one interpreter add up to."""

    def __init__(self, names: dict[str, str]) -> None:
        self.names = names
        self.attacks: dict[str, _AttackTally] = {}
        self.images: list[Row] = []
        self.seen: set[str] = set()
        self.wrong: set[str] = set()
        self.invalid: set[str] = set()

    def add(self, record: BatchRecord) -> None:
        self.wrong.update(record.already_wrong)
        self.invalid.update(record.invalid)
        fresh = []
        for i, name in enumerate(record.image_id):
            if name not in self.seen:
                self.seen.add(name)
                fresh.append(i)
        for attack in record.attacks:
            self.images += [_image_row(record, attack, i, self.names) for i in fresh]
            if attack.key not in self.attacks:
                head = {"attack": attack.attack, "schedule": attack.schedule, "target": record.target}
                self.attacks[attack.key] = _AttackTally({**self.names, **head, "steps": attack.steps}, attack.unit)
            self.attacks[attack.key].add(record, attack, fresh)

    def summary(self) -> Summary:
        counts = {
            "considered": len(self.seen) + len(self.wrong) + len(self.invalid),
            "already_wrong": len(self.wrong),
            "invalid": len(self.invalid),
            "selected": len(self.seen),
            "attacks": {key: dict(attack.count) for key, attack in self.attacks.items()},
        }
        return Summary([attack.row() for attack in self.attacks.values()], self.images, counts)


class _AttackTally:
    """What the records of one attack on one interpreter add up to."""

    def __init__(self, head: Row, unit: str) -> None:
        self.head, self.unit, self.metrics, self.seconds = head, unit, local_metrics(), 0.0
        self.count = {"n": 0, "invalid": 0, "successful": 0}
        self.flags: Counter[str] = Counter()

    def add(self, record: BatchRecord, attack: AttackRecord, fresh: Sequence[int]) -> None:
        self.seconds += attack.seconds
        self.flags.update(set(attack.flags))
        keep = [i for i in fresh if bool(attack.valid[i])]
        self.count["n"] += len(keep)
        self.count["invalid"] += len(fresh) - len(keep)
        self.count["successful"] += int((attack.adv_predicted == record.target_class)[keep].sum())
        if keep:
            self.metrics.update(**record_fields(record, attack, keep))

    def row(self) -> Row:
        n = self.count["n"]
        means = {name: float(value) for name, value in self.metrics.compute().items()} if n else {}
        return {
            **self.head,
            "n": n,
            **{name: means.get(name) for name in METRICS},
            "unit": self.unit,
            "seconds": self.seconds,
            "flags": dict(sorted(self.flags.items())),
        }


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
        "benign_map": record.benign_map[index],
        "size": attack.size[index],
        "adv_images": to_float(attack.adv_images[index]),
        "images": to_float(record.images[index]),
    }


def _image_row(record: BatchRecord, attack: AttackRecord, i: int, names: dict[str, str]) -> Row:
    values = record_fields(record, attack, [i])
    maps, benign = (values["adv_map"], values["target_map"]), (values["adv_map"], values["benign_map"])
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
        "l1": float(map_l1(*maps)),
        "l2": float(map_l2(*maps)),
        "iou": float(map_iou(*maps)),
        "linf": float(perturbation_size(values["adv_images"], values["images"])),
        "l1_benign": float(map_l1(*benign)),
        "iou_benign": float(map_iou(*benign)),
        "size": float(attack.size[i]),
        "unit": attack.unit,
    }


def write_csv(rows: Sequence[Row], path: Path) -> None:
    """Write rows that share their keys."""
    with written_whole(path) as temporary, temporary.open("w", newline="", encoding="utf-8") as stream:
        writer = csv.DictWriter(stream, fieldnames=list(rows[0]) if rows else ROW_KEYS)
        writer.writeheader()
        writer.writerows({key: _cell(value) for key, value in row.items()} for row in rows)


def print_table(rows: Sequence[Row], title: str, console: Console | None = None) -> None:
    """Show rows in the terminal, and below them what was flagged; ADV2 in bold, controls dimmed."""
    targets = [row["target"] for row in rows if row["target"] != BENIGN]
    moved = any(row["unit"] != "Linf" for row in rows)
    title = titled(title, ", ".join(dict.fromkeys(targets)) or BENIGN)
    table = Table(title=title, title_justify="left", title_style="bold", header_style="bold")
    for heading in ("interpreter", "attack", "schedule"):
        table.add_column(heading)
    numbers = ["steps", "images", "ASR", "confidence", "map L1", "map IoU", "plausible"]
    numbers += [*(["benign L1", "benign IoU"] if targets else []), *(["size"] if moved else []), "Linf x255", "s/image"]
    for heading in numbers:
        table.add_column(heading, justify="right")
    previous = None
    for row in rows:
        if previous not in (None, row["interpreter"]):
            table.add_section()
        previous = row["interpreter"]
        style = "bold" if "adv2" in row["attack"] else "dim" if row["schedule"] == "control" else ""
        cells = [row["interpreter"], row["attack"], row["schedule"], str(row["steps"]), str(row["n"])]
        cells += [_format(row["asr"], "{:.1%}"), *(_format(row[k], "{:.3f}") for k in ("confidence", "l1", "iou"))]
        cells.append(_format(row["plausible"], "{:.1%}"))
        if targets:
            cells += [_format(row[k], "{:.3f}") for k in ("l1_benign", "iou_benign")]
        if moved:
            cells.append(_format(row["size"], ("{:.3f} " if row["unit"] == "Linf" else "{:.2f} ") + row["unit"]))
        cells.append(_format(row["linf"] and row["linf"] * 255, "{:.1f}"))
        cells.append(_format(row["seconds"] / row["n"] if row["n"] else None, "{:.3f}"))
        table.add_row(*cells, style=style)
    flags = [
        f"! {record_key(row['attack'], row['schedule'])}/{row['interpreter']}: {flag}" + f", {n} batches" * (n > 1)
        for row in rows
        for flag, n in row["flags"].items()
    ]
    show(Group(table, Text("\n".join(flags), style="yellow")) if flags else table, console)


def show(table: Table | Group, console: Console | None = None) -> None:
    """Print a table whole: a file or a pipe has no width, and rich would squeeze it into 80 columns."""
    console = console or Console()
    if not console.is_terminal:
        console.width = max(console.width, 200)
    console.print(table)


def _cell(value: Any) -> Any:
    return "; ".join(value) if isinstance(value, dict) else value  # flags


def _format(value: float | None, form: str) -> str:
    return "-" if value is None else form.format(value)
