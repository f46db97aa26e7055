"""The paper's tables, each a function from a plan's finished runs to rows; None where its runs are not there."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace

from lightning_adv2.report.table import Table
from lightning_adv2.reproduction import published
from lightning_adv2.reproduction.cells import Measured, Row, evaluation, measured, share_cell, shown
from lightning_adv2.reproduction.plan import Plan

CLASSIFIERS = {"attacks": "first", "second": "second"}
"""Role -> the paper's classifier whose place it takes: ResNet-50, DenseNet-169."""

Found = tuple[list[Measured], list[Table]] | None


def rows_of(plan: Plan, role: str, attacks: Sequence[str], metrics: Sequence[str]) -> Iterator[tuple[Row, Row]]:
    """(classifier, interpreter, attack), and the cells."""
    found = evaluation(plan, role)
    for name in found.interpreters if found else []:
        for attack in attacks:
            assert found is not None
            cells = {metric: found.cell(metric, interpreter=name, attack=attack) for metric in metrics}
            if any(cell.n for cell in cells.values()):
                yield {"classifier": found.images[0]["classifier"], "interpreter": name, "attack": attack}, cells


def _both(plan: Plan, metrics: Sequence[str], stated: dict[published.Place, dict[str, float]]) -> list[Measured]:
    rows = []
    for role, which in CLASSIFIERS.items():
        for place, cells in rows_of(plan, role, ("pgd", "adv2"), metrics):
            known = stated.get((which, place["interpreter"], place["attack"]), {})
            rows.append(Measured(tuple(place.values()), cells, known))
    return rows


PLACES = ("classifier", "interpreter", "attack")


def table_2(plan: Plan) -> Found:
    """Localisation error."""
    found = evaluation(plan, "localization")
    rows = []
    for row in found.rows("localization") if found else []:
        if row["error"] is not None:
            rule = "baseline" if row["baseline"] else f"{row['rule']} {row['alpha']:g}"
            cells = {"error": share_cell(round(row["error"] * row["n"]), row["n"])}
            stated = published.LOCALIZATION.rows.get((row["interpreter"],), {})
            rows.append(Measured((row["interpreter"], rule), cells, stated))
    if not rows:
        return None
    note = (
        "Share of images on which the box made of the map overlaps no true box by more than half; rule and "
        "threshold are chosen on other images."
    )
    return rows, [shown("Table 2: localisation error", ("interpreter", "rule"), rows, {"error": "error"}, note)]


def table_3(plan: Plan) -> Found:
    """ASR and confidence."""
    rows = _both(plan, ("asr", "confidence"), published.EFFECTIVENESS)
    names = {"asr": "ASR", "confidence": "confidence"}
    note = "ASR: share of the images classified as the target class; confidence: mean probability of it."
    return (rows, [shown("Table 3: is the classifier fooled?", PLACES, rows, names, note)]) if rows else None


def table_12(plan: Plan) -> Found:
    """L1, L2 and IoU of the maps; Figures 5 and 6."""
    rows = _both(plan, ("l1", "l2", "iou"), published.MAPS)
    names = {"l1": "L1", "l2": "L2", "iou": "IoU"}
    note = "Attacked map against benign map, L1 per pixel, L2 over the root of the pixels, IoU of the maps cut at 0.5."
    title = "Table 12, Figures 5 and 6: does the map stay where it was?"
    return (rows, [shown(title, PLACES, rows, names, note)]) if rows else None


def table_4(plan: Plan) -> Found:
    """Detection by feature squeezing: PGD and ADV2 from the first runs, the adaptive attack from its own."""
    rows = [
        replace(row, place=(published.SQUEEZERS[row.place[0]], *row.place[1:]))
        for role in ("attacks", "squeezing")
        for row in measured(evaluation(plan, role), published.DETECTION, ("detection_rate",), _KEPT[role])
    ]
    if not rows:
        return None
    order = list(published.SQUEEZERS.values())
    names = list(dict.fromkeys(row.place[1] for row in rows))
    rows.sort(key=lambda row: (order.index(row.place[0]), names.index(row.place[1])))
    low, high = published.ADAPTIVE_DETECTION
    note = (
        "Share of the successful attacks that a squeezer detects at 5% false positives. 'adaptive' is one image "
        "against all four squeezers; the paper adapts to one at a time, and is detected between "
        f"{low:.1%} and {high:.1%}."
    )
    headings = ("squeezer", "interpreter", "attack")
    return rows, [shown("Table 4: who notices?", headings, rows, {"detection_rate": "detected"}, note)]


