from __future__ import annotations

import json
from dataclasses import replace
from io import StringIO
from pathlib import Path

import pytest
from build_records import make_record
from rich.console import Console

from lightning_adv2.cli import main
from lightning_adv2.report.compare import MAIN, comparison, experiment_table, names_of
from lightning_adv2.report.results_table import EMPTY as NO_IOU
from lightning_adv2.report.terminal import show
from lightning_adv2.results.run import Run, read_run
from report.browser import Parsed
from report.runs import make_run


@pytest.fixture
def runs(tmp_path: Path) -> list[Run]:
    """Two runs of the same rows, and one of another interpreter."""
    made = []
    for seed, (name, interpreter) in enumerate((("first", "cam"), ("second", "cam"), ("third", "rts"))):
        record = make_record(0, ["a", "b", "c"], interpreter=interpreter, seed=seed)
        made.append(make_run(tmp_path / name, [record], **({"seed": 5} if name == "second" else {})))
    return [read_run(run.folder) for run in made]


def test_differences_are_from_the_first_run(runs: list[Run]) -> None:
    table = comparison(runs[:2], ["first", "second"], MAIN, "Attacks")
    files = [json.loads((run.folder / "results.json").read_text())["rows"] for run in runs]
    assert table.headings[:4] == ["attack", "schedule", "images: first", "images: second"]
    assert len(table.rows) == 3
    for shown, first, second in zip(table.cells, files[0], files[1], strict=True):
        cells = dict(zip(table.headings, shown, strict=True))
        assert (cells["attack"], cells["schedule"]) == (first["attack"], first["schedule"])
        assert cells["map IoU: first"] == f"{first['iou']:.3f}"
        assert cells["map IoU: second"] == f"{second['iou']:.3f} ({second['iou'] - first['iou']:+.3f})"
        assert cells["ASR: second"] == f"{second['asr']:.1%} ({second['asr'] - first['asr']:+.1%})"
        assert cells["images: second"] == "3 (+0)"
    assert "interpreter: cam" in " ".join(table.all_notes)


def test_a_row_that_a_run_lacks_is_empty(runs: list[Run], tmp_path: Path) -> None:
    both = [make_record(0, ["a"], interpreter=name, place=place) for place, name in enumerate(("rts", "grad"))]
    other = make_run(tmp_path / "other", both)
    table = comparison([runs[0], other], ["first", "other"], MAIN, "Attacks")
    assert len(table.rows) == 9
    for row in table.cells:
        cells = dict(zip(table.headings, row, strict=True))
        own, lacking = ("first", "other") if cells["interpreter"] == "cam" else ("other", "first")
        assert cells[f"map L1: {lacking}"] == ""
        float(cells[f"map L1: {own}"])  # no difference where there is nothing to differ from
    assert "In brackets" not in " ".join(table.all_notes)
    assert "No row of one run has its like in another" in " ".join(table.all_notes)


def test_the_only_interpreters_of_runs_are_compared_whatever_they_are_called(runs: list[Run]) -> None:
    table = comparison(runs, ["first", "second", "third"], MAIN, "Attacks")
    assert len(table.rows) == 3
    iou = [run.summary.rows[2]["iou"] for run in runs]
    cells = dict(zip(table.headings, table.cells[2], strict=True))
    assert cells["map IoU: third"] == f"{iou[2]:.3f} ({iou[2] - iou[0]:+.3f})"
    assert "interpreter: cam / rts" in " ".join(table.all_notes)
    assert "the difference from first" in " ".join(table.all_notes)


def test_where_experiments_differ(runs: list[Run]) -> None:
    rows = experiment_table(runs[:2], ["first", "second"]).cells
    assert rows == [["second", "seed", "(nothing) before, 5 now"]]
    same = experiment_table([runs[0], runs[0]], ["a", "b"]).cells
    assert same == [["b", "", "nothing: the same experiment"]]


def test_interpreters_of_two_names_differ_in_name_and_settings(tmp_path: Path) -> None:
    made = []
    for name, width in (("rts", 4), ("rts_a", 8)):
        run = make_run(tmp_path / name, [make_record(0, ["a"], interpreter=name)])
        settings = {"interpreters": {name: {"width": width, "stride": 4}}, "attacks": {name: ["pgd"]}, "seed": 0}
        made.append(replace(run, experiment=settings))
    assert experiment_table(made, ["a", "b"]).cells == [
        ["b", "name of the interpreter", "rts before, rts_a now"],
        ["b", "interpreters.the interpreter.width", "4 before, 8 now"],
    ]


def test_names_tell_apart(tmp_path: Path) -> None:
    folders = [tmp_path / "x" / "run", tmp_path / "y" / "run"]
    made = [make_run(folder, [make_record(0, ["a"])]) for folder in folders]
    assert names_of(made) == ["x/run", "y/run"]
    assert names_of(made[:1]) == ["run"]


def test_several_runs_make_one_page(
    runs: list[Run], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    main(["report", *(str(run.folder) for run in runs)])
    said = capsys.readouterr().out
    parsed = Parsed(tmp_path / "report.html")
    iou = [run.summary.rows[2]["iou"] for run in runs]
    expected = f"{iou[1]:.3f} ({iou[1] - iou[0]:+.3f})"
    assert expected in said
    assert f"{tmp_path.resolve() / 'report.html'}: open it in a browser" in said, "the folder as well"
    assert any(expected in row for row in parsed.rows)
    for name in ("first", "second", "third"):
        assert f"{name}: Results" in parsed.text
    assert "Where the experiments differ from first" in parsed.text
    assert not list(tmp_path.glob("*/report.html"))


def test_one_run_makes_its_own_page(runs: list[Run], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    main(["report", str(runs[0].folder)])
    assert str(runs[0].folder / "report.html") in capsys.readouterr().out
    main(["report", str(runs[0].folder), "--output", str(tmp_path / "else" / "where.html")])
    assert (tmp_path / "else" / "where.html").read_bytes() == (runs[0].folder / "report.html").read_bytes()


def test_no_run_there(runs: list[Run], tmp_path: Path) -> None:
    with pytest.raises(SystemExit, match=r"nowhere holds no evaluation.*records/"):
        main(["report", str(runs[0].folder), str(tmp_path / "nowhere")])
    with pytest.raises(SystemExit, match="twice"):
        main(["report", str(runs[0].folder), str(runs[0].folder)])
    (record,) = (runs[0].folder / "records" / "cam").iterdir()
    record.write_bytes(record.read_bytes()[:-9])
    with pytest.raises(SystemExit, match=r"batch_00000\.safetensors"):
        main(["report", str(runs[0].folder)])


def test_terminal(runs: list[Run]) -> None:
    stream = StringIO()
    show(comparison(runs[:2], ["[first]", "second"], MAIN, "Attacks"), Console(file=stream))
    assert "map IoU" in stream.getvalue()
    assert "[first]" in stream.getvalue()


def test_images_without_an_iou_are_counted(runs: list[Run], tmp_path: Path) -> None:
    record = make_record(0, ["a", "b", "c"])
    record.target_map[:2] = 0
    for attack in record.attacks:
        attack.adv_map[:2] = 0
    empty = make_run(tmp_path / "empty", [record])
    table = comparison([runs[0], empty], ["first", "empty"], MAIN, "Attacks")
    cells = dict(zip(table.headings, table.cells[0], strict=True))
    assert (cells["no IoU: first"], cells["no IoU: empty"]) == ("0", "2 (+2)")
    assert NO_IOU in table.all_notes[0]
    assert not any("no IoU" in name for name in comparison(runs, ["a", "b", "c"], MAIN, "Attacks").headings)
