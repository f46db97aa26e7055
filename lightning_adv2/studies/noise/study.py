"""The study of plain noise: levels by search, maps under them, pictures of images that the noise misleads."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

from matplotlib.figure import Figure

from lightning_adv2.functional.noise import KINDS, Kind
from lightning_adv2.report.bars import Metric, grouped_bars
from lightning_adv2.report.findings import Findings
from lightning_adv2.report.table import Column
from lightning_adv2.results.records import to_uint8
from lightning_adv2.results.summary import Row
from lightning_adv2.runtime.exchange import gathered
from lightning_adv2.studies.base import Study
from lightning_adv2.studies.noise.maps import noise_maps
from lightning_adv2.studies.noise.measure import (
    METRICS,
    Correct,
    Moved,
    choose,
    count_wrong,
    find_levels,
    measure,
    noise_name,
    noise_rows,
    predict,
)
from lightning_adv2.studies.subject import Subject


class NoiseEvaluation(Study):
    """Sensitivity of the maps to plain noise (the paper's Figure 15).

    The level of the noise is found by search: that at which the classifier misclassifies these shares of the images
    that it gets right without noise. Then every interpreter of the module explains the noisy images, for the true class
    (``l1``, ``iou``: only the image differs) and for the predicted one (``l1_predicted``, ``iou_predicted``), and each
    map is compared with that of the benign image for the true class.

    Logs ``{stage}/noise/{kind}-{rate}/{interpreter}/{metric}``; with images that the noise misleads,
    ``figures/noise_maps.png`` shows some. With an AttackDataModule, whose batches are fixed, the results are the same
    for any number of processes.

    Args:
        rates: shares of misclassified images, in (0, 1]; with few images the next that can be reached above.
        kinds: of noise: ``normal``, ``uniform``.
        max_images: take the first so many that the classifier gets right; None takes all.
        seed: for the noise's direction, which is drawn per image.

    Raises:
        ValueError: an argument is out of range.
    """

    name = "noise"
    title = "Sensitivity to noise"
    position = 50
    columns = (
        Column("interpreter"),
        Column("kind", "noise"),
        Column("rate", "asked", ".1%"),
        Column("rate_reached", "wrong", ".1%"),
        Column("level", "level x255", ".1f", 255),
        Column("n", "images", ","),
        Column("l1", "map L1", ".3f"),
        Column("iou", "map IoU", ".3f", empty="empty"),
        Column("l1_predicted", "L1 predicted", ".3f"),
        Column("iou_predicted", "IoU predicted", ".3f", empty="empty_predicted"),
    )
    logged = METRICS
    reads = "batches"
    needs = ()

    def __init__(
        self,
        rates: tuple[float, ...] = (0.03, 0.30),
        kinds: tuple[Kind, ...] = KINDS,
        max_images: int | None = 256,
        seed: int = 0,
    ) -> None:
        if not rates or len(set(rates)) < len(rates) or not all(0 < rate <= 1 for rate in rates):
            raise ValueError(f"rates={rates}: one or more different shares in (0, 1]; the paper takes 0.03 and 0.30")
        if not kinds or len(set(kinds)) < len(kinds) or not set(kinds) <= set(KINDS):
            raise ValueError(f"kinds={kinds}: one or more of {', '.join(KINDS)}, each once")
        if max_images is not None and max_images < 1:
            raise ValueError(f"max_images={max_images}: give at least 1, or None for all")
        self.rates, self.kinds, self.max_images, self.seed = tuple(rates), tuple(kinds), max_images, seed
        self._found: set[str] = set()
        self._levels: list[Row] = []

    def begin(self, subject: Subject) -> None:
        """Start afresh."""
        self._found = set()

    def observe(self, batch: Any, subject: Subject) -> list[Correct]:
        """Those images that the classifier gets right, as long as they may be among the first."""
        # Batches come in ascending order, so that what this process has is ahead of all that it will see.
        if self.max_images is not None and len(self._found) >= self.max_images:
            return []
        right = predict(subject.classifier, batch["images"], batch["label"])[1].nonzero()[:, 0]
        names = [batch["image_id"][i] for i in right.tolist()]
        self._found.update(names)
        images, label = to_uint8(batch["images"][right]), batch["label"][right].cpu()
        return [Correct(batch["batch_index"], names, label, images)]

    def conclude(self, observed: Sequence[Correct], subject: Subject) -> Findings:
        """Search the levels on all processes together, and measure on each its own images."""
        trainer, classifier, device = subject.trainer, subject.classifier, subject.device
        keys = gathered(trainer, [key for part in observed for key in part.keys])
        chosen = choose((key for own in keys for key in own), self.max_images)
        self._observed = parts = [part.only(chosen) for part in observed]

        def count(kind: Kind, level: float) -> int:
            return sum(gathered(trainer, count_wrong(classifier, parts, kind, level, self.seed, device)))

        self._levels = find_levels(self.kinds, self.rates, len(chosen), count)
        own = measure(classifier, subject.interpreters, parts, self._levels, self.seed, device)
        return super().conclude([own], subject)

    def summarise(self, observed: Sequence[Moved], subject: Subject) -> Findings:
        """One row per interpreter and level."""
        settings: Row = {"rates": list(self.rates), "kinds": list(self.kinds)}
        settings |= {"max_images": self.max_images, "seed": self.seed}
        notes = [f"{self._levels[0]['images']:,} images that are classified correctly without noise."]
        return Findings(noise_rows(self._levels, observed), settings, notes, {"levels": self._levels})

    def scalars(self, stage: str) -> dict[str, float]:
        """The logged values, by kind and rate together."""
        return {
            f"{stage}/noise/{noise_name(row)}/{row['interpreter']}/{key}": float(row[key])
            for row in self.rows
            for key in self.logged
            if row[key] is not None
        }

    def pictures(self, subject: Subject) -> Mapping[str, Callable[[], Figure | None]]:
        """Images that the noise misleads, of this process."""
        networks = subject.classifier, subject.interpreters
        return {
            "maps": partial(
                noise_maps, *networks, self._observed, self._levels, subject.class_titles, self.seed, subject.device
            )
        }

    @classmethod
    def figure(cls, findings: Findings) -> Figure | None:
        """Bars of map L1 and IoU per interpreter under each kind and rate of noise, for the true class."""
        rows = [row for row in findings.rows if row["n"]]
        metrics = [Metric(Column("l1", "map L1", ".2f")), Metric(Column("iou", "map IoU", ".2f"), 1.05)]
        title = "Benign maps under plain noise, for the true class"
        return grouped_bars(rows, metrics, title, series=_series) if rows else None


def _series(row: Row) -> str:
    return f"{row['kind']}, {row['rate']:.0%} wrong"