def _squeezed(row: Row) -> bool:
    return row["detector"] in published.SQUEEZERS and row["role"] != "control"


_KEPT = {"attacks": lambda row: _squeezed(row) and row["attack"] in ("pgd", "adv2"), "squeezing": _squeezed}
"""Role of a run -> which rows of its detection the table has."""


def table_5(plan: Plan) -> Found:
    """Maps of the adaptive attack beside PGD's and ADV2's."""
    places = [*rows_of(plan, "attacks", ("pgd", "adv2"), ("l1", "iou"))]
    adaptive = [*rows_of(plan, "squeezing", ("adaptive",), ("l1", "iou"))]
    names = {place["interpreter"] for place, _ in adaptive}
    kept = [(place, cells) for place, cells in places if place["interpreter"] in names] + adaptive
    rows = [
        Measured(
            (place["interpreter"], place["attack"]),
            cells,
            published.ADAPTIVE_MAPS.get((place["interpreter"], place["attack"]), {}),
        )
        for place, cells in sorted(kept, key=lambda one: one[0]["interpreter"])
    ]
    names_of = {"l1": "L1", "iou": "IoU"}
    note = "What it costs the map to evade the squeezers as well."
    title = "Table 5: maps of the adaptive attack"
    return (rows, [shown(title, ("interpreter", "attack"), rows, names_of, note)]) if adaptive else None


def table_8(plan: Plan) -> Found:
    """Random patch and random class as target maps, with PGD as the level of chance; Figures 11 to 13."""
    rows = []
    for role in ("patch", "class"):
        for place, cells in rows_of(plan, role, ("pgd", "adv2"), ("asr", "confidence", "l1", "iou")):
            rows.append(Measured((role, place["interpreter"], place["attack"]), cells, {}))
    names = {"asr": "ASR", "confidence": "confidence", "l1": "L1 to target", "iou": "IoU with target"}
    note = "The attacker wants any class and any map; PGD, which knows nothing of the map, shows what chance gives."
    title = "Table 8, Figures 11 to 13: a map of the attacker's choice"
    return (rows, [shown(title, ("target map", "interpreter", "attack"), rows, names, note)]) if rows else None


def table_9(plan: Plan) -> Found:
    """L1 under an interpreter that the attack was not made for; PGD beside it."""
    found = evaluation(plan, "attacks")
    if found is None:
        return None
    rows = measured(found, published.TRANSFER, ("l1", "iou"), lambda row: row["attack"] == "adv2")
    if not rows:
        return None
    rows += [
        Measured(("PGD", name), {m: found.cell(m, interpreter=name, attack="pgd") for m in ("l1", "iou")}, {})
        for name in found.interpreters
    ]
    names = {"l1": "L1", "iou": "IoU"}
    note = "Rows: the interpreter that ADV2 was made for, and the one that explains its images. PGD was made for none."
    title = "Table 9, Figure 14: does an attack on one interpreter fool another?"
    return rows, [shown(title, ("attack made for", "explained by"), rows, names, note)]


def table_stadv(plan: Plan) -> Found:
    """StAdv and StAdv-ADV2."""
    metrics = ("asr", "confidence", "l1", "iou", "size")
    rows = [
        Measured(tuple(place.values()), cells, {})
        for place, cells in rows_of(plan, "stadv", ("stadv", "stadv-adv2"), metrics)
    ]
    names = {"asr": "ASR", "confidence": "confidence", "l1": "L1", "iou": "IoU", "size": "pixels moved"}
    note = "Pixels are moved, not changed; the last measure is how far, on average."
    title = "StAdv tables: another way to change an image"
    return (rows, [shown(title, PLACES, rows, names, note)]) if rows else None
