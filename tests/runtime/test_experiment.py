from __future__ import annotations

import json
from pathlib import Path

import pytest

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


@pytest.mark.parametrize("content", ["", "{", "[]", '{"experiment": {}}'])
def test_promise_7_a_damaged_file_is_refused(tmp_path: Path, content: str) -> None:
    (tmp_path / "experiment.json").write_text(content)
    with pytest.raises(ValueError, match="damaged"):
        claim(tmp_path, {})


def test_tuples_are_lists_once_written(tmp_path: Path) -> None:
    claim(tmp_path, {"size": (1, 2)})
    claim(tmp_path, {"size": (1, 2)})
    assert json.loads((tmp_path / "experiment.json").read_text())["experiment"] == {"size": [1, 2]}


def test_where_nothing_came_of_it_another_may_have_the_folder(tmp_path: Path, results: Path) -> None:
    claim(tmp_path, {"seed": 1})
    results.unlink()
    claim(tmp_path, {"seed": 2})
    assert read_experiment(tmp_path)["experiment"] == {"seed": 2}
