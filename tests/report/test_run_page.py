from __future__ import annotations

import csv
import json
from pathlib import Path

import pytest
from build_records import make_record
from lab import attack_data, idls, shapes, short_attacks, trainer

from lightning_adv2.attacks.targets import RandomPatch
from lightning_adv2.evaluation import AttackEvaluation
from lightning_adv2.files import write_json
from lightning_adv2.interpreters import CAM
from lightning_adv2.models import ResidualClassifier
from lightning_adv2.modules import ClassifierModule
from lightning_adv2.report.findings import Findings, write_findings
from lightning_adv2.report.html.run_page import run_sections, write_run_page
from lightning_adv2.report.page import Listing, Picture, Section
from lightning_adv2.report.table import Table
from lightning_adv2.results.run import read_run
from lightning_adv2.studies.gap import GapEvaluation, gap_images, gap_rows
from report.browser import Parsed
from report.runs import make_run

RECORDS = [
    make_record(index, names, interpreter=name, place=place, seed=place, already_wrong=["w"] if index else [])
    for place, name in enumerate(("cam", "rts"))
    for index, names in enumerate((["a", "b", "c"], ["d"]))
]


def by_title(sections: list[Section]) -> dict[str, Section]:
    return {section.title: section for section in sections}


def tables(section: Section) -> list[Table]:
    return [block for block in section.blocks if isinstance(block, Table)]


def test_results_are_those_of_the_file(tmp_path: Path) -> None:
    run = make_run(tmp_path, RECORDS)
    parsed = Parsed(write_run_page(run))
    assert (tmp_path / "report.html").is_file()
    with (tmp_path / "results.csv").open(encoding="utf-8") as stream:
        rows = list(csv.DictReader(stream))
    assert len(rows) == 6
    for row in rows:
        shown = [f"{float(row['asr']):.1%}", *(f"{float(row[key]):.3f}" for key in ("confidence", "l1", "iou"))]
        head = [row["interpreter"], row["attack"], row["schedule"], row["steps"], row["n"]]
        assert any(found[:9] == head + shown for found in parsed.rows), head
    for name in ("cam", "rts"):
        expected = [name, "pgd-fast", "5", "1", "0", "0", "4", "0", "4"]
        assert any(found[:9] == expected for found in parsed.rows), "5 = 1 wrong + 4 attacked"


def test_the_summary_says_what_the_rows_say(tmp_path: Path) -> None:
    run = make_run(tmp_path, RECORDS)
    text = by_title(run_sections(run))["Summary"].text
    for row in run.summary.rows:
        if row["attack"] in ("pgd", "adv2"):
            sentence = next(one for one in text.split("\n\n") if one.startswith(f"{row['interpreter']}:"))
            assert f"{row['attack'].upper()} (fast) reaches the target class on {row['asr']:.1%}" in sentence
            assert f"leaves a map IoU of {row['iou']:.2f}" in sentence
    assert "4 images were attacked under 2 interpreters (cam, rts)" in text


