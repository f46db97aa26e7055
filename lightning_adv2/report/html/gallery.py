"""The gallery of a run: for each image what the attacks made of it and of its maps, and a sheet with all numbers."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from lightning_adv2.report.figures import amplified, iou_text, overlay
from lightning_adv2.report.html.pictures import SMALL, Pictures
from lightning_adv2.report.page import Gallery
from lightning_adv2.report.run_figures import shown_attacks
from lightning_adv2.results.records import BENIGN, AttackRecord, BatchRecord, to_numpy
from lightning_adv2.results.run import Run
from lightning_adv2.results.summary import Row

BUDGET = 9_000_000
"""Bytes of pictures on a page, about: once they are used up, no further image is shown."""

_NUMBERS = {
    "confidence": "confidence",
    "iou": "IoU",
    "l1": "L1",
    "l2": "L2",
    "iou_true_class": "IoU, c",
    "l1_true_class": "L1, c",
    "iou_target_class": "IoU, c_t",
    "l1_target_class": "L1, c_t",
    "iou_benign": "IoU to benign",
    "l1_benign": "L1 to benign",
}
HEADINGS = ("attack", "predicted", "reached c_t", *_NUMBERS.values(), "Linf x255", "size", "flags")
"""Of the columns of a sheet that have numbers."""


@dataclass(frozen=True)
class Shot:
    """An image under one attack, or benign: pictures with what each shows, and a caption below.

    Attributes:
        title: of the attack.
        pictures: number (see :class:`~lightning_adv2.report.html.pictures.Pictures`) and what it shows.
        caption: class, confidence, IoU.
        mood: ``fooled`` where the target class is reached, or empty.
    """

    title: str
    pictures: list[tuple[int, str]]
    caption: str
    mood: str = ""


@dataclass(frozen=True)
class SheetRow:
    """One attack of an image's sheet; ``cells`` belong to :data:`HEADINGS`, a picture may be missing (None)."""

    pictures: list[tuple[int, str] | None]
    cells: list[str]


@dataclass(frozen=True)
class Line:
    """An image under one interpreter: what is shown at once, and its part of the sheet."""

    interpreter: str
    shots: list[Shot]
    sheet: list[SheetRow]


@dataclass(frozen=True)
class Card:
    """An image under all interpreters."""

    image_id: str
    label: str
    target: str
    lines: list[Line] = field(default_factory=list)


@dataclass(frozen=True)
class Cards:
    """What the template draws of a gallery: the cards, a sentence about them, and whether to show single pixels."""

    cards: list[Card]
    note: str
    small: bool


def cards(gallery: Gallery, pictures: Pictures) -> Cards:
    """The first images of a run, not chosen by anybody.

    Args:
        gallery: what to show; fewer than its ``limit`` where the pictures would exceed :data:`BUDGET`.
        pictures: takes the pictures.
    """
    run = gallery.run
    found = _first(gallery)
    shown = (row for row in run.summary.images if row["image_id"] in found)
    rows = {(row["interpreter"], row["attack"], row["schedule"], row["image_id"]): row for row in shown}
    total = len({row["image_id"] for row in run.summary.images})
    made: list[Card] = []
    for image_id, seen in found.items():
        if pictures.size > BUDGET:
            break
        classes = run.about["classes"]
        card = Card(image_id, classes[int(seen[0].label[0])], classes[int(seen[0].target_class[0])])
        card.lines.extend(_line(one, classes, rows, pictures) for one in seen)
        made.append(card)
    side = max((max(seen[0].images.shape[-2:]) for seen in found.values()), default=0)
    note = f"The first {len(made)} of {total} attacked images, in the order of the run: nobody chose them. "
    note += "The perturbation is shown ten times as strong, around grey. c is the true class, c_t the target class."
    return Cards(made, note, 0 < side <= SMALL)


def _first(gallery: Gallery) -> dict[str, list[BatchRecord]]:
    """The images of the first interpreter that has any: each interpreter's record of it, without the other images."""
    found: dict[str, list[BatchRecord]] = {}
    for interpreter in gallery.run.interpreters:
        if found:
            _add(found, gallery.run, interpreter)
            continue
        for record in gallery.run.records(interpreter, bool):
            for i, image_id in enumerate(record.image_id):
                if image_id not in found and len(found) < gallery.limit:
                    found[image_id] = [record.only([i])]
            if len(found) >= gallery.limit:
                break
    return found


