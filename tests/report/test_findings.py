"""What a study shows and logs must be in its rows."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from lab import attack_data, idls, trainer

from lightning_adv2.attacks import pgd
from lightning_adv2.evaluation import AttackEvaluation
from lightning_adv2.files.run import record_paths
from lightning_adv2.report.findings import SHOWN, Findings, write_findings
from lightning_adv2.report.table import Column
from lightning_adv2.results.summary import Row
from lightning_adv2.studies import Study

ROW: Row = {"interpreter": "cam", "attack": "pgd", "schedule": "fast", "n": 3, "shift": 0.5}


def study_of(*columns: Column, **attributes: Any) -> type[Study]:
    """A study as in a user's own file, of two rows."""

    class Shift(Study):
        title = "Shift"

        def summarise(self, observed: Any, subject: Any) -> Findings:
            return Findings([ROW, ROW | {"interpreter": "grad"}])

    return type("Shift", (Shift,), {"columns": columns, **attributes})


@pytest.fixture
def name(monkeypatch: pytest.MonkeyPatch) -> str:
    """A name under which the study is known in this test alone."""
    monkeypatch.delitem(SHOWN, "shift_of_a_test", raising=False)
    monkeypatch.setitem(SHOWN, "shift_of_a_test", None)
    return "shift_of_a_test"


@pytest.mark.parametrize(
    ("column", "attributes", "message"),
    [
        (
            Column("shfit"),
            {},
            r"columns asks for 'shfit' \(did you mean 'shift'\?\), which no row has; the rows have inter",
        ),
        (Column("shift", interval=True), {}, r"columns asks for 'shift_low'.*'shift_high'"),
        (Column("shift", empty="emtpy"), {}, "columns asks for 'emtpy', which no row has"),
        (Column("shift"), {"logged": ["shift", "Shifts"]}, r"logged asks for 'Shifts' \(did you mean 'shift'\?\)"),
        (
            Column("shift"),
            {"logged": ["shift"], "keys": ["attak"]},
            r"keys asks for 'attak' \(did you mean 'attack'\?\)",
        ),
    ],
)
def test_a_typo_is_refused_and_named(
    column: Column, attributes: dict[str, Any], message: str, name: str, tmp_path: Path
) -> None:
    study = study_of(Column("interpreter"), column, name=name, **attributes)
    evaluation = AttackEvaluation([pgd(steps=1)])
    with pytest.raises(ValueError, match=f"study {name}: {message}"):
        trainer(tmp_path, evaluation, study()).test(idls("cam"), attack_data(num_images=2), verbose=False)
    assert record_paths(tmp_path / "records"), "the attack need not be repeated"
    right = study_of(Column("interpreter"), Column("shift", format=".3f"), name=name, logged=["shift"])
    loop = trainer(tmp_path, AttackEvaluation([pgd(steps=1)]), right())
    loop.test(idls("cam"), attack_data(num_images=2), verbose=False)
    assert loop.logged_metrics[f"test/{name}/pgd-fast/grad/shift"] == 0.5


def test_a_study_without_rows_is_written(name: str, tmp_path: Path) -> None:
    write_findings(tmp_path, study_of(Column("shift"), name=name), Findings([]))
    assert (tmp_path / f"{name}.csv").read_text().split() == ["shift"]
