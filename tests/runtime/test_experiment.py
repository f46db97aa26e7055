from __future__ import annotations

import json
from pathlib import Path

import pytest
from damage import flipped, truncated

from lightning_adv2.files.experiment import COPY, FILE, experiment_hash
from lightning_adv2.runtime.experiment import DifferentExperimentError, claim, read_experiment


@pytest.fixture(autouse=True)
def results(tmp_path: Path) -> Path:
    """Results that the folder's experiment protects."""
    path = tmp_path / "cam" / "batch_00000.safetensors"
    path.parent.mkdir()
    path.touch()
    return path


def test_promise_5_the_same_goes_on_and_another_is_refused(tmp_path: Path) -> None:
    claim(tmp_path, {"seed": 1, "attacks": [{"steps": 50}]}, {"dataset": "shapes"})
    claim(tmp_path, {"seed": 1, "attacks": [{"steps": 50}]}, {"dataset": "renamed"})
    assert read_experiment(tmp_path)["about"] == {"dataset": "renamed"}, "what is not compared may change"
    before = (tmp_path / "experiment.json").read_bytes()
    with pytest.raises(DifferentExperimentError, match=r"attacks\.0\.steps: 50 before, 60 now\n") as caught:
        claim(tmp_path, {"seed": 1, "attacks": [{"steps": 60}]})
    assert "seed" not in str(caught.value)
    assert "--trainer.default_root_dir" in str(caught.value)
    assert (tmp_path / "experiment.json").read_bytes() == before


def test_what_came_and_what_went_is_named(tmp_path: Path) -> None:
    claim(tmp_path, {"kept": 1, "gone": 2})
    with pytest.raises(DifferentExperimentError) as caught:
        claim(tmp_path, {"kept": 1, "new": 3})
    assert "gone: 2 before, (nothing) now" in str(caught.value)
    assert "new: (nothing) before, 3 now" in str(caught.value)


def test_a_long_list_is_cut(tmp_path: Path) -> None:
    claim(tmp_path, {str(i): i for i in range(15)})
    with pytest.raises(DifferentExperimentError, match="and 5 more"):
        claim(tmp_path, {str(i): -i - 1 for i in range(15)})


@pytest.mark.parametrize("content", ["", "{", "[]", "null", '{"experiment": {}}', '{"experiment": [], "about": {}}'])
def test_promise_7_a_damaged_file_without_its_copy_is_refused(tmp_path: Path, content: str) -> None:
    (tmp_path / FILE).write_text(content)
    with pytest.raises(ValueError, match=r"damaged.*delete experiment.json and experiment.copy.json there and run"):
        claim(tmp_path, {})
    (tmp_path / FILE).unlink()
    claim(tmp_path, {})


@pytest.mark.parametrize("name", [FILE, COPY])
def test_promise_7_one_bit_or_one_file_of_two_costs_nothing(
    tmp_path: Path, name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    experiment, about = {"attacks": {"cam": [{"epsilon": 0.031}]}, "seed": 0}, {"classes": ["ümlaut", "猫"]}
    claim(tmp_path, experiment, about)
    path, before = tmp_path / name, {one: (tmp_path / one).read_bytes() for one in (FILE, COPY)}
    assert before[FILE] == before[COPY]
    harmless = 0
    for what, content in [*flipped(before[name], 300), *truncated(before[name], 20)]:
        path.write_bytes(content)
        assert read_experiment(tmp_path) == {"experiment": experiment, "about": about}, what
        assert path.read_bytes() == content, "a reader changes nothing"
        capsys.readouterr()
        claim(tmp_path, experiment, about)
        assert {one: (tmp_path / one).read_bytes() for one in (FILE, COPY)} == before, what
        said = capsys.readouterr().out
        harmless += not said  # of white space between two values
        assert not said or (str(path) in said and "written anew" in said)
    assert harmless < 60
    path.unlink()
    claim(tmp_path, experiment, about)
    assert path.read_bytes() == before[name]
    assert f"{path}: it is missing" in capsys.readouterr().out


def test_promise_5_the_copy_refuses_another_experiment_as_well(tmp_path: Path) -> None:
    claim(tmp_path, {"seed": 1})
    (tmp_path / FILE).unlink()
    with pytest.raises(DifferentExperimentError, match="seed: 1 before, 2 now"):
        claim(tmp_path, {"seed": 2})


@pytest.mark.parametrize("damage", ["gone", "cut off"])
def test_where_both_are_lost_the_files_say_whose_they_are(
    tmp_path: Path, results: Path, damage: str, capsys: pytest.CaptureFixture[str]
) -> None:
    own = claim(tmp_path, {"seed": 1})
    before = (tmp_path / FILE).read_bytes()

    def lose() -> None:
        for name in (FILE, COPY):
            (tmp_path / name).unlink() if damage == "gone" else (tmp_path / name).write_bytes(before[:20])

    lose()
    with pytest.raises(DifferentExperimentError, match=r"1 of 1 files are of another experiment:\n.*batch_00000"):
        claim(tmp_path, {"seed": 2}, made_in={results: own})
    assert claim(tmp_path, {"seed": 1}, made_in={results: own}) == own
    assert (tmp_path / FILE).read_bytes() == (tmp_path / COPY).read_bytes() == before
    assert "written anew" in capsys.readouterr().out


def test_a_file_of_another_experiment_is_refused_beside_the_right_description(tmp_path: Path, results: Path) -> None:
    own = claim(tmp_path, {"seed": 1})
    stranger = results.with_name("batch_00001.safetensors")
    with pytest.raises(DifferentExperimentError, match="1 of 2 files") as caught:
        claim(tmp_path, {"seed": 1}, made_in={results: own, stranger: experiment_hash({"seed": 2})})
    assert str(stranger) in str(caught.value)
    assert str(results) not in str(caught.value)


def test_tuples_are_lists_once_written(tmp_path: Path) -> None:
    claim(tmp_path, {"size": (1, 2)})
    claim(tmp_path, {"size": (1, 2)})
    assert json.loads((tmp_path / "experiment.json").read_text())["experiment"] == {"size": [1, 2]}


def test_where_nothing_came_of_it_another_may_have_the_folder(tmp_path: Path, results: Path) -> None:
    claim(tmp_path, {"seed": 1})
    results.unlink()
    claim(tmp_path, {"seed": 2})
    assert read_experiment(tmp_path)["experiment"] == {"seed": 2}
