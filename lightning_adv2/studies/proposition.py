"""Proposition 1 (section 5.3), in numbers: does the map have to show what the attack gains in the prediction?"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from statistics import median
from typing import Any

import torch
from matplotlib.figure import Figure

from lightning_adv2.functional.proposition import judge_bound, prediction_bound
from lightning_adv2.models import Classifier
from lightning_adv2.report.bars import attack_label, by_interpreter
from lightning_adv2.report.figures import FORMULA, PALETTE, heading, plain_axis
from lightning_adv2.report.findings import Findings
from lightning_adv2.report.table import ALERT, Column, Table
from lightning_adv2.results.means import empty_key, mean_of
from lightning_adv2.results.records import AttackRecord, BatchRecord, to_float
from lightning_adv2.results.summary import Row
from lightning_adv2.studies.base import Study
from lightning_adv2.studies.rows import attack_heads
from lightning_adv2.studies.subject import Subject

VERDICTS = ("held", "violated", "unresolved")
_KEYS = ("interpreter", "attack", "schedule", "role")
_CHUNK = 32


class PropositionEvaluation(Study):
    """Check proposition 1 (section 5.3) on the attacked images; comes after AttackEvaluation.

    Along the line from the benign to the attacked image, Integrated Gradients of the target class's probability give
    the difference map; the proposition says that its L1 norm is at least what the probability gained. How loose that is
    (``slack``, L1 over gain) says how much the coupling of prediction and map binds the attacker.

    An attack that ignores the map has one row for all interpreters, and no interpreter in its log keys.

    Args:
        steps: points of the quadrature; each costs a gradient of the classifier per image and attack.
        tolerance: numerical error in probability that is put up with. On CIFAR-10, 128 points miss by up to 0.018 under
            attacks with epsilon 0.031, 16 points by up to 0.58.

    Raises:
        ValueError: an argument is out of range.
    """

    name = "proposition"
    title = "Proposition 1"
    position = 70
    columns = (
        Column("interpreter", main=True),
        Column("attack", main=True),
        Column("schedule"),
        Column("n", "images", ","),
        *(Column(verdict, "", ",", main=True) for verdict in VERDICTS),
        Column("gain", "gain", ".3f", main=True),
        Column("l1", "L1", ".3f", main=True),
        Column("slack", "L1 / gain", ".1f"),
        Column("error", "error", ".4f"),
        Column("max_error", "largest", ".4f"),
    )
    keys = ("attack", "interpreter")
    logged = (*VERDICTS, "gain", "l1", "slack", "error", "max_error")

    def __init__(self, steps: int = 128, tolerance: float = 0.02) -> None:
        if steps < 1:
            raise ValueError(f"steps={steps}: the integral takes at least 1 point; 128 is the default")
        if not 0 < tolerance < 1:
            raise ValueError(f"tolerance={tolerance}: an error in probability, in (0, 1); 0.02 is the default")
        self.steps, self.tolerance = steps, tolerance

    def observe(self, batch: Mapping[str, BatchRecord], subject: Subject) -> list[Row]:
        """Both sides of the proposition for every image under every attack."""
        return list(bound_images(subject.classifier, batch, self.steps, subject.device))

    def summarise(self, observed: Sequence[Row], subject: Subject) -> Findings:
        """Counts of verdicts and means over images; the images are details."""
        images = judged_images(observed, self.tolerance)
        settings = {"steps": self.steps, "tolerance": self.tolerance}
        return Findings(proposition_rows(images), settings, details={"images": images})

    @classmethod
    def tables(cls, findings: Findings) -> list[Table]:
        """All rows; where the proposition is violated, they stand out."""
        steps, tolerance = findings.settings["steps"], findings.settings["tolerance"]
        title = f"Proposition 1: gain <= L1 of the difference map ({steps} points, tolerance {tolerance:g})"
        return [Table(title, cls.columns, findings.rows, findings.notes, emphasis=_emphasis)]

    @classmethod
    def figure(cls, findings: Findings) -> Figure | None:
        """Every attacked image: prediction gain against the map's L1 norm; nothing may lie below the diagonal."""
        images = findings.details["images"]
        return proposition_figure(images) if images else None


def _emphasis(row: Row) -> str:
    return ALERT if row["violated"] else ""


def bound_images(
    classifier: Classifier, records: Mapping[str, BatchRecord], steps: int, device: torch.device
) -> Iterator[Row]:
    """For :func:`judged_images`: both sides of the proposition for every image of one batch under every attack.

    An attack that ignores the map made the same images for all interpreters, and is looked at under the first alone,
    without its name. The control that changes no image has nothing to gain, and is left out.

    Args:
        classifier: in eval mode.
        records: of the same batch, by interpreter.
        steps: points of the quadrature.
        device: where to compute.
    """
    for number, record in enumerate(records.values()):
        for head, attack in attack_heads(record):
            if attack.threat_model == "none" or (number and not attack.needs_map):
                continue
            place = head["order"] if attack.needs_map else (-1, head["order"][1])
            names = head | {"interpreter": record.interpreter if attack.needs_map else None}
            for image_id, gain, total, l1 in _bounds(classifier, record, attack, steps, device):
                order = (*place, record.batch_index, image_id)
                yield names | {"order": order, "image_id": image_id, "gain": gain, "total": total, "l1": l1}


