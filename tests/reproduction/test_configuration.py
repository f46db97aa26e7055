"""A configuration with its parts is read as the command line reads it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from lightning_adv2.cli import main
from lightning_adv2.reproduction.configuration import read_configuration

CONFIGS = Path(__file__).parents[2] / "configs"


def printed(capsys: pytest.CaptureFixture[str], config: Path) -> Any:
    with pytest.raises(SystemExit) as stopped:
        main(["test", "--config", str(config), "--print_config"])
    assert stopped.value.code == 0
    return yaml.safe_load(capsys.readouterr().out)


@pytest.mark.parametrize("name", ["cifar10_aid", "cifar10_rts", "shapes_aid"])
def test_parts_of_parts_are_read_as_the_command_line_reads_them(
    name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = CONFIGS / "evaluate" / f"{name}.yaml"
    content, whole = read_configuration(path), tmp_path / "whole.yaml"
    whole.write_text(yaml.safe_dump(content))
    assert ".yaml" not in whole.read_text()
    assert ".yaml" in path.read_text().partition("\nmodel:")[2]
    assert printed(capsys, whole) == printed(capsys, path)


def test_a_part_that_is_not_there_is_named_with_the_file_that_asks_for_it(tmp_path: Path) -> None:
    (tmp_path / "run.yaml").write_text("model: {classifier: parts/network.yaml}")
    with pytest.raises(FileNotFoundError, match=r"parts/network\.yaml' does not exist, which .*run\.yaml names"):
        read_configuration(tmp_path / "run.yaml")
    with pytest.raises(FileNotFoundError, match=r"gone\.yaml' does not exist$"):
        read_configuration(tmp_path / "gone.yaml")


def test_a_file_that_is_a_part_of_itself_is_refused(tmp_path: Path) -> None:
    (tmp_path / "one.yaml").write_text("classifier: two.yaml")
    (tmp_path / "two.yaml").write_text("encoder: one.yaml")
    with pytest.raises(ValueError, match=r"one\.yaml' is a part of itself; remove its path from .*two\.yaml"):
        read_configuration(tmp_path / "one.yaml")


def test_two_places_may_name_the_same_part(tmp_path: Path) -> None:
    (tmp_path / "run.yaml").write_text("classifier: network.yaml\ninterpreter: [{encoder: network.yaml}, 3]")
    (tmp_path / "network.yaml").write_text("class_path: Network")
    network = {"class_path": "Network"}
    assert read_configuration(tmp_path / "run.yaml") == {
        "classifier": network,
        "interpreter": [{"encoder": network}, 3],
    }
