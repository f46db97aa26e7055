"""The study of localisation: boxes of benign maps against the object's, with rule and alpha chosen on other images."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any, NamedTuple

import torch
from matplotlib.figure import Figure
from torch import Tensor

from lightning_adv2.functional.validity import is_finite
from lightning_adv2.metrics.localization import (
    CANDIDATES,
    REQUIRED_IOU,
    Image,
    Located,
    Object,
    baselines,
    calibrates,
    choose,
    evaluate,
    images_of,
    locate,
)
from lightning_adv2.report.findings import Findings
from lightning_adv2.report.table import FAINT, Column, Table
from lightning_adv2.results.records import to_uint8
from lightning_adv2.results.summary import Row
from lightning_adv2.studies.base import Study
from lightning_adv2.studies.localization.figure import Picture, localization_figure
from lightning_adv2.studies.subject import Subject

STATUSES = ("located", "misclassified", "without_object", "too_large")
"""What became of an image: explained; or left out, and why."""
_KEYS = (
    "n", "invalid", "error", "error_low", "error_high", "iou", "mask_iou", "pointing", "energy_inside", "rule", "alpha",
    "calibration_n", "calibration_error",
)  # fmt: skip


class Example(NamedTuple):
    """A reported image to show: identifier, pixels ``(C, H, W)`` uint8, interpreter -> map ``(1, h, w)``."""

    image_id: str
    image: Tensor
    maps: dict[str, Tensor]


class Seen(NamedTuple):
    """What one batch of images shows.

    Attributes:
        batch_index: the batch's number.
        status: identifier -> number of one of ``STATUSES``.
        size: H, W of the images.
        located: interpreter -> boxes of its maps of the images with status 0.
        examples: images to show.
    """

    batch_index: int
    status: dict[str, int]
    size: tuple[int, int]
    located: dict[str, Located]
    examples: list[Example]


class LocalizationEvaluation(Study):
    """Weakly supervised localisation error of every interpreter (the paper's Table 2).

    Each image that the classifier gets right is explained for its true class; the map makes a box, by value, energy or
    mean thresholding, and the box is right when its IoU with one of the image's boxes is above 0.5. The error is the
    share of images with a wrong one. Rule and alpha are chosen on one part of the images, by a hash of their names,
    and the error is that of the others. Two boxes that no map made, the whole image and a central one of half its
    area, say what such an error is worth. See :mod:`lightning_adv2.functional.localization` for the rules.

    The images need ``boxes`` or a ``mask`` (a data module with ``boxes``, or drawn shapes). Images without an object
    are left out, and so are those that a box fills.

    ``localization_images.csv`` has one row per image and interpreter. Logs
    ``{stage}/localization/{interpreter}/{metric}``. With fixed batches, such as the data modules yield, the results are
    the same for any number of processes.

    Args:
        calibration: share of the images to choose rule and alpha on, in (0, 1).
        max_area: leave out images with a box that takes a greater share of them, in (0, 1].
        examples: pictures in the figure: the first so many reported images.

    Raises:
        ValueError: an argument is out of range; when it starts, if the images have neither boxes nor a mask.
    """

    name = "localization"
    title = "Localisation error"
    position = 55
    columns = (
        Column("interpreter"),
        Column("n", "images", ","),
        Column("error", "error", ".1%", interval=True),
        Column("rule"),
        Column("alpha", "", "g"),
        Column("calibration_error", "error, calibration", ".1%"),
        Column("iou", "box IoU", ".3f"),
        Column("mask_iou", "mask IoU", ".3f"),
        Column("pointing", "", ".1%"),
        Column("energy_inside", "", ".3f"),
    )
    keys = ("interpreter",)
    logged = ("error", "iou", "mask_iou", "pointing", "energy_inside")
    reads = "batches"
    needs = ()

    def __init__(self, calibration: float = 0.5, max_area: float = 0.95, examples: int = 4) -> None:
        if not 0 < calibration < 1:
            raise ValueError(f"calibration={calibration}: a share in (0, 1), such as 0.5")
        if not 0 < max_area <= 1:
            raise ValueError(f"max_area={max_area}: a share in (0, 1], such as 0.95; 1 leaves no image out")
        if examples < 0:
            raise ValueError(f"examples={examples}: give 0 (none) or more")
        self.calibration, self.max_area, self.examples = calibration, max_area, examples
        self._kept = 0
        self._shown: list[Picture] = []

    def begin(self, subject: Subject) -> None:
        """Start afresh."""
        self._kept, self._shown = 0, []

    def observe(self, batch: Any, subject: Subject) -> list[Seen]:
        """Explain those images that the classifier gets right, and locate their objects by every candidate.

        Raises:
            ValueError: the batch has neither ``boxes`` nor ``mask``.
        """
        if batch.get("boxes") is None and batch.get("mask") is None:
            raise ValueError(
                "the images have neither 'boxes' nor 'mask', which LocalizationEvaluation compares with: give the data "
                "module boxes (a CSV with file,xmin,ymin,xmax,ymax), or take ShapesDataModule"
            )
        images, label, index = batch["images"], batch["label"], batch["batch_index"]
        with torch.no_grad():
            logits = subject.classifier(images)
        found = Object.of(batch.get("mask"), batch.get("boxes"), images.shape[-2:])
        right = (logits.argmax(1) == label) & is_finite(logits)
        absent, large = found.largest == 0, found.largest > self.max_area
        numbers = torch.where(right, torch.where(absent, 2, torch.where(large, 3, 0)), 1).tolist()
        seen = Seen(index, dict(zip(batch["image_id"], numbers, strict=True)), tuple(images.shape[-2:]), {}, [])
        keep = (right & ~absent & ~large).nonzero()[:, 0]
        if not len(keep):
            return [seen]
        # The same images together on any number of processes: float32 results depend on what else is in a batch.
        names, images, label = [batch["image_id"][i] for i in keep.tolist()], images[keep], label[keep]
        found, maps = found.only(keep), {}
        for one in subject.interpreters:
            maps[one.name] = one.explain(subject.classifier, images, label).attribution_map
            seen.located[one.name] = locate(maps[one.name], found, names, index)
        for i, name in enumerate(names):
            if self._kept < self.examples and not calibrates(name, self.calibration):
                shown = {one: values[i].float().cpu() for one, values in maps.items()}
                seen.examples.append(Example(name, to_uint8(images[i]).cpu(), shown))
                self._kept += 1
        return [seen]

    def summarise(self, observed: Sequence[Seen], subject: Subject) -> Findings:
        """One row per interpreter, then one per baseline; see :func:`~lightning_adv2.metrics.localization.evaluate`."""
        ordered, share = sorted(observed, key=lambda seen: seen.batch_index), self.calibration
        images = {name: images_of(s.located[name] for s in ordered if s.located) for name in subject.names}
        rows: list[Row] = []
        tried: list[Row] = []
        rules: list[Row] = []
        chosen: dict[str, int | None] = {}
        for name, own in images.items():
            row, chosen[name] = evaluate(own, share)
            rules += [{"interpreter": name, "rule": rule, **one} for rule, one in row["rules"].items()]
            rows.append({"interpreter": name, "baseline": False} | {key: row[key] for key in _KEYS})
            tried += [{"interpreter": name, **one} for one in _candidates(own, share)]
        first, size = next(iter(images.values())), max((seen.size for seen in ordered), default=(0, 0))
        for name, row in baselines(first, size, share).items():
            rows.append({"interpreter": name, "baseline": True} | {key: row.get(key) for key in _KEYS})
        examples = [one for seen in ordered for one in seen.examples][: self.examples]
        self._shown = [_picture(one, images, chosen) for one in examples]
        counts = self._counts(ordered, first, subject)
        return Findings(
            rows,
            {"calibration": share, "max_area": self.max_area, "images": counts},
            [_note(counts, self.max_area)],
            {"candidates": tried, "rules": rules},
            [row for name, own in images.items() for row in box_rows(name, own, chosen[name], share)],
        )

    def _counts(self, seen: Sequence[Seen], images: Sequence[Image], subject: Subject) -> dict[str, int]:
        """How many images have each status, and how many of the located ones calibrate and are reported."""
        status = {name: number for one in seen for name, number in one.status.items()}
        manifest = subject.data.manifest
        status |= dict.fromkeys(manifest.wrong if manifest else (), STATUSES.index("misclassified"))
        count = Counter(status.values())
        reported = sum(not calibrates(one.image_id, self.calibration) for one in images)
        counts = {name: count[i] for i, name in enumerate(STATUSES)}
        return counts | {"calibration": len(images) - reported, "reported": reported}

    @classmethod
    def tables(cls, findings: Findings) -> list[Table]:
        """One table; the baselines recede."""
        return [Table(cls.title, cls.columns, findings.rows, findings.notes, emphasis=_emphasis)]

    @classmethod
    def figure(cls, findings: Findings) -> Figure | None:
        """Bars of the error; pictures of single images take the networks."""
        return localization_figure(findings.rows) if any(row["n"] for row in findings.rows) else None

    def pictures(self, subject: Subject) -> Mapping[str, Callable[[], Figure | None]]:
        """The bars, and below them the first reported images with their boxes."""
        return {"": partial(localization_figure, self.rows, self._shown)} if any(r["n"] for r in self.rows) else {}


def _emphasis(row: Row) -> str:
    return FAINT if row["baseline"] else ""


def _candidates(images: Sequence[Image], share: float) -> list[Row]:
    """Every rule with every alpha, and its error on the calibration images."""
    choice = choose([one for one in images if calibrates(one.image_id, share) and bool(one.iou.isfinite().all())])
    pairs = zip(CANDIDATES, choice.errors, strict=True) if choice else ()
    return [{"rule": rule, "alpha": alpha, "error": error} for (rule, alpha), error in pairs]


def box_rows(interpreter: str, images: Sequence[Image], best: int | None, share: float) -> list[Row]:
    """One per image: its part, and what the chosen rule makes of it; None where no rule was chosen.

    Args:
        interpreter: name.
        images: of the interpreter.
        best: number of the chosen candidate.
        share: of the images that calibrate.
    """
    rule, alpha = (None, None) if best is None else CANDIDATES[best]
    rows: list[Row] = []
    for one in images:
        part = "calibration" if calibrates(one.image_id, share) else "reported"
        row: Row = {"interpreter": interpreter, "image_id": one.image_id, "part": part, "rule": rule, "alpha": alpha}
        measured = ("xmin", "ymin", "xmax", "ymax", "iou", "correct", "mask_iou", "pointing", "energy_inside")
        values: list[Any] = [None] * len(measured)
        if best is not None and bool(one.iou.isfinite().all()):
            iou, mask_iou = float(one.iou[best]), None if one.mask_iou is None else float(one.mask_iou[best])
            values = [*one.boxes[best].tolist(), iou, int(iou > REQUIRED_IOU), mask_iou, int(one.pointing), one.energy]
        rows.append(row | dict(zip(measured, values, strict=True)))
    return rows


def _picture(one: Example, images: Mapping[str, Sequence[Image]], chosen: Mapping[str, int | None]) -> Picture:
    own = {name: next(i for i in images[name] if i.image_id == one.image_id) for name in one.maps}
    boxes = {
        name: (found.boxes[best].tolist(), float(found.iou[best]))
        for name, found in own.items()
        if (best := chosen[name]) is not None and bool(found.iou.isfinite().all())
    }
    return Picture(one.image_id, one.image, next(iter(own.values())).true_boxes, one.maps, boxes)


def _note(counts: Mapping[str, int], max_area: float) -> str:
    left_out = ", ".join(f"{counts[name]:,} {name.replace('_', ' ')}" for name in STATUSES[1:])
    return (
        f"A box is right when its IoU is above {REQUIRED_IOU:g}. Rule and alpha are chosen on "
        f"{counts['calibration']:,} other images than the {counts['reported']:,} reported. Left out: {left_out} (a box "
        f"over {max_area:.0%} of the image)."
    )
