"""Detection (Table 4): do detectors tell the attacked images from benign ones?"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from matplotlib.figure import Figure

from lightning_adv2.detectors import Detector
from lightning_adv2.files.run import read_header, record_paths
from lightning_adv2.report.bars import Metric, grouped_bars
from lightning_adv2.report.findings import Findings
from lightning_adv2.report.table import Column, Table
from lightning_adv2.results.records import BatchRecord
from lightning_adv2.results.summary import Row
from lightning_adv2.runtime.processes import on_rank_zero
from lightning_adv2.studies.base import Study
from lightning_adv2.studies.detection.calibration import draw_calibration
from lightning_adv2.studies.detection.scoring import (
    CALIBRATION,
    Fitted,
    calibration_images,
    detection_rows,
    fit_detectors,
    scored_images,
    unique_images,
)
from lightning_adv2.studies.subject import Subject

_IMAGE_KEYS = ("interpreter", "detector", "part", "attack", "schedule", "image_id", "score")


class DetectionEvaluation(Study):
    """Score attacked images with detectors; comes after AttackEvaluation.

    Each detector is fitted, and its threshold set, on benign images of the same split that the classifier gets right
    and that were not attacked: by every process for itself, which then scores its share of the records.
    ``detection_images.csv`` has every score. The share detected is logged as
    ``{stage}/detection/{detector}/{attack}/{interpreter}``.

    Args:
        detectors: what to run.
        calibration_images: how many benign images set the thresholds.
        false_positive_rate: the share of them that may be flagged (the paper's 0.05).
        seed: chooses them.

    Raises:
        ValueError: no detector, two of one name, or a number out of range.
    """

    name = "detection"
    title = "Detection of attacked images"
    position = 40
    columns = (
        Column("interpreter", main=True),
        Column("detector", main=True),
        Column("attack", main=True),
        Column("schedule"),
        Column("n", "images", ","),
        Column("detection_rate", "detected", ".1%", main=True),
        Column("benign_fpr", "benign", ".1%", main=True),
        Column("calibration_fpr", "calibration", ".1%"),
        Column("auroc", "AUROC", ".3f", main=True),
        Column("threshold", "", ".5g"),
    )
    keys = ("detector", "attack", "interpreter")
    logged = ("detection_rate",)

    def __init__(
        self,
        detectors: list[Detector],
        calibration_images: int = 500,
        false_positive_rate: float = 0.05,
        seed: int = 0,
    ) -> None:
        names = [detector.name for detector in detectors]
        if not names or len(set(names)) < len(names):
            raise ValueError(f"detectors: expected one or more with different names, got {', '.join(names) or 'none'}")
        if calibration_images < 1:
            raise ValueError(f"calibration_images={calibration_images}: give at least 1; 500 is the default")
        if not 0 <= false_positive_rate < 1:
            raise ValueError(f"false_positive_rate={false_positive_rate}: a share in [0, 1); the paper takes 0.05")
        self.detectors, self.calibration_images = detectors, calibration_images
        self.false_positive_rate, self.seed = false_positive_rate, seed
        self._fitted: Sequence[Fitted] = ()
        self._calibration: Sequence[str] = ()

    def check(self, subject: Subject) -> None:
        """Check that there are images to calibrate on.

        Raises:
            TypeError: the trainer was given loaders and no data module.
        """
        if not hasattr(subject.data.source, "dataset"):
            raise TypeError(
                "DetectionEvaluation draws benign images from the data module, and there is none; "
                "give the trainer an AttackDataModule"
            )

    def begin(self, subject: Subject) -> None:
        """Fit the detectors, on every process alike."""
        split = getattr(subject.data.module, "split", subject.stage)
        images, label, self._calibration = draw_calibration(
            subject.data.source.dataset(split), subject.classifier, self.calibration_images, _attacked(subject),
            self.seed, subject.device,
        )  # fmt: skip
        self._fitted = fit_detectors(self.detectors, subject.classifier, subject.interpreters, images, label)

    def observe(self, batch: Mapping[str, BatchRecord], subject: Subject) -> list[Row]:
        """The score of each image, benign and attacked, by each detector."""
        return list(scored_images(self._fitted, batch, subject.device))

    def conclude(self, observed: Sequence[Row], subject: Subject) -> Findings:
        """Summarise all processes' scores, with one process's of the calibration images."""
        own = calibration_images(self._fitted, self._calibration) if subject.trainer.is_global_zero else ()
        return super().conclude([*own, *observed], subject)

    def summarise(self, observed: Sequence[Row], subject: Subject) -> Findings:
        """Rates by threshold; every score is a row of the images."""
        images = unique_images(observed)
        settings = {
            "false_positive_rate": self.false_positive_rate,
            "seed": self.seed,
            "calibration_images": len({one["image_id"] for one in images if one["part"] == CALIBRATION} - {None}),
        }
        listed = [{key: one[key] for key in _IMAGE_KEYS} for one in images if one["image_id"] is not None]
        return Findings(detection_rows(images, self.false_positive_rate), settings, images=listed)

    def scalars(self, stage: str) -> dict[str, float]:
        """The share detected, under keys without a measure."""
        return {key.removesuffix("/detection_rate"): value for key, value in super().scalars(stage).items()}

    @classmethod
    def tables(cls, findings: Findings) -> list[Table]:
        """All rows, by detector."""
        rate, count = findings.settings["false_positive_rate"], findings.settings["calibration_images"]
        title = f"Detection at {rate:.0%} false positives on {count:,} benign images"
        several = len({row["detector"] for row in findings.rows}) > 1
        group = "detector" if several else "interpreter"
        return [Table(title, cls.columns, findings.rows, findings.notes, group=group)]

    @classmethod
    def figure(cls, findings: Findings) -> Figure | None:
        """Bars of the share detected per detector and attack, an axis per interpreter; beside them the benign share."""
        rows = [row for row in findings.rows if row["detection_rate"] is not None]
        if not rows:
            return None
        benign = {(row["interpreter"], row["detector"]): row["benign_fpr"] for row in rows}
        names = {"attack": "benign", "schedule": "control", "role": "control"}
        before = [{"interpreter": i, "detector": d, **names, "detection_rate": x} for (i, d), x in benign.items()]
        return grouped_bars(
            [*before, *rows], [Metric(Column("detection_rate", "share detected", ".2f"), 1.08)],
            "Share of images detected",
            group=lambda row: str(row["detector"]), panel=lambda row: str(row["interpreter"]).upper(),
        )  # fmt: skip


def _attacked(subject: Subject) -> set[str]:
    """The images that were attacked, or were to be: they are no calibration images."""
    manifest = subject.data.manifest
    known = {entry.image_id for entry in manifest.entries} if manifest is not None else set()

    def recorded() -> set[str]:
        headers = [read_header(path) for path in record_paths(subject.folder / "records")]
        return {name for one in headers for key in ("image_id", "already_wrong", "invalid") for name in one[key]}

    return known | on_rank_zero(subject.trainer, recorded)  # another machine may not see all files yet
