"""What the paper's scale would take, from real files of a run with attacks of any names."""

from dataclasses import replace
from pathlib import Path

import pytest
from build_records import make_record
from report.runs import make_run

from lightning_adv2.files import write_json
from lightning_adv2.reproduction.cost import cost_section
from lightning_adv2.reproduction.jobs import Job
from lightning_adv2.reproduction.plan import PAPER_IMAGES, Plan, PlannedRun
from lightning_adv2.reproduction.published import PAPER_STEPS


@pytest.fixture
def job(tmp_path: Path) -> Job:
    """Under two interpreters: an attack on the class alone, a joint one, one of each kind that moves pixels."""
    records = []
    for place, name in enumerate(("cam", "rts")):
        record = make_record(0, ["a", "b"], interpreter=name, place=place)
        noise, plain, joint = record.attacks
        plain.attack, joint.attack = "plain", "gentle"
        moved = replace(plain, attack="moved", threat_model="spatial")
        both = replace(joint, attack="moved-too", threat_model="spatial")
        record.attacks = [noise, plain, joint, moved, both]
        records.append(record)
    run = make_run(tmp_path / "attacks", records)
    write_json(run.folder / "stamp.json", {"seconds": run.summary.seconds})
    return Job("attacks", run.folder, PlannedRun(["x.yaml"]), "attacks", {}, [], [], "kept", 60.0)


def test_attacks_are_told_apart_by_their_role_and_what_they_change(job: Job) -> None:
    """What ignores the map ran once for all interpreters; no control is listed."""
    _, table = cost_section(Plan("x", job.folder.parent, {"attacks": job.run}), [job]).blocks
    steps = {"plain": PAPER_STEPS["pgd"], "moved": PAPER_STEPS["stadv"], "moved-too": PAPER_STEPS["stadv"]}
    expected = [
        ("any", "plain"), ("cam", "gentle"), ("any", "moved"), ("cam", "moved-too"), ("rts", "gentle"),
        ("rts", "moved-too"),
    ]  # fmt: skip
    assert [tuple(cells[1:3]) for cells in table.cells] == expected
    assert [int(cells[6]) for cells in table.cells] == [
        steps.get(attack, PAPER_STEPS.get(interpreter)) for interpreter, attack in expected
    ]
    seconds = 0.125 / 2  # of the record's batch, an image
    hours = [seconds / 5 * int(cells[6]) * PAPER_IMAGES / 3600 for cells in table.cells]
    assert [float(cells[7]) for cells in table.cells] == [pytest.approx(one, abs=0.05) for one in hours]
