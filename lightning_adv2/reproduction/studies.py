"""What stands beside the paper's numbered tables: AID, Proposition 1, curves, and the skin-cancer case."""

from __future__ import annotations

from collections.abc import Callable

import lightning_adv2.studies  # noqa: F401 - they register themselves, and say how their files are shown
from lightning_adv2.report.findings import read_findings
from lightning_adv2.report.table import Table
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
        "'noise' here is uniform noise of the attack's size. 'Both for c': attacked and benign image explained for the "
        "same class, so that what is left is the reaction to the attack."
    )
    tables = [shown("Figure 16: RTS and RTS-A under attack", ("interpreter", "attack"), rows, names, note)]
    tables += studies(plan, "aid", "noise", "map_quality", "resilience")
    for row in found.rows("map_quality"):
        mean = row["agreement_l1"]
        if mean is not None:  # over images whose values the file has not, so without an interval
            rows.append(Measured((row["interpreter"], "benign"), {"agreement": Cell(mean, mean, mean, 0)}, {}))
    return rows, tables


def studies(plan: Plan, role: str, *names: str) -> list[Table]:
    """The tables of these studies, as the pages of the runs of this role show them."""
    found = evaluation(plan, role)
    folders = found.folders if found else ()
    files = [read_findings(folder, name) for name in names for folder in folders]
    return [table for study in files if study is not None for table in study.tables]


def study_table(name: str, role: str) -> Callable[[Plan], Found]:
    """What an item shows of a study: its tables, from the runs of a role.

    Args:
        name: of the study.
        role: of the runs whose callbacks include the study.
    """

    def table(plan: Plan) -> Found:
        tables = studies(plan, role, name)
        return ([], tables) if tables else None

    return table


def table_skin(plan: Plan) -> Found:
    """The skin-cancer case: the classifier, and the attack on its lesions."""
    metrics = ("asr", "confidence", "l1", "iou")
    rows = [
        Measured(tuple(place.values()), cells, {}) for place, cells in rows_of(plan, "skin", ("pgd", "adv2"), metrics)
    ]
    names = {"asr": "ASR", "confidence": "confidence", "l1": "L1", "iou": "IoU"}
    note = f"The paper's classifier has a weighted multi-class accuracy of {published.SKIN_ACCURACY:.1%}."
    tables = [shown("Attacked lesions", PLACES, rows, names, note), *studies(plan, "skin", "confusion")]
    return (rows, tables) if rows else None
