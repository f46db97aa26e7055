"""What holds of every study: its rows arrive everywhere, in any number of processes, and nowhere during fit."""

from __future__ import annotations

import csv
import json
import math
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import spawn
from lab import attack_data, idls, shapes, short_attacks, shut_in, trainer, untrained_rts, victim
from report.browser import Parsed

from lightning_adv2.evaluation import AttackEvaluation
from lightning_adv2.modules import RTSModule
from lightning_adv2.report import wandb_logger
from lightning_adv2.report.findings import SHOWN, StudyFile, read_findings
from lightning_adv2.studies import MapQualityEvaluation, Study
from studies.cases import CASES, StudyCase, Target, callbacks

BY_NAME = {case.name: case for case in CASES}
every_study = pytest.mark.parametrize("case", CASES, ids=list(BY_NAME))


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Callable[[Target], tuple[Path, dict[str, Any], list[Study]]]:
    """By target: the folder of an evaluation with all its studies, what was logged, and the studies."""

    @cache
    def run(target: Target) -> tuple[Path, dict[str, Any], list[Study]]:
        folder = tmp_path_factory.mktemp(target)
        with pytest.MonkeyPatch.context() as patch:
            shut_in(patch, tmp_path_factory.mktemp("wandb_home"))
            logger = wandb_logger(folder, offline=True)
            called = callbacks(target)
            loop = trainer(folder, *called, logger=logger)
            loop.test(idls("cam", "grad"), attack_data(num_images=10), verbose=False)
            logger.close()
        return folder, dict(loop.logged_metrics), [one for one in called if isinstance(one, Study)]

    return run


def study_file(folder: Path, case: StudyCase) -> StudyFile:
    study = read_findings(folder, case.name)
    assert study is not None
    assert study.findings.rows
    return study


def test_every_study_has_a_case() -> None:
    own = {name for name, shown in SHOWN.items() if shown.__module__.startswith("lightning_adv2.")}
    assert own == set(BY_NAME)


@every_study
def test_rows_arrive_in_json_csv_and_on_the_page(case: StudyCase, finished: Any) -> None:
    folder, _, studies = finished(case.target)
    rows = study_file(folder, case).findings.rows
    (study,) = (one for one in studies if one.name == case.name)
    assert rows == json.loads(json.dumps(study.rows))
    keys = list(rows[0])
    assert all(list(row) == keys for row in rows)
    assert not any(isinstance(value, dict) for row in rows for value in row.values())
    with (folder / f"{case.name}.csv").open(newline="", encoding="utf-8") as stream:
        lines = list(csv.reader(stream))
    assert lines[0] == keys
    assert lines[1:] == [[_text(row[key]) for key in keys] for row in rows]
    page = Parsed(folder / "report.html")
    table = study_file(folder, case).tables[0]
    assert {column.key for column in study.columns} <= set(keys)
    for cells in table.cells:
        assert cells in page.rows
    assert study.title in page.text


def _text(value: object) -> str:
    return "; ".join(map(str, value)) if isinstance(value, list) else "" if value is None else str(value)


@every_study
def test_rows_and_figure_arrive_in_wandb(case: StudyCase, finished: Any) -> None:
    folder, _, _ = finished(case.target)
    media = [*(folder / "wandb").glob("offline-run-*/files/media")]
    (path,) = (one for root in media for one in root.glob(f"table/studies/test/{case.name}/table_*.table.json"))
    written = json.loads(path.read_text())
    rows = study_file(folder, case).findings.rows
    assert written["columns"] == list(rows[0])
    for row, line in zip(rows, written["data"], strict=True):
        for value, other in zip(row.values(), line, strict=True):
            assert other == (_text(value) if isinstance(value, list) else value)
    assert any(True for root in media for _ in root.glob(f"images/studies/test/{case.name}/figure_*.png"))


@every_study
def test_the_figure_lies_in_the_folder(case: StudyCase, finished: Any) -> None:
    folder, _, _ = finished(case.target)
    assert (folder / "figures" / f"{case.name}.png").stat().st_size > 3000


@every_study
def test_scalars_are_logged(case: StudyCase, finished: Any) -> None:
    _, logged, studies = finished(case.target)
    (study,) = (one for one in studies if one.name == case.name)
    scalars = study.scalars("test")
    assert any(key.startswith(case.log) for key in scalars), sorted(scalars)
    assert all(math.isfinite(value) for value in scalars.values())
    for key, value in scalars.items():
        assert float(logged[key]) == pytest.approx(value, rel=1e-6)


@every_study
def test_it_comes_after_what_it_reads(case: StudyCase, tmp_path: Path) -> None:
    study, others = case.make(), callbacks(case.target)
    for kind in study.needs:
        needed = next(one for one in others if isinstance(one, kind))
        rest = [one for one in others if isinstance(one, tuple(study.needs)) and one is not needed]
        for order in ([*rest, study], [*rest, study, needed]):
            with pytest.raises(ValueError, match=f"{type(study).__name__} reads what {kind.__name__} writes; list it"):
                trainer(tmp_path, *order).test(idls("cam", "grad"), attack_data(num_images=4), verbose=False)


def test_nothing_during_fit_but_what_says_so(tmp_path: Path) -> None:
    made = [case.make() for case in CASES]
    studies = [MapQualityEvaluation(order=False) if isinstance(one, MapQualityEvaluation) else one for one in made]
    before = [study for study in studies if AttackEvaluation not in study.needs]
    after = [study for study in studies if study not in before]
    attack = AttackEvaluation(short_attacks("rts"), num_images=2)
    options = {"max_steps": 1, "max_epochs": -1, "val_check_interval": 1, "num_sanity_val_steps": 1}
    loop = trainer(tmp_path, *before, attack, *after, **options)
    loop.fit(RTSModule(victim(), untrained_rts(), selector_steps=1), shapes())
    assert [*tmp_path.rglob("results.json")], "there was a validation"
    for study in studies:
        assert bool([*tmp_path.rglob(f"{study.name}.json")]) == study.during_fit, study.name
        assert bool(study.rows) == study.during_fit


def test_two_studies_of_a_name_are_refused() -> None:
    with pytest.raises(ValueError, match="name='gap': GapEvaluation is the study of that name; give another name"):

        class Another(Study):
            name = "gap"

    with pytest.raises(ValueError, match="the name 'no/name' becomes part of files"):

        class Unfit(Study):
            name = "no/name"


def evaluate(folder: Path, target: Target, devices: int) -> list[str]:
    """All studies of this target on some processes; the rows of each that this process knows."""
    called = callbacks(target)
    loop = trainer(folder, *called, devices=devices, strategy="ddp")
    loop.test(idls("cam", "grad"), attack_data(num_images=10), verbose=False)
    return [repr(study.rows) for study in called if isinstance(study, Study)]


@pytest.mark.parametrize(("target", "processes"), [("benign", 3), ("patch", 2)])
def test_several_processes_come_to_the_same(target: Target, processes: int, finished: Any, tmp_path: Path) -> None:
    folder, _, studies = finished(target)
    known = spawn.run(evaluate, tmp_path, target, processes, folder=tmp_path, processes=processes, timeout=600)
    assert known == [[repr(study.rows) for study in studies]] * processes
    for study in studies:
        for name in (f"{study.name}.json", f"{study.name}.csv", f"figures/{study.name}.png"):
            assert (tmp_path / name).read_bytes() == (folder / name).read_bytes(), name