def _add(found: Mapping[str, list[BatchRecord]], run: Run, interpreter: str) -> None:
    """Add another interpreter's record of each image, as far as it has one."""
    wanted = set(found)
    for record in run.records(interpreter, lambda names: not wanted.isdisjoint(names)):
        for i, image_id in enumerate(record.image_id):
            if image_id in wanted:
                found[image_id].append(record.only([i]))
                wanted.remove(image_id)


def _line(
    record: BatchRecord, classes: Sequence[str], rows: dict[tuple[str, str, str, str], Row], pictures: Pictures
) -> Line:
    """What is shown of the one image of a record."""
    i = 0
    label, target = classes[int(record.label[i])], classes[int(record.target_class[i])]
    benign = record.images[i]
    image = pictures.add(to_numpy(benign), exact=True), f"benign image, {label}"
    maps = [(pictures.add(overlay(benign, record.benign_map[i])), f"benign map for {label}")]
    if record.target != BENIGN:
        maps.append((pictures.add(overlay(benign, record.target_map[i])), f"target map: {record.target}"))
    shots = [Shot("benign", [image, *maps], label)]
    for_target = pictures.add(overlay(benign, record.benign_map_target_class[i])), f"benign map for {target}"
    nothing = [""] * (len(HEADINGS) - 2)
    sheet = [SheetRow([image, None, maps[0], maps[0], for_target], ["benign", label, *nothing])]
    shown = [attack.key for attack in _told(shown_attacks(record))]
    shots_of = {}
    for attack in record.attacks:
        row = rows[record.interpreter, attack.attack, attack.schedule, record.image_id[i]]
        predicted = classes[row["adv_predicted"]]
        drawn = _drawn(attack, record, i, predicted, label, target, pictures)
        sheet.append(SheetRow(list(drawn), [attack.key, predicted, *_numbers(row, attack)]))
        confidence = f" {row['confidence']:.0%}" if row["success"] else ""
        mood = "fooled" if row["success"] else ""
        shots_of[attack.key] = Shot(attack.key, drawn[:3], f"{predicted}{confidence}, {iou_text(row['iou'])}", mood)
    return Line(record.interpreter, [*shots, *(shots_of[key] for key in shown)], sheet)


def _told(attacks: Sequence[AttackRecord]) -> Sequence[AttackRecord]:
    """The first attack on the class alone and the first joint one, or of one kind the first and the last.

    The sheet shows all.
    """
    first = {attack.role: attack for attack in reversed(attacks)}
    return [first["class"], first["joint"]] if len(first) == 2 else [*attacks[:1], *attacks[1:][-1:]]


def _drawn(
    attack: AttackRecord, record: BatchRecord, i: int, predicted: str, label: str, target: str, pictures: Pictures
) -> list[tuple[int, str]]:
    """Image, perturbation, and the maps for the predicted, the true and the target class."""
    image = attack.adv_images[i]
    drawn = [
        (pictures.add(to_numpy(image), exact=True), f"{attack.key}, classified as {predicted}"),
        (pictures.add(amplified(image, record.images[i]), exact=True), f"{attack.key}, perturbation x10"),
    ]
    maps = ((attack.adv_map, predicted), (attack.adv_map_true_class, label), (attack.adv_map_target_class, target))
    return drawn + [(pictures.add(overlay(image, shown[i])), f"{attack.key}, map for {name}") for shown, name in maps]


def _numbers(row: Row, attack: AttackRecord) -> list[str]:
    """The cells of a sheet's row after the first two."""
    cells = [
        "yes" if row["success"] else "no",
        *("-" if math.isnan(row[key]) else f"{row[key]:.3f}" for key in _NUMBERS),
    ]
    flags = [*attack.flags, *([] if row["valid"] else ["not finite, left out of all means"])]
    return [*cells, f"{row['linf'] * 255:.1f}", f"{row['size']:.3f} {row['unit']}", "; ".join(flags)]