def test_what_is_not_there_is_left_out_and_what_is_there_is_shown(tmp_path: Path) -> None:
    run = make_run(tmp_path, RECORDS)
    plain = by_title(run_sections(run))
    assert list(plain) == [
        "Summary", "Results", "Denominators and flags", "Gallery", "Reproducing the numbers",
    ]  # fmt: skip
    drawn = [
        tmp_path / "figures" / f"{name}.png"
        for name in ("agreement", "overview", "gap", "gap_maps", "another", "cam/convergence", "rts/convergence")
    ]
    for path in (*drawn, tmp_path / "figures" / "cam" / "gallery.png"):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    rows = gap_rows([row for record in RECORDS for row in gap_images(record)])
    write_findings(tmp_path, GapEvaluation, Findings(rows))
    content = json.loads((tmp_path / "gap.json").read_text()) | {"study": "elsewhere", "title": "A study of elsewhere"}
    write_json(tmp_path / "elsewhere.json", content)
    (tmp_path / "config.yaml").write_text("seed_everything: 7\n")
    found = by_title(run_sections(run))
    (table,) = tables(found[GapEvaluation.title])
    assert [cells[6] for cells in table.cells] == [f"{row['l1']:.3f}" for row in rows]
    (same,) = tables(found["A study of elsewhere"])
    assert same.cells == table.cells, "a study whose class is not known is shown by the columns in its file"
    assert [block.path.stem for block in found["Further figures"].blocks if isinstance(block, Picture)] == ["another"]
    pictures = [block.path for one in found.values() for block in one.blocks if isinstance(block, Picture)]
    assert sorted(pictures) == sorted(drawn), "each figure once; galleries are in the page's own"
    listings = [one for one in found["Reproducing the numbers"].blocks if isinstance(one, Listing)]
    assert [one.title.split(":")[0] for one in listings] == ["experiment.json", "config.yaml"]
    assert "seed_everything: 7" in listings[1].text


def test_a_damaged_file_costs_its_own_part_and_is_named(tmp_path: Path) -> None:
    run = make_run(tmp_path, RECORDS)
    for name in ("gap", "stamp"):
        (tmp_path / f"{name}.json").write_text("{")
    with pytest.warns(UserWarning, match=r"gap\.json is damaged.*once the cause is gone, the same command"):
        found = by_title(run_sections(run))
    assert "gap.json is damaged" in found["Gap"].text
    assert "There is no stamp" in found["Reproducing the numbers"].text
    assert tables(found["Results"])[0].rows


def test_flags_are_shown(tmp_path: Path) -> None:
    record = make_record(0, ["a"])
    record.attacks[1].flags = ["masks gradients"]
    sections = by_title(run_sections(make_run(tmp_path, [record])))
    assert tables(sections["Denominators and flags"])[1].cells == [["cam", "pgd-fast", "masks gradients", "1"]]
    assert "1 of 3 rows are flagged" in sections["Summary"].text


def test_a_run_that_was_interrupted(tmp_path: Path) -> None:
    run = make_run(tmp_path, RECORDS[:1], whole=False)
    text = Parsed(write_run_page(run)).text
    assert "There is no stamp" in text
    assert "3 images were attacked" in text


def test_nothing_attacked(tmp_path: Path) -> None:
    record = make_record(0, ["a"], already_wrong=["w"])
    record.attacks, record.image_id = [], []
    text = Parsed(write_run_page(make_run(tmp_path, [record]))).text
    assert "No image was attacked" in text


def test_an_evaluation_leaves_its_page_and_fit_leaves_none(tmp_path: Path) -> None:
    """The study writes after the attack's report: the page has it all the same."""
    callbacks = [AttackEvaluation(short_attacks(), target=RandomPatch()), GapEvaluation()]
    module = idls("cam", "grad")
    trainer(tmp_path, *callbacks).test(module, attack_data(num_images=5), verbose=False)
    parsed = Parsed(tmp_path / "report.html")
    for row in json.loads((tmp_path / "gap.json").read_text())["rows"]:
        assert any(
            cells[:2] == [row["interpreter"], row["attack"]] and f"{row['l1']:.3f}" in cells for cells in parsed.rows
        )
    stamp = json.loads((tmp_path / "stamp.json").read_text())
    assert ["versions, torch", stamp["versions"]["torch"]] in parsed.rows
    assert read_run(tmp_path).summary.rows


def test_no_page_during_fit(tmp_path: Path) -> None:
    module = ClassifierModule(ResidualClassifier(num_classes=7, widths=(4, 4, 4), stem_stride=2))
    module.interpreter = CAM()
    evaluation = AttackEvaluation(short_attacks(), num_images=4)
    trainer(tmp_path, evaluation, max_epochs=1, limit_train_batches=1).fit(module, shapes())
    assert list((tmp_path / "validation").rglob("results.json"))
    assert not list(tmp_path.rglob("report.html"))
