"""The resilience report: rows that join an evaluation's robustness with its benign map quality, from its files."""

from __future__ import annotations

import csv
from collections.abc import Callable, Sequence
from io import StringIO
from pathlib import Path
from typing import Any, TypeVar

import pytorch_lightning as pl
from matplotlib.figure import Figure

from lightning_adv2.evaluation.attack_evaluation import AttackEvaluation
from lightning_adv2.files import read_json, read_text
from lightning_adv2.report.figures import PALETTE, heading, plain_axis
from lightning_adv2.report.findings import Findings, read_findings
from lightning_adv2.report.table import FAINT, STRONG, Column, Table
from lightning_adv2.results.records import BENIGN
from lightning_adv2.results.summary import Row
from lightning_adv2.runtime.processes import on_rank_zero
from lightning_adv2.studies.base import Study
from lightning_adv2.studies.map_quality import MapQualityEvaluation
from lightning_adv2.studies.noise import NoiseEvaluation
from lightning_adv2.studies.resilience.rows import resilience_rows
from lightning_adv2.studies.resilience.worst_case import AGREEMENTS
from lightning_adv2.studies.subject import Subject
from lightning_adv2.studies.transfer import TransferEvaluation

T = TypeVar("T")


class ResilienceReport(Study):
    """Rank the interpreters of an evaluation by how they resist, if their benign maps hold; comes last in the list.

    Reads what MapQualityEvaluation and AttackEvaluation wrote, and the files of NoiseEvaluation and TransferEvaluation
    where they are among the callbacks. Logs ``{stage}/resilience/{interpreter}/{key}``. See
    :func:`lightning_adv2.studies.resilience.rows.resilience_rows` for the rules.

    Args:
        reference: the interpreter whose benign maps set the standard.
        tolerance: the share of a benign measure that may be lost against it.
        max_agreement_l1: how far the maps of its variants (named ``<reference>_...``) may be from its own, map L1.

    Raises:
        ValueError: a limit is negative.
    """

    name = "resilience"
    title = "Resilience and benign map quality"
    position = 20
    columns = (
        Column("rank", "", "d", main=True),
        Column("interpreter", main=True),
        Column("resilience", "", ".3f", main=True),
        Column("decided_by", main=True),
        Column("worst_iou", "worst IoU", ".3f", empty="empty_iou", n="successful"),
        Column("worst_attack", "by"),
        Column("asr", "ASR", ".1%", main=True),
        Column("iou_true_class", "IoU, c", ".3f", empty="empty_iou_true_class", n="successful"),
        Column("iou_target_class", "IoU, c_t", ".3f", empty="empty_iou_target_class", n="successful"),
        Column("control_iou", "control IoU", ".3f"),
        Column("transfer_iou", "transfer IoU", ".3f"),
        Column("benign_gap", "gap", ".3f"),
        Column("benign_loss", "", ".1%", main=True),
        Column("benign_agreement_l1", "L1 to reference", ".3f"),
    )
    keys = ("interpreter",)
    logged = (
        "resilience", "worst_iou", "worst_l1", "asr", "iou_true_class", "iou_target_class", "control_iou",
        "transfer_iou", "benign_loss", "rank", "counts",
    )  # fmt: skip
    reads = "files"
    needs = (MapQualityEvaluation, AttackEvaluation)
    uses = (NoiseEvaluation, TransferEvaluation)

    def __init__(self, reference: str = "rts", tolerance: float = 0.05, max_agreement_l1: float = 0.05) -> None:
        for name, limit in (("tolerance", tolerance), ("max_agreement_l1", max_agreement_l1)):
            if not limit >= 0:
                raise ValueError(f"{name}={limit}: give a limit of 0 or more; 0.05 is the default")
        self.reference, self.tolerance, self.max_agreement_l1 = reference, tolerance, max_agreement_l1

    def check(self, subject: Subject) -> None:
        """Check that the callbacks before will measure what the report reads.

        Raises:
            ValueError: an attack aims at another map than the benign one, or MapQualityEvaluation measures too little.
        """
        callbacks: list[Any] = subject.trainer.callbacks  # type: ignore[attr-defined]
        target = subject.evaluation.target.name
        if target != BENIGN:
            raise ValueError(
                f"target: AttackEvaluation aims at the map {target!r}, and an IoU with that says nothing of how far "
                "the map stays as it was, which ResilienceReport ranks by; leave target out (the benign map), or leave "
                "out ResilienceReport"
            )
        quality = next(one for one in callbacks if isinstance(one, MapQualityEvaluation))
        if (quality.order, quality.randomise, quality.reference) != (True, True, self.reference):
            raise ValueError(
                f"callbacks: ResilienceReport(reference={self.reference!r}) needs all checks of the benign maps: "
                f"MapQualityEvaluation(order=True, reference={self.reference!r}, randomise=True)"
            )

    def conclude(self, observed: Sequence[Any], subject: Subject) -> Findings:
        """Read and judge on one process, for another machine may not see all files yet."""
        return on_rank_zero(subject.trainer, lambda: self.summarise(observed, subject))

    def summarise(self, observed: Sequence[Any], subject: Subject) -> Findings:
        """One row per interpreter, best first.

        Raises:
            FileNotFoundError: a file that a callback before should have written is missing.
        """
        folder = subject.folder

        def known(kind: type[Study]) -> list[Row]:
            # Without its callback, what lies there is of an earlier run.
            return _study_rows(folder, kind) if _is_among(kind, subject.trainer) else []

        rows = resilience_rows(
            _written(folder / "results.json", AttackEvaluation, read_json)["rows"],
            read_images(folder / "images.csv"),
            _study_rows(folder, MapQualityEvaluation),
            reference=self.reference,
            tolerance=self.tolerance,
            max_agreement_l1=self.max_agreement_l1,
            noise=known(NoiseEvaluation),
            transfer=known(TransferEvaluation),
        )
        settings = ("reference", "tolerance", "max_agreement_l1")
        return Findings(rows, {name: getattr(self, name) for name in settings})

    @classmethod
    def tables(cls, findings: Findings) -> list[Table]:
        """One table, interpreters that count in bold; below it why the others do not count."""
        rows = findings.rows
        alerts = [
            f"{row['interpreter']} does not count: {'; '.join(_reasons(row))}" for row in rows if not row["counts"]
        ]
        alerts += [
            f"{row['interpreter']}: {attack} fails; it counts on the images where it succeeds"
            for row in rows
            for attack in row["failed_attacks"]
        ]
        return [Table(cls.title, cls.columns, rows, findings.notes, alerts, "counts", _emphasis)]

    @classmethod
    def figure(cls, findings: Findings) -> Figure | None:
        """Loss of benign quality against worst-case IoU, every interpreter named; full dots count."""
        return scatter(findings.rows, findings.settings["tolerance"])


