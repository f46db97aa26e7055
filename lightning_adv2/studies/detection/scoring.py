"""From the records of a batch to what each detector says of its images, and from there to rows."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from copy import deepcopy
from functools import partial
from typing import NamedTuple

import torch
from torch import Tensor

from lightning_adv2.detectors import Detector, NotApplicableError, threshold_at
from lightning_adv2.detectors.base import in_chunks
from lightning_adv2.interpreters import Interpreter
from lightning_adv2.models import Classifier
from lightning_adv2.results.records import AttackRecord, BatchRecord, to_float
from lightning_adv2.results.summary import Row
from lightning_adv2.studies.rows import attack_heads

CALIBRATION, BENIGN, ATTACKED = "calibration", "benign", "attacked"
"""Parts of the images: those that set the thresholds, those that were attacked, before and after the attack."""

_GROUP = ("part", "attack", "schedule", "role")
_KEYS = ("interpreter", "detector", *_GROUP)


class Fitted(NamedTuple):
    """A detector under one interpreter, ready to score.

    Attributes:
        interpreter: its name.
        place: of the interpreter among the module's.
        detector: its name.
        number: of the detector among those of the study.
        score: images ``(n, C, H, W)`` -> ``(n,)`` float64 on the CPU.
        calibration: ``(N,)``, the scores of the images that the detector was fitted on.
    """

    interpreter: str
    place: int
    detector: str
    number: int
    score: Callable[[Tensor], Tensor]
    calibration: Tensor


def fit_detectors(
    detectors: Sequence[Detector],
    classifier: Classifier,
    interpreters: Sequence[Interpreter],
    images: Tensor,
    label: Tensor,
) -> list[Fitted]:
    """Fit every detector on calibration images: once, or for each interpreter a copy where the score depends on it.

    Args:
        detectors: what to fit; one that needs another interpreter is left out under this one.
        classifier: in eval mode.
        interpreters: in eval mode.
        images: ``(N, C, H, W)``, calibration images, on the classifier's device.
        label: ``(N,)``.

    Raises:
        NotApplicableError: a detector fits none of the interpreters.
    """
    fitted: list[Fitted] = []
    refusals: dict[str, NotApplicableError] = {}
    shared: dict[str, Tensor] = {}
    for place, interpreter in enumerate(interpreters):
        for number, detector in enumerate(detectors):
            own = deepcopy(detector) if detector.needs_interpreter else detector
            score = partial(_scores, own, classifier, interpreter)
            scores = shared.get(detector.name)
            if scores is None:
                try:
                    own.fit(classifier, interpreter, images, label)
                    scores = score(images)
                except NotApplicableError as error:
                    refusals[detector.name] = error
                    continue
                if not detector.needs_interpreter:
                    shared[detector.name] = scores
            fitted.append(Fitted(interpreter.name, place, detector.name, number, score, scores))
    for name, refusal in refusals.items():
        if name not in {one.detector for one in fitted}:
            raise refusal
    return fitted


def _scores(detector: Detector, classifier: Classifier, interpreter: Interpreter, images: Tensor) -> Tensor:
    parts = [detector.score(classifier, interpreter, chunk) for chunk in in_chunks(images) if len(chunk)]
    return torch.cat(parts).double().cpu() if parts else torch.empty(0, dtype=torch.float64)


def counted(record: BatchRecord, attack: AttackRecord) -> Tensor:
    """Which images of a batch there is something to detect on: ``(n,)`` bool.

    Of an attack, those that it succeeded on; of a control, those that it changed (a benign image explained for another
    class is not to be detected); of both, those without NaN or infinity.
    """
    if attack.role == "control":
        return attack.valid & (attack.adv_images != record.images).flatten(1).any(1)
    return attack.valid & (attack.adv_predicted == record.target_class)


def calibration_images(fitted: Sequence[Fitted], names: Sequence[str]) -> Iterator[Row]:
    """For :func:`detection_rows`: the calibration images ``names`` by each detector."""
    for one in fitted:
        head: Row = {"order": (one.place, one.number, -2), "part": CALIBRATION, **dict.fromkeys(_GROUP[1:])}
        yield from _rows(head, one, 0, names, one.calibration)


def scored_images(fitted: Sequence[Fitted], records: Mapping[str, BatchRecord], device: torch.device) -> Iterator[Row]:
    """For :func:`detection_rows`: the images of one batch, benign and attacked, by each detector.

    Args:
        fitted: the detectors.
        records: of the same batch, by interpreter.
        device: where to compute.
    """
    for record in records.values():
        every = torch.ones(len(record.image_id), dtype=torch.bool)
        parts: list[tuple[int, Row, Tensor, Tensor]] = [
            (-1, {"part": BENIGN, **dict.fromkeys(_GROUP[1:])}, record.images, every)
        ]
        for head, attack in attack_heads(record):
            group = {"part": ATTACKED, **{key: head[key] for key in _GROUP[1:]}}
            parts.append((head["order"][1], group, attack.adv_images, counted(record, attack)))
        for number, group, pixels, count in parts:
            keep = count.nonzero()[:, 0].tolist()
            images = to_float(pixels[keep]).to(device)
            for one in (each for each in fitted if each.interpreter == record.interpreter):
                head = {"order": (one.place, one.number, number), **group}
                yield from _rows(head, one, record.batch_index, [record.image_id[i] for i in keep], one.score(images))


def _rows(head: Row, one: Fitted, batch_index: int, names: Sequence[str], scores: Tensor) -> Iterator[Row]:
    """A row for each image, and one without an image, so that an attack without images has a row."""
    head = head | {"interpreter": one.interpreter, "detector": one.detector}
    for i, (name, score) in enumerate(zip((None, *names), (None, *scores.tolist()), strict=True)):
        yield head | {"order": (*head["order"], batch_index, i), "image_id": name, "score": score}


def unique_images(images: Sequence[Row]) -> list[Row]:
    """The rows in their order, those of an image that comes twice once."""
    once: dict[tuple[object, ...], Row] = {}
    for row in sorted(images, key=lambda row: row["order"]):
        once.setdefault(tuple(row[key] for key in (*_KEYS, "image_id")), row)
    return list(once.values())


def detection_rows(images: Sequence[Row], false_positive_rate: float) -> list[Row]:
    """One row per interpreter, detector and attack; a pure function of the images' scores.

    The threshold comes from the calibration scores alone; ``calibration_fpr`` is the share of them above it,
    ``benign_fpr`` the share of the attacked images, before the attack. Scores that are not finite are left out.
    ``detection_rate`` and ``auroc`` are None where an attack has no image that counts; a control without one has no
    row.

    Args:
        images: of :func:`unique_images`.
        false_positive_rate: the share of the calibration images that may be flagged.
    """
    groups: dict[tuple[str, str], dict[tuple[object, ...], list[float]]] = {}
    for image in images:
        group = groups.setdefault((image["interpreter"], image["detector"]), {})
        group.setdefault(tuple(image[key] for key in _GROUP), []).extend(
            [] if image["image_id"] is None else [image["score"]]
        )
    rows: list[Row] = []
    for (interpreter, detector), parts in groups.items():
        calibration, benign = (
            torch.tensor(parts.pop((part, None, None, None), []), dtype=torch.float64) for part in (CALIBRATION, BENIGN)
        )
        threshold = threshold_at(calibration, false_positive_rate)
        benign = benign[benign.isfinite()]
        for (_, attack, schedule, role), scores in parts.items():
            found = torch.tensor(scores, dtype=torch.float64)
            if role == "control" and not len(found):
                continue  # it changes no image
            found = found[found.isfinite()]
            rows.append(
                {
                    "interpreter": interpreter,
                    "detector": detector,
                    "threshold": threshold,
                    "attack": attack,
                    "schedule": schedule,
                    "role": role,
                    "n": len(found),
                    "detection_rate": _share_above(found, threshold),
                    "benign_fpr": _share_above(benign, threshold),
                    "calibration_fpr": _share_above(calibration, threshold),
                    "auroc": auroc(benign, found) if len(benign) and len(found) else None,
                }
            )
    return rows


def _share_above(scores: Tensor, threshold: float) -> float | None:
    return float((scores > threshold).double().mean()) if len(scores) else None


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
