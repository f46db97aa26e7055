"""Tables of the paper that read a study's file, from files as the studies write them."""

from pathlib import Path
from typing import Any

import pytest
from build_records import make_record
from report.runs import make_run

from lightning_adv2.report.findings import Findings, write_findings
from lightning_adv2.reproduction import published, tables
from lightning_adv2.reproduction.cells import share_cell
from lightning_adv2.reproduction.plan import Plan, PlannedRun
from lightning_adv2.studies import DetectionEvaluation, TransferEvaluation


@pytest.fixture
def plan(tmp_path: Path) -> Plan:
    return Plan("x", tmp_path, {role: PlannedRun([]) for role in ("attacks", "squeezing")})


def detected(detector: str, interpreter: str, attack: str, rate: float | None, role: str = "joint") -> dict[str, Any]:
    head = {"interpreter": interpreter, "detector": detector, "attack": attack, "schedule": "fast", "role": role}
    others = dict.fromkeys(("benign_fpr", "calibration_fpr", "auroc", "threshold"))
    return head | others | {"n": 40 if rate is not None else 0, "detection_rate": rate}


def test_4_has_the_papers_detectors_and_attacks_beside_its_figures(plan: Plan) -> None:
    assert tables.table_4(plan) is None
    first = [
        detected("squeezing-median3x3", "rts", "adv2", 0.75), detected("squeezing-bit2", "rts", "pgd", 0.5, "class"),
        detected("squeezing-bit2", "rts", "noise", 0.1, "control"), detected("lid20", "rts", "pgd", 0.2, "class"),
        detected("squeezing-bit2", "rts", "stadv", 0.2, "class"), detected("squeezing-bit2", "mask", "adv2", None),
    ]  # fmt: skip
    second = [
        detected("squeezing-bit2", "rts", "adaptive", 0.25),
        detected("squeezing-bit2", "rts", "noise", 0, "control"),
    ]
    for role, rows in (("attacks", first), ("squeezing", second)):
        write_findings(plan.folder(role, 0), DetectionEvaluation, Findings(rows))
    found = tables.table_4(plan)
    assert found is not None
    rows, (table,) = found
    assert [(row.place, row.cells["detection_rate"], dict(row.published)) for row in rows] == [
        (("2-bit depth", "rts", "pgd"), share_cell(20, 40), {"detection_rate": 0.923}),
        (("2-bit depth", "rts", "adaptive"), share_cell(10, 40), {}),
        (("median 3x3", "rts", "adv2"), share_cell(30, 40), {"detection_rate": 0.990}),
    ]
    assert [cells[-1] for cells in table.cells] == ["0.923", "", "0.99"]


def test_9_has_the_transferred_attack_and_pgd_beside_it(plan: Plan) -> None:
    folder = plan.folder("attacks", 0)
    run = make_run(
        folder, [make_record(0, ["a", "b"], interpreter=name, place=i) for i, name in enumerate(("cam", "grad"))]
    )
    (folder / "images.csv").write_text((run.folder / "images.csv").read_text())
    assert tables.table_9(plan) is None
    head = {"source": "cam", "attack": "adv2", "schedule": "fast", "role": "joint", "n": 2}
    ends = {"l1": 0.2, "l1_low": 0.1, "l1_high": 0.3, "iou": 0.6, "iou_low": 0.5, "iou_high": 0.7, "empty": 0}
    rows = [head | {"interpreter": name} | ends for name in ("cam", "grad")]
    rows.append(rows[0] | {"source": "none", "attack": "pgd", "role": "class"})
    write_findings(folder, TransferEvaluation, Findings(rows))
    found = tables.table_9(plan)
    assert found is not None
    assert [row.place for row in found[0]] == [("cam", "cam"), ("cam", "grad"), ("PGD", "cam"), ("PGD", "grad")]
    cell = found[0][1].cells["l1"]
    assert (cell.value, cell.low, cell.high, cell.n) == (0.2, 0.1, 0.3, 2)
    pgd = {row["interpreter"]: row for row in run.summary.rows if row["attack"] == "pgd"}
    assert found[0][3].cells["iou"].value == pytest.approx(pgd["grad"]["iou"])


def test_every_published_figure_of_a_study_names_a_column_of_it() -> None:
    known = {"detection": DetectionEvaluation, "transfer": TransferEvaluation}
    for stated in (published.DETECTION, published.TRANSFER):
        columns = {column.key for column in known[stated.study].columns}
        assert set(stated.keys) <= columns
        assert {column for values in stated.rows.values() for column in values} <= columns