def _is_among(kind: type[pl.Callback], trainer: pl.Trainer) -> bool:
    callbacks: list[Any] = trainer.callbacks  # type: ignore[attr-defined]
    return any(isinstance(one, kind) for one in callbacks)


def _study_rows(folder: Path, kind: type[Study]) -> list[Row]:
    """The rows that a study wrote."""
    study = read_findings(folder, kind.name)
    if study is None:
        raise _missing(folder / f"{kind.name}.json", kind)
    return study.findings.rows


def read_images(path: Path) -> list[Row]:
    """What the worst case takes of ``images.csv``; a number is written so that it is read as it was.

    Raises:
        FileNotFoundError: the file is missing; names the callback that writes it.
    """
    text = _written(path, AttackEvaluation, read_text)
    rows = []
    for line in csv.DictReader(StringIO(text)):
        row: Row = {key: line[key] for key in ("interpreter", "attack", "schedule", "image_id")}
        row |= {key: line[key] == "True" for key in ("success", "valid")}
        rows.append(row | {key: float(line[key]) for key in (*AGREEMENTS, "l1")})
    return rows


def _written(path: Path, writer: type[pl.Callback], read: Callable[[Path], T]) -> T:
    try:
        return read(path)
    except FileNotFoundError as error:
        raise _missing(path, writer) from error


def _missing(path: Path, writer: type[pl.Callback]) -> FileNotFoundError:
    name = writer.__name__
    return FileNotFoundError(
        f"{path} is missing, which {name} writes; evaluate in this folder with {name} before ResilienceReport"
    )


def _emphasis(row: Row) -> str:
    return STRONG if row["counts"] else FAINT


def _reasons(row: Row) -> list[str]:
    share = "-" if row["asr"] is None else f"{row['asr']:.1%}"
    unclaimed = [f"the attacks on its map succeed on too few images ({share}), which is not claimed to be resilience"]
    return [*row["gate"], *row["flags"], *(unclaimed if row["resilience"] is None else [])]


def scatter(rows: Sequence[Row], tolerance: float) -> Figure:
    """A dot for each interpreter with a resilience; the others are named at the edge.

    Args:
        rows: of :func:`~lightning_adv2.studies.resilience.rows.resilience_rows`.
        tolerance: where the shaded region, in which a resilience may count, ends.
    """
    figure = Figure(figsize=(6.4, 4.4), layout="constrained")
    heading(figure, ResilienceReport.title)
    axis = figure.subplots()
    axis.axvspan(-1.0, tolerance, color=PALETTE[3], alpha=0.15, label="benign quality holds")
    for row in rows:
        if row["resilience"] is None:
            continue
        # A greater loss than all, or maps better than the reference's, stand at the edge.
        place = min(max(row["benign_loss"], -0.15), 1.0), 1 - row["resilience"]
        axis.plot(*place, marker="o", color=PALETTE[1], fillstyle="full" if row["counts"] else "none")
        axis.annotate(row["interpreter"], place, textcoords="offset points", xytext=(6, 5), fontsize=9)
    absent = [row["interpreter"] for row in rows if row["resilience"] is None]
    if absent:
        axis.text(
            0.99, 0.01, f"no successful attack: {', '.join(absent)}", transform=axis.transAxes, ha="right", fontsize=8
        )
    axis.set_xlim(-0.2, 1.1)
    axis.set_ylim(-0.03, 1.06)
    axis.set_xlabel("largest relative loss of benign quality")
    axis.set_ylabel("worst-case map IoU under attack,\nwhichever class is asked for (lower resists)")
    plain_axis(axis)
    axis.legend(fontsize=8, frameon=False, loc="center right")
    return figure
