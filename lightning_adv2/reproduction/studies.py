"""What stands beside the paper's numbered tables: AID, the skin-cancer case, and the files of any study."""

from __future__ import annotations

import lightning_adv2.studies  # noqa: F401 - they register themselves, and say how their files are shown
from lightning_adv2.report.findings import StudyFile, read_findings
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
    for row in found.rows("map_quality"):
        mean = row["agreement_l1"]
        if mean is not None:  # over images whose values the file has not, so without an interval
            rows.append(Measured((row["interpreter"], "benign"), {"agreement": Cell(mean, mean, mean, 0)}, {}))
    return rows, tables


def study_files(plan: Plan, role: str, name: str) -> dict[str, StudyFile]:
    """The files of a study in the finished runs of a role, by the name of the run's folder."""
    found = evaluation(plan, role)
    files = {folder.name: read_findings(folder, name) for folder in (found.folders if found else ())}
    return {run: study for run, study in files.items() if study is not None}


def table_skin(plan: Plan) -> Found:
    """The skin-cancer case: the classifier, and the attack on its lesions."""
    metrics = ("asr", "confidence", "l1", "iou")
    rows = [
        Measured(tuple(place.values()), cells, {}) for place, cells in rows_of(plan, "skin", ("pgd", "adv2"), metrics)
    ]
    names = {"asr": "ASR", "confidence": "confidence", "l1": "L1", "iou": "IoU"}
    note = f"The paper's classifier has a weighted multi-class accuracy of {published.SKIN_ACCURACY:.1%}."
    return (rows, [shown("Attacked lesions", PLACES, rows, names, note)]) if rows else None
