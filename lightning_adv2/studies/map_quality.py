"""Benign map quality: preserved and destroyed confidence, deletion and insertion, dependence on the weights."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from matplotlib.figure import Figure

from lightning_adv2.functional.randomisation import randomised, rank_correlation
from lightning_adv2.functional.validity import is_finite
from lightning_adv2.metrics import MapAgreement, MapQuality
from lightning_adv2.metrics.attack import ImageMean
from lightning_adv2.report.bars import Metric, by_interpreter, grouped_bars
from lightning_adv2.report.findings import Findings
from lightning_adv2.report.table import Column, Table
from lightning_adv2.results.summary import Row
from lightning_adv2.runtime.exchange import computed
from lightning_adv2.studies.base import Study
from lightning_adv2.studies.subject import Subject

PANELS = {
    "confidence in the true class": ("preserved", "destroyed", "shuffled", "gap"),
    "deletion and insertion": ("deletion", "random_deletion", "insertion", "random_insertion"),
    "the maps themselves": (
        "area", "localisation_iou", "agreement_l1", "agreement_iou", "randomised_correlation", "invalid",
    ),
}  # fmt: skip
MEASURES = (
    "area", "preserved", "destroyed", "shuffled", "gap", "localisation_iou", "invalid", "deletion", "insertion",
    "random_deletion", "random_insertion", "agreement_l1", "agreement_iou", "randomised_correlation",
)  # fmt: skip
"""In the order of the table."""
NOTE = (
    "Confidence in the true class where the map keeps the image (preserved), where it removes it (destroyed), and "
    "where another image's map keeps it (shuffled); gap = preserved - shuffled: how specific the maps are. Deletion "
    "(lower is better) and insertion (higher is better) follow the order of the map; beside them those of a random "
    "order."
)


def heading_of(measure: str) -> str:
    """What tables and figures call a measure."""
    return measure.replace("_", " ").replace("iou", "IoU").replace("l1", "L1")


class MapQualityEvaluation(Study):
    """Preserved, destroyed and shuffled confidence, deletion and insertion under each interpreter's benign maps.

    Logs ``{stage}/benign/{interpreter}/{measure}``, in the validations of ``fit`` as well. See
    :class:`lightning_adv2.metrics.MapQuality` for the measures.

    Args:
        order: also deletion and insertion (68 forward passes per image).
        seed: for the backgrounds, the random map and the shuffled weights.
        reference: name of the interpreter that all are compared with: ``agreement_l1`` and ``agreement_iou``, of the
            maps for the true class, enlarged or shrunk to the reference's size. None leaves them out.
        randomise: also ``randomised_correlation``, the mean rank correlation of the map with the one that classifier
            and interpreter give when their weights are shuffled; near 1 the map does not depend on what was learned
            (Adebayo et al. 2018, "Sanity checks for saliency maps").

    Raises:
        ValueError: when it starts, if no interpreter has the name ``reference``.
    """

    name = "map_quality"
    title = "Benign map quality"
    position = 10
    columns = (Column("interpreter"), *(Column(measure, heading_of(measure), ".3f") for measure in MEASURES))
    keys = ("interpreter",)
    logged = MEASURES
    log_name = "benign"
    reads = "batches"
    needs = ()
    during_fit = True

    def __init__(
        self, order: bool = True, seed: int = 0, reference: str | None = None, randomise: bool = False
    ) -> None:
        self.order, self.seed, self.reference, self.randomise = order, seed, reference, randomise
        self._quality: dict[str, MapQuality] = {}
        self._agreement: dict[str, MapAgreement] = {}
        self._correlation: dict[str, ImageMean] = {}
        self._shuffled: dict[str, Any] = {}

    def check(self, subject: Subject) -> None:
        """Check that the reference is there.

        Raises:
            ValueError: no interpreter has its name.
        """
        if self.reference is not None and self.reference not in subject.names:
            raise ValueError(
                f"reference={self.reference!r}: MapQualityEvaluation compares with one of the module's interpreters, "
                f"which are {', '.join(subject.names)}; add it to them, or leave reference out"
            )

    def begin(self, subject: Subject) -> None:
        """Start the means afresh; shuffle a copy of the weights, if asked to."""
        names, device = subject.names, subject.device
        self._quality = {name: MapQuality(self.order, self.seed).to(device) for name in names}
        self._agreement = {name: MapAgreement().to(device) for name in names if self.reference is not None}
        self._correlation = {name: ImageMean().to(device) for name in names if self.randomise}
        if self.randomise:
            parts = [randomised(part, self.seed).eval() for part in (subject.classifier, *subject.interpreters)]
            self._shuffled = dict(zip(["", *names], parts, strict=True))  # "" is the classifier

    def observe(self, batch: Any, subject: Subject) -> tuple[()]:
        """Add one batch to the means, which every process keeps of its own batches."""
        classifier, images, label = subject.classifier, batch["images"], batch["label"]
        maps = {one.name: one.explain(classifier, images, label).attribution_map for one in subject.interpreters}
        for name, shown in maps.items():
            self._quality[name].update(classifier, images, label, batch["image_id"], shown, batch.get("mask"))
            if self.reference is not None:
                self._agreement[name].update(shown, maps[self.reference])
            if self.randomise:
                other = self._shuffled[name].explain(self._shuffled[""], images, label).attribution_map
                fine = is_finite(shown) & is_finite(other)
                self._correlation[name].update(rank_correlation(shown[fine], other[fine]))
        return ()

    def conclude(self, observed: Sequence[Any], subject: Subject) -> Findings:
        """The means over all processes; the shuffled copies, as large as the networks themselves, are given up."""
        means = {name: self._means(name, subject) for name in self._quality}
        self._shuffled = {}
        return self.summarise([means], subject)

    def _means(self, name: str, subject: Subject) -> dict[str, float]:
        values: dict[str, float] = computed(subject.trainer, self._quality[name])
        if self.reference is not None:
            values |= computed(subject.trainer, self._agreement[name])
        if self.randomise:
            mean = float(computed(subject.trainer, self._correlation[name]))
            values |= {} if math.isnan(mean) else {"randomised_correlation": mean}  # NaN: no image
        return values

    def summarise(self, observed: Sequence[Mapping[str, Mapping[str, float]]], subject: Subject) -> Findings:
        """One row per interpreter; a measure that was not asked for, or has no image, is None."""
        rows = [
            {"interpreter": name} | {key: found.get(key) for key in MEASURES}
            for means in observed
            for name, found in means.items()
        ]
        settings = {"order": self.order, "seed": self.seed, "reference": self.reference, "randomise": self.randomise}
        return Findings(rows, settings, [NOTE])

    @classmethod
    def tables(cls, findings: Findings) -> list[Table]:
        """One table, without the columns of measures that no row has."""
        measured = measures_of(findings.rows)
        columns = [column for column in cls.columns if column.key in ("interpreter", *measured)]
        return [Table(cls.title, columns, findings.rows, findings.notes)]

    @classmethod
    def figure(cls, findings: Findings) -> Figure | None:
        """Bars of every measure, side by side for the interpreters."""
        measured = measures_of(findings.rows)
        shown = [
            {"interpreter": row["interpreter"], "panel": panel, "measure": heading_of(key), "mean": row[key]}
            for panel, keys in PANELS.items()
            for key in keys
            for row in findings.rows
            if key in measured
        ]
        if not shown:
            return None
        return grouped_bars(
            shown, [Metric(Column("mean", "mean over images", ".2f"))], cls.title,
            group=lambda row: row["measure"], series=by_interpreter, panel=lambda row: row["panel"],
        )  # fmt: skip


def measures_of(rows: Sequence[Row]) -> list[str]:
    """The measures that at least one row has."""
    return [key for key in MEASURES if any(row[key] is not None for row in rows)]
