"""The parts of the report, and what is left of each in ``reproduction.json`` and in the documentation."""

from __future__ import annotations

import json
import re
from io import StringIO
from pathlib import Path

import pytest
from build_records import make_record
from report.browser import Parsed
from report.runs import make_run
from rich.console import Console

from lightning_adv2.report.findings import Findings, write_findings
from lightning_adv2.reproduction import tables
from lightning_adv2.reproduction.command import report
from lightning_adv2.reproduction.items import ITEMS, Item
from lightning_adv2.reproduction.plan import Plan, PlannedRun
from lightning_adv2.studies import GapEvaluation
from lightning_adv2.studies.gap import gap_images, gap_rows

PAGE = Path(__file__).parents[2] / "docs" / "reproduction.md"
GAP = Item("gap", "Agreement with the target map", ("attacks",), studies=[("attacks", "gap")])


@pytest.fixture
def plan(tmp_path: Path) -> Plan:
    """Two runs with the same study, and a run that was not made."""
    plan = Plan("x", tmp_path, {name: PlannedRun([], role="attacks") for name in ("one", "two", "missing")})
    for name in ("one", "two"):
        record = make_record(0, ["a", "b", "c"], target="patch")
        make_run(plan.folder(name, 0), [record])
        write_findings(plan.folder(name, 0), GapEvaluation, Findings(gap_rows(gap_images(record))))
    return plan


def told(plan: Plan, *items: Item) -> tuple[str, dict[str, object]]:
    """What the report prints, and the content of ``reproduction.json``."""
    out = StringIO()
    report(plan, items, [], Console(file=out, width=250))
    return out.getvalue(), json.loads((plan.output / "reproduction.json").read_text())


def test_the_rows_of_studies_are_in_the_file_as_on_the_page(plan: Plan) -> None:
    printed, content = told(plan, GAP)
    rows = json.loads((plan.folder("one", 0) / "gap.json").read_text())["rows"]
    assert content["studies"] == {"gap": {"gap": {"one": rows, "two": rows}}}
    assert content["tables"] == {}
    assert content["observations"] == []
    assert printed.count(GapEvaluation.title) == 2
    assert "Observations" not in printed
    page = Parsed(plan.output / "report.html")
    assert "The paper's observations" not in page.text
    line = [f"{rows[1]['iou']:.3f} [{rows[1]['iou_low']:.3f}, {rows[1]['iou_high']:.3f}]"]
    assert any(cells[-1:] == line for cells in page.rows)


def test_measured_rows_and_observations_stay_with_their_table(plan: Plan) -> None:
    third = next(item for item in ITEMS if item.key == "3")
    printed, content = told(plan, third, GAP)
    assert list(content["tables"]) == ["3"]
    assert [one["number"] for one in content["observations"]] == ["1"]
    assert "ADV2 deceives" in printed
    found = tables.table_3(plan)
    assert found is not None
    assert len(content["tables"]["3"]) == len(found[0]) > 0
    assert told(plan, Item("peak", "Peak", ("attacks",), studies=[("attacks", "peak")]))[1]["studies"] == {}
    assert "Not run: this reproduction has no finished run for attacks" in (plan.output / "report.html").read_text()


def test_every_item_stands_in_the_documentation_with_its_runs() -> None:
    lines = re.findall(r"^\| [^|]+ \| (\w+) \| ([^|]+) \|$", PAGE.read_text(encoding="utf-8"), re.MULTILINE)
    stated = {key: re.findall(r"`(\w+)`", runs) for key, runs in lines}
    assert set(stated) == {item.key for item in ITEMS}
    for item in ITEMS:
        # The curves' runs are named; all others are called as their roles are.
        assert stated[item.key] == (["epsilon", "steps"] if item.key == "curves" else list(item.roles))
