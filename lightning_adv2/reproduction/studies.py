"""What stands beside the paper's numbered tables: AID, Proposition 1, curves, and the skin-cancer case."""

from __future__ import annotations

from typing import Any

from lightning_adv2.report.page import Table
from lightning_adv2.reproduction import published
from lightning_adv2.reproduction.cells import Cell, Measured, evaluation, shown
from lightning_adv2.reproduction.plan import Plan
from lightning_adv2.reproduction.tables import PLACES, Found, rows_of


def table_aid(plan: Plan) -> Found:
    """RTS and RTS-A: ADV2 and PGD on both, and noise at the two levels; Figures 15 and 16."""
    found = evaluation(plan, "aid")
    if found is None:
        return None
    metrics = ("l1", "iou", "iou_true_class")
    rows = [
        Measured((place["interpreter"], place["attack"]), cells, {})
        for place, cells in rows_of(plan, "aid", ("noise", "pgd", "adv2"), metrics)
    ]
    names = {"l1": "L1", "iou": "IoU", "iou_true_class": "IoU, both for c"}
    note = (
        "'noise' here is uniform noise of the attack's size. 'Both for c': attacked and benign image explained "
        "for the same class, so that what is left is the reaction to the attack."
    )
    tables = [shown("Figure 16: RTS and RTS-A under attack", ("interpreter", "attack"), rows, names, note)]
    for content in found.files("noise.json"):
        tables.append(_noise_table(content))
    for content in found.files("map_quality.json"):
        tables.append(_quality_table(content))
        for name, means in content.items():
            if "agreement_l1" in means:  # a mean over images without their values, so without an interval
                same = Cell(means["agreement_l1"], means["agreement_l1"], means["agreement_l1"], 0)
                rows.append(Measured((name, "benign"), {"agreement": same}, {}))
    return rows, tables


def _noise_table(content: Any) -> Table:
    levels = {(one["kind"], one["rate"]): one for one in content["levels"]}
    body = [
        (
            row["interpreter"], row["kind"], f"{row['rate']:.0%}",
            f"{levels[row['kind'], row['rate']]['rate_reached']:.1%}", str(row["n"]),
            _number(row["l1"]), _number(row["iou"]),
        )
        for row in content["rows"]
    ]  # fmt: skip
    columns = ("interpreter", "noise", "misclassified, asked", "reached", "images", "L1", "IoU")
    return Table(
        "Figure 15: noise at which so many are misclassified", columns, body, "Noisy against clean map, for c."
    )


def _quality_table(content: Any) -> Table:
    keys = list(dict.fromkeys(key for means in content.values() for key in means))
    body = [(name, *(_number(means.get(key)) for key in keys)) for name, means in content.items()]
    return Table("What the benign maps are worth", ("interpreter", *(key.replace("_", " ") for key in keys)), body)


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:.3f}"


def table_proposition(plan: Plan) -> Found:
    """Proposition 1: the gain of the prediction is at most the L1 norm of the difference map."""
    found = evaluation(plan, "attacks")
    contents = found.files("proposition.json") if found else []
    body = [
        (
            row["attack"], row["interpreter"], str(row["n"]), _number(row["gain"]), _number(row["l1"]),
            f"{row['completeness_error']:.1e}", f"{row['holds']:.1%}",
        )
        for content in contents
        for row in content["rows"]
    ]  # fmt: skip
    if not body:
        return None
    columns = ("attack", "made for", "images", "gain of f_c_t", "L1 of the difference map", "quadrature error", "holds")
    note = (
        "Equations 11 to 13: f(x*) - f(x) is at most the L1 norm of integrated gradients along the segment between "
        "them. The paper proves it; here it is checked on every image."
    )
    return [], [Table("Proposition 1, image by image", columns, body, note)]


def table_curves(plan: Plan) -> Found:
    """ASR and IoU over epsilon or steps."""
    found = evaluation(plan, "curves")
    contents = found.files("curves.json") if found else []
    body = [
        (row["interpreter"], row["family"], row["axis"], f"{row['x']:g}", str(row["n"]),
         _number(row["asr"]), _number(row["iou"]), _number(row["l1"]))
        for content in contents
        for row in content["rows"]
    ]  # fmt: skip
    columns = ("interpreter", "attack", "axis", "value", "images", "ASR", "IoU", "L1")
    note = "Not in the paper: how far the result depends on epsilon and on the number of steps."
    return ([], [Table("Success and map over strength", columns, body, note)]) if body else None


def table_skin(plan: Plan) -> Found:
    """The skin-cancer case: the classifier, and the attack on its lesions."""
    metrics = ("asr", "confidence", "l1", "iou")
    rows = [
        Measured(tuple(place.values()), cells, {}) for place, cells in rows_of(plan, "skin", ("pgd", "adv2"), metrics)
    ]
    names = {"asr": "ASR", "confidence": "confidence", "l1": "L1", "iou": "IoU"}
    note = f"The paper's classifier has a weighted multi-class accuracy of {published.SKIN_ACCURACY:.1%}."
    return (rows, [shown("Attacked lesions", PLACES, rows, names, note)]) if rows else None