def _bounds(
    classifier: Classifier, record: BatchRecord, attack: AttackRecord, steps: int, device: torch.device
) -> Iterator[tuple[str, float, float, float]]:
    """Image, gain, sum of the difference map, and its L1 norm."""
    for part in torch.split(attack.valid.nonzero()[:, 0], _CHUNK):
        images, adv_images = (to_float(pixels[part]).to(device) for pixels in (record.images, attack.adv_images))
        target_class = record.target_class[part].to(device)
        bound = prediction_bound(classifier, images, adv_images, target_class, steps=steps)
        names = [record.image_id[i] for i in part.tolist()]
        yield from zip(names, *(side.tolist() for side in bound), strict=True)


def judged_images(images: Sequence[Row], tolerance: float) -> list[Row]:
    """One row per image and attack, in the order of the attacks; an image that comes twice counts once.

    ``error`` is by how much the difference map's sum misses the gain, ``slack`` the L1 norm over the gain (None where
    nothing is gained beyond ``tolerance``); what is not finite is None.
    """
    once: dict[tuple[Any, ...], Row] = {}
    for one in sorted(images, key=lambda row: row["order"]):
        once.setdefault((*(one[key] for key in _KEYS), one["image_id"]), one)
    return [_judged(one, tolerance) for one in once.values()]


def _judged(one: Row, tolerance: float) -> Row:
    gain, total, l1 = one["gain"], one["total"], one["l1"]
    values: Row = {"gain": gain, "l1": l1, "error": gain - total, "slack": l1 / gain if gain > tolerance else None}
    finite = {key: value if value is not None and math.isfinite(value) else None for key, value in values.items()}
    head = {key: one[key] for key in (*_KEYS, "image_id")}
    return head | finite | {"verdict": judge_bound(gain, total, l1, tolerance)}


def proposition_rows(images: Sequence[Row]) -> list[Row]:
    """One row per attack and, where it aims at a map, interpreter (else None).

    ``held``, ``violated`` and ``unresolved`` of the ``n`` images have that verdict. ``gain`` and ``l1`` are means,
    ``slack`` is the median of the images that have one, ``error`` the mean and ``max_error`` the largest of the
    absolute errors; None where there is no number to take. ``empty_gain``, ``empty_l1``, ``empty_slack`` and
    ``empty_error`` images have no such number. Sums are exact, so that no order shows.
    """
    groups: dict[tuple[Any, ...], list[Row]] = {}
    for image in images:
        groups.setdefault(tuple(image[key] for key in _KEYS), []).append(image)
    rows: list[Row] = []
    for names, own in groups.items():
        verdicts = Counter(image["verdict"] for image in own)
        values = {key: [image[key] for image in own if image[key] is not None] for key in ("gain", "l1", "slack")}
        errors = [abs(image["error"]) for image in own if image["error"] is not None]
        row: Row = dict(zip(_KEYS, names, strict=True)) | {"n": len(own)}
        row |= {verdict: verdicts[verdict] for verdict in VERDICTS}
        row |= {"gain": mean_of(values["gain"]), "l1": mean_of(values["l1"])}
        row |= {"slack": median(values["slack"]) if values["slack"] else None}
        row |= {"error": mean_of(errors), "max_error": max(errors, default=None)}
        row |= {empty_key(key): len(own) - len(found) for key, found in (*values.items(), ("error", errors))}
        rows.append(row)
    return rows


def proposition_figure(images: Sequence[Row]) -> Figure:
    """See :meth:`PropositionEvaluation.figure`; the rows are of :func:`judged_images`."""
    groups: dict[str, list[tuple[float, float]]] = {}
    for image in images:
        if image["gain"] is not None and image["l1"] is not None:
            groups.setdefault(_label(image), []).append((image["gain"], image["l1"]))
    figure = Figure((10.5, 4.4), layout="constrained")
    heading(figure, "Proposition 1: prediction gain is at most the difference map's L1")
    scatter, strips = figure.subplots(1, 2, sharey=True)
    for number, (label, points) in enumerate(groups.items()):
        gain, l1 = zip(*points, strict=True)
        style: dict[str, Any] = {"s": 16, "alpha": 0.7, "linewidths": 0, "color": PALETTE[number % len(PALETTE)]}
        scatter.scatter(gain, l1, label=label, **style)
        # Beside one another, for successful attacks all gain nearly 1.
        spread = [number + 0.5 * (i / max(1, len(l1) - 1) - 0.5) for i in range(len(l1))]
        strips.scatter(spread, l1, **style)
        strips.hlines(math.fsum(gain) / len(gain), number - 0.35, number + 0.35, color="black", linewidth=1.2)
    line = [1e-6 * 10 ** (6 * i / 100) for i in range(101)]
    scatter.fill_between(line, line, 1e-9, color="0.9", linewidth=0, label="ruled out")
    scatter.plot(line, line, color="black", linewidth=0.8)
    highest = max((l1 for points in groups.values() for _, l1 in points), default=1.0)
    scatter.set(xlim=(-0.05, 1.05), ylim=(0.01, 2 * max(1.0, highest)), yscale="log")
    scatter.yaxis.set_major_formatter("{x:g}")
    scatter.yaxis.set_minor_formatter("")
    scatter.set_xlabel(r"prediction gain $f_{c_t}(x^*) - f_{c_t}(x_0)$", gid=FORMULA)
    scatter.set_ylabel(r"$\|\Delta m\|_1$", gid=FORMULA)
    strips.set_xticks(range(len(groups)), list(groups), fontsize=8, rotation=20, ha="right")
    strips.set_title("by attack; the bar is the mean gain", fontsize=8)
    for axis in (scatter, strips):
        plain_axis(axis)
    scatter.legend(loc="lower center", fontsize=8, frameon=False)
    return figure


def _label(row: Row) -> str:
    return f"{by_interpreter(row)} {attack_label(row)}" if row["interpreter"] else attack_label(row)
