"""Transfer between classifiers: does an attack on one fool others, and what do their maps look like then?"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from matplotlib.figure import Figure

from lightning_adv2.models import Classifier, weights_hash
from lightning_adv2.report.bars import Metric, attack_label, by_interpreter, grouped_bars
from lightning_adv2.report.figures import PALETTE
from lightning_adv2.report.findings import Findings
from lightning_adv2.report.table import STRONG, Column, Table
from lightning_adv2.results.records import BatchRecord, check_name
from lightning_adv2.results.summary import Row
from lightning_adv2.studies.base import Study
from lightning_adv2.studies.classifier_transfer.judging import Judged, classifier_rows, judge_batch
from lightning_adv2.studies.subject import Subject


class ClassifierTransferEvaluation(Study):
    """Show attacked images to classifiers that the attack did not aim at; comes after AttackEvaluation.

    Each classifier sees the images of every attack: are they taken for the target class, are they still taken for the
    true one, and how far is the map of the class that is predicted from the classifier's own benign map? An interpreter
    goes along to the other classifiers unless it has weights of its own (RTS, students), whose maps are left out, with
    the reason. An image counts for a classifier that gets it right when benign.

    Args:
        classifiers: other ones for the same classes, with their weights.
        names: for tables and log keys; None takes the classifiers' own, such as ``resnet56``.

    Raises:
        ValueError: no classifier, or names that are not one for each, all different.
    """

    name = "classifier_transfer"
    title = "Transfer between classifiers"
    position = 90
    columns = (
        Column("interpreter", main=True),
        Column("attack", main=True),
        Column("schedule"),
        Column("classifier", main=True),
        Column("n", "images", ","),
        Column("asr", "c_t", ".1%", main=True),
        Column("wrong", "not c", ".1%", main=True),
        Column("confidence", "P(c_t)", ".3f"),
        Column("l1", "map L1", ".3f"),
        Column("iou", "map IoU", ".3f", empty="empty", n="maps", main=True),
        Column("l1_fooled", "not c: map L1", ".3f"),
        Column("iou_fooled", "not c: map IoU", ".3f", empty="empty_fooled", n="fooled"),
    )
    keys = ("attack", "interpreter", "classifier")
    logged = ("asr", "wrong", "confidence", "l1", "iou", "l1_fooled", "iou_fooled")

    def __init__(self, classifiers: list[Classifier], names: list[str] | None = None) -> None:
        own = [one.name for one in classifiers] if names is None else names
        if not own or len(own) != len(classifiers) or len(set(own)) < len(own):
            raise ValueError(
                f"classifiers: got {len(classifiers)}, named {', '.join(own) or 'nothing'}; give one or more, and a "
                "different name for each (names)"
            )
        for name in own:
            check_name("names", name)
        self.classifiers = dict(zip(own, (one.requires_grad_(False).eval() for one in classifiers), strict=True))

    def check(self, subject: Subject) -> None:
        """Check that the classifiers are for the same classes.

        Raises:
            ValueError: one has another number of classes, or the attacked one's name.
        """
        attacked = subject.classifier
        for name, classifier in self.classifiers.items():
            if name == attacked.name:
                raise ValueError(f"names: {name!r} is the attacked classifier's name; give another (names)")
            if classifier.num_classes != attacked.num_classes:
                raise ValueError(
                    f"classifiers: {name} has {classifier.num_classes} classes and the attacked {attacked.name} has "
                    f"{attacked.num_classes}; give classifiers for the same classes in the same order"
                )

    def rehearse(self, batch: Any, subject: Subject) -> None:
        """Show the first image to the classifiers.

        Raises:
            ValueError: one of them does not take such images.
        """
        for name, classifier in self._others(subject).items():
            try:
                with torch.no_grad():
                    classifier(batch["images"][:1])
            except RuntimeError as error:
                size = tuple(batch["images"].shape[1:])
                raise ValueError(f"classifiers: {name} does not take images of shape {size}: {error}") from error

    def _others(self, subject: Subject) -> dict[str, Classifier]:
        return {name: one.to(subject.device) for name, one in self.classifiers.items()}

    def observe(self, batch: Mapping[str, BatchRecord], subject: Subject) -> list[Judged]:
        """What each classifier says of the batch's images, benign and attacked."""
        return [
            judge_batch(subject.classifier.name, self._others(subject), subject.interpreters, batch, subject.device)
        ]

    def summarise(self, observed: Sequence[Judged], subject: Subject) -> Findings:
        """Means over images; how many each classifier gets right when benign; whose maps are left out, and why."""
        attacked = subject.classifier
        classifiers: list[Row] = [
            {"name": attacked.name, "sha256": weights_hash(attacked), "asked": None, "right": None}
        ]
        notes = []
        for name, one in self.classifiers.items():
            asked, right = (len(set().union(*(getattr(p, key)[name] for p in observed))) for key in ("asked", "right"))
            classifiers.append({"name": name, "sha256": weights_hash(one), "asked": asked, "right": right})
            notes.append(
                f"{name} gets {right:,} of the {asked:,} attacked images right when benign; only those count for it"
            )
        reasons: dict[tuple[str, str], str] = {}
        for key, reason in (item for part in observed for item in part.skipped.items()):
            reasons[key] = min(reason, reasons.get(key, reason))
        skipped: list[Row] = [
            {"classifier": classifier, "interpreter": interpreter, "reason": reason}
            for (classifier, interpreter), reason in sorted(reasons.items())
        ]
        notes += [f"No maps by {one['interpreter']} of {one['classifier']}: {one['reason']}" for one in skipped]
        rows = classifier_rows(one for part in observed for one in part.images)
        details = {"classifiers": classifiers, "skipped": skipped}
        return Findings(rows, {"attacked": attacked.name}, notes, details)

    @classmethod
    def tables(cls, findings: Findings) -> list[Table]:
        """All rows; those of the attacked classifier stand out."""
        attacked, *others = (one["name"] for one in findings.details["classifiers"])
        title = f"Images attacked on {attacked}, seen by {', '.join(others)}"
        return [
            Table(title, cls.columns, findings.rows, findings.notes,
                  emphasis=lambda row: STRONG if row["classifier"] == attacked else "")
        ]  # fmt: skip

    @classmethod
    def figure(cls, findings: Findings) -> Figure | None:
        """Bars per interpreter and attack, one per classifier: taken for c_t, not taken for c, and the maps' IoU."""
        if not findings.rows:
            return None
        names = [one["name"] for one in findings.details["classifiers"]]
        return grouped_bars(
            findings.rows,
            [Metric(Column("asr", "taken for c_t", ".2f"), 1.12),
             Metric(Column("wrong", "not taken for c", ".2f"), 1.12),
             Metric(Column("iou", "map IoU", ".2f", n="maps"), 1.12)],
            f"Images attacked on {names[0]}, seen by others",
            group=lambda row: f"{by_interpreter(row)} {attack_label(row)}", series=lambda row: str(row["classifier"]),
            colours={name: PALETTE[i % len(PALETTE)] for i, name in enumerate(names)},
        )  # fmt: skip
