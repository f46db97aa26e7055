"""Detection: from scores to rows, table, figure and files."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from matplotlib.figure import Figure
from rich.console import Console
from rich.table import Table
from torch import Tensor

from lightning_adv2.detectors import Detector, NotApplicableError, threshold_at
from lightning_adv2.detectors.base import in_chunks
from lightning_adv2.files import written_whole
from lightning_adv2.interpreters import Interpreter
from lightning_adv2.models import Classifier
from lightning_adv2.report.figures import PALETTE
from lightning_adv2.report.harmless import draw
from lightning_adv2.report.old_tables import show
from lightning_adv2.results.records import AttackRecord, BatchRecord, record_key, to_float
from lightning_adv2.results.summary import Row
from lightning_adv2.results.tables import write_csv


@dataclass
class DetectionScores:
    """What one detector said under one interpreter.

    Attributes:
        interpreter: its name.
        detector: its name.
        calibration: ``(N,)``, of the benign images that set the threshold.
        benign: ``(n,)``, of the benign images that were attacked.
        attacks: (attack, schedule) -> ``(m,)``, of the adversarial images that count; see :func:`counted`.
    """

    interpreter: str
    detector: str
    calibration: Tensor
    benign: Tensor
    attacks: dict[tuple[str, str], Tensor]


def counted(record: BatchRecord, attack: AttackRecord) -> Tensor:
    """Which images of a batch there is something to detect on: ``(n,)`` bool.

    Of an attack, those that it succeeded on; of a control, those that it changed (a benign image explained for another
    class is not to be detected); of both, those without NaN or infinity.
    """
    if attack.schedule == "control":
        return attack.valid & (attack.adv_images != record.images).flatten(1).any(1)
    return attack.valid & (attack.adv_predicted == record.target_class)


def score_records(
    detectors: Sequence[Detector],
    classifier: Classifier,
    interpreters: Sequence[Interpreter],
    images: Tensor,
    label: Tensor,
    records: Callable[[str], Iterable[BatchRecord]],
) -> list[DetectionScores]:
    """Fit every detector on calibration images, then score these and the records.

    Args:
        detectors: what to run.
        classifier: in eval mode.
        interpreters: in eval mode.
        images: ``(N, C, H, W)``, calibration images, on the classifier's device.
        label: ``(N,)``.
        records: gives those of an interpreter by its name, read once each; an image that comes twice counts once.

    Raises:
        NotApplicableError: a detector fits none of the interpreters.
    """
    results: list[DetectionScores] = []
    refusals: dict[str, NotApplicableError] = {}
    calibration: dict[str, Tensor] = {}
    for interpreter in interpreters:
        fitted: dict[str, Callable[[Tensor], Tensor]] = {}
        for detector in detectors:
            score = partial(_scores, detector, classifier, interpreter)
            if detector.name not in calibration or detector.needs_interpreter:
                try:
                    detector.fit(classifier, interpreter, images, label)
                    calibration[detector.name] = score(images)
                except NotApplicableError as error:
                    refusals[detector.name] = error
                    continue
            fitted[detector.name] = score
        for name, (benign, attacks) in _evaluate(fitted, records(interpreter.name), images.device).items():
            results.append(DetectionScores(interpreter.name, name, calibration[name], benign, attacks))
    for name, refusal in refusals.items():
        if name not in calibration:
            raise refusal
    return results


_Found = tuple[Tensor, dict[tuple[str, str], Tensor]]


def _evaluate(
    scores: Mapping[str, Callable[[Tensor], Tensor]], records: Iterable[BatchRecord], device: torch.device
) -> dict[str, _Found]:
    """By detector the scores of the benign images and, by attack, of the adversarial ones."""
    seen: set[str] = set()
    benign: dict[str, list[Tensor]] = {name: [score(torch.empty(0))] for name, score in scores.items()}
    attacks: dict[str, dict[tuple[str, str], list[Tensor]]] = {name: {} for name in scores}
    for record in records:
        fresh = torch.tensor([name not in seen for name in record.image_id], dtype=torch.bool)
        seen.update(record.image_id)
        images = to_float(record.images[fresh]).to(device)
        for name, score in scores.items():
            benign[name].append(score(images))
        for attack in record.attacks:
            adversarial = to_float(attack.adv_images[fresh & counted(record, attack)]).to(device)
            for name, score in scores.items():
                attacks[name].setdefault((attack.attack, attack.schedule), []).append(score(adversarial))
    return {
        name: (torch.cat(benign[name]), {key: torch.cat(parts) for key, parts in attacks[name].items()})
        for name in scores
    }


def _scores(detector: Detector, classifier: Classifier, interpreter: Interpreter, images: Tensor) -> Tensor:
    """In chunks, ``(N,)`` float64 on the CPU."""
    parts = [detector.score(classifier, interpreter, chunk) for chunk in in_chunks(images) if len(chunk)]
    return torch.cat(parts).double().cpu() if parts else torch.empty(0, dtype=torch.float64)


def auroc(benign: Tensor, adversarial: Tensor) -> float:
    """The probability that an adversarial image scores higher than a benign one, ties counting half.

    Args:
        benign: ``(n,)``, not empty.
        adversarial: ``(m,)``, not empty.
    """
    ordered = benign.double().sort().values
    below = torch.searchsorted(ordered, adversarial.double(), right=False)
    up_to = torch.searchsorted(ordered, adversarial.double(), right=True)
    return float((below + up_to).double().mean() / (2 * len(ordered)))


def detection_rows(scores: Sequence[DetectionScores], false_positive_rate: float) -> list[Row]:
    """One row per interpreter, detector and attack; a pure function of the scores.

    The threshold comes from the calibration scores alone; ``calibration_fpr`` is the share of them above it,
    ``benign_fpr`` the share of the attacked images, before the attack. Scores that are not finite are left out.
    ``detection_rate`` and ``auroc`` are None where an attack has no image that counts.
    """
    rows: list[Row] = []
    for part in scores:
        threshold = threshold_at(part.calibration, false_positive_rate)
        benign = part.benign[part.benign.isfinite()]
        for (attack, schedule), found in part.attacks.items():
            if schedule == "control" and not len(found):
                continue  # it changes no image
            adversarial = found[found.isfinite()]
            rows.append(
                {
                    "interpreter": part.interpreter,
                    "detector": part.detector,
                    "threshold": threshold,
                    "attack": attack,
                    "schedule": schedule,
                    "n": len(adversarial),
                    "detection_rate": _share_above(adversarial, threshold),
                    "benign_fpr": _share_above(benign, threshold),
                    "calibration_fpr": _share_above(part.calibration, threshold),
                    "auroc": auroc(benign, adversarial) if len(benign) and len(adversarial) else None,
                }
            )
    return rows


def _share_above(scores: Tensor, threshold: float) -> float | None:
    return float((scores > threshold).double().mean()) if len(scores) else None


def write_detection(
    folder: Path, rows: Sequence[Row], scores: Sequence[DetectionScores], settings: dict[str, Any]
) -> None:
    """Write ``detection.json`` (rows, settings, every score), ``detection.csv`` and ``figures/detection.png``."""
    kept = [
        {
            "interpreter": part.interpreter,
            "detector": part.detector,
            "calibration": part.calibration.tolist(),
            "benign": part.benign.tolist(),
            "attacks": {record_key(*key): found.tolist() for key, found in part.attacks.items()},
        }
        for part in scores
    ]
    content = {"rows": list(rows), "settings": settings, "scores": kept}
    with written_whole(folder / "detection.json") as temporary:
        temporary.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
    write_csv(rows, folder / "detection.csv")
    draw_detection(folder, rows)


def draw_detection(folder: Path, rows: Sequence[Row]) -> None:
    """Draw ``figures/detection.png``, if an attack has images that count."""
    some = any(row["detection_rate"] is not None for row in rows)
    draw(folder / "figures" / "detection.png", lambda: detection_figure(rows) if some else None)


def detection_figure(rows: Sequence[Row]) -> Figure:
    """Bars of the detection rate per detector and attack, one panel per interpreter; a line marks the benign rate."""
    interpreters = list(dict.fromkeys(row["interpreter"] for row in rows))
    detectors = list(dict.fromkeys(row["detector"] for row in rows))
    attacks = list(dict.fromkeys(record_key(row["attack"], row["schedule"]) for row in rows))
    figure = Figure((max(4.5, 1.6 + 1.3 * len(detectors)), 0.6 + 2.6 * len(interpreters)), layout="constrained")
    figure.suptitle("Share of images detected", fontsize=12, fontweight="bold")
    width = 0.8 / len(attacks)
    for axis, interpreter in zip(figure.subplots(len(interpreters), 1, squeeze=False)[:, 0], interpreters, strict=True):
        here = [row for row in rows if row["interpreter"] == interpreter]
        for j, attack in enumerate(attacks):
            found = {
                detectors.index(row["detector"]): row["detection_rate"]
                for row in here
                if record_key(row["attack"], row["schedule"]) == attack and row["detection_rate"] is not None
            }
            at = [i + (j - (len(attacks) - 1) / 2) * width for i in found]
            schedule = attack.rpartition("-")[2]
            drawn = axis.bar(
                at, list(found.values()), width * 0.92, label=attack,
                color=PALETTE[j % len(PALETTE)], alpha=0.55 if schedule == "paper" else 1.0,
            )  # fmt: skip
            axis.bar_label(drawn, fmt="%.2f", fontsize=7)
        benign = {detectors.index(row["detector"]): row["benign_fpr"] for row in here if row["benign_fpr"] is not None}
        axis.errorbar(list(benign), list(benign.values()), xerr=0.45, fmt="none", color="black", label="benign")
        axis.set_xticks(range(len(detectors)), detectors, fontsize=8, rotation=20, ha="right")
        axis.set_ylim(0, 1.08)
        axis.set_ylabel(interpreter.upper())
        axis.spines[["top", "right"]].set_visible(False)
    axis.legend(fontsize=7, frameon=False)
    return figure


def print_detection(rows: Sequence[Row], title: str, console: Console | None = None) -> None:
    """Show rows in the terminal; ADV2 in bold, controls dimmed."""
    table = Table(title=title, title_justify="left", title_style="bold", header_style="bold")
    for heading in ("interpreter", "detector", "attack", "schedule"):
        table.add_column(heading)
    for heading in ("images", "detected", "benign", "calibration", "AUROC", "threshold"):
        table.add_column(heading, justify="right")
    previous = None
    for row in rows:
        group = (row["interpreter"], row["detector"])
        if group != previous:
            table.add_section()
        previous = group
        shares = [
            "-" if row[k] is None else f"{row[k]:.1%}" for k in ("detection_rate", "benign_fpr", "calibration_fpr")
        ]
        table.add_row(
            *group, row["attack"], row["schedule"], str(row["n"]), *shares,
            "-" if row["auroc"] is None else f"{row['auroc']:.3f}", f"{row['threshold']:.5g}",
            style="bold" if row["attack"] == "adv2" else "dim" if row["schedule"] == "control" else "",
        )  # fmt: skip
    show(table, console)
