"""Every YAML file under configs/ goes through the parser that users run it with."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import pytorch_lightning as pl
import yaml
from jsonargparse import ArgumentParser
from lab import shut_in

from lightning_adv2.cli import main
from lightning_adv2.cli.lightning_cli import CLI
from lightning_adv2.data import ImageDataModule
from lightning_adv2.files.data_root import below_data_root
from lightning_adv2.interpreters import Interpreter, TrainableInterpreter
from lightning_adv2.models import Classifier, save_weights
from lightning_adv2.reproduction.configuration import read_configuration

CONFIGS = Path(__file__).parents[1] / "configs"
SUBCOMMANDS = {"train": "fit", "evaluate": "test", "predict": "predict"}
RUNS = sorted(path for folder in SUBCOMMANDS for path in (CONFIGS / folder).glob("*.yaml"))
PARTS: dict[str, type] = {"data": ImageDataModule, "classifier": Classifier, "interpreter": Interpreter}
SNIPPETS = sorted(path for folder in PARTS for path in (CONFIGS / folder).glob("*.yaml"))


def name(path: Path) -> str:
    return f"{path.parent.name}/{path.stem}"


def leave_weights(content: Any) -> None:
    """Random weights where an earlier run would have left trained ones (``runs/...``), the innermost network first."""
    if isinstance(content, list):
        for value in content:
            leave_weights(value)
    if not isinstance(content, dict):
        return
    for value in content.values():
        leave_weights(value)
    weights = content.get("init_args", {}).get("weights")
    if isinstance(weights, str) and weights.startswith("runs/"):
        parser = ArgumentParser()
        parser.add_subclass_arguments((Classifier, Interpreter), "part")
        untrained = content | {"init_args": content["init_args"] | {"weights": None}}
        made = parser.instantiate_classes(parser.parse_object({"part": untrained})).part
        if isinstance(made, TrainableInterpreter):
            made.save(weights)
        else:
            save_weights(made.state_dict(), weights)


def test_no_config_is_left_out() -> None:
    """Those of reproductions are parts of plans: tests/reproduction/test_plan.py."""
    known = {*SUBCOMMANDS, *PARTS, "sweeps", "own"}  # test_sweeps.py and test_own.py look at those
    assert {path.parent.name for path in CONFIGS.rglob("*.yaml") if "reproduce" not in path.parts} <= known
    assert len(RUNS) >= 8


@pytest.mark.parametrize("path", RUNS, ids=name)
def test_it_parses(path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stopped:
        main([SUBCOMMANDS[path.parent.name], "--config", str(path), "--print_config"])
    assert stopped.value.code == 0
    printed, written = yaml.safe_load(capsys.readouterr().out), yaml.safe_load(path.read_text())
    assert printed["model"]["class_path"] == written["model"]["class_path"]
    assert printed["trainer"]["default_root_dir"].startswith("runs/")
    assert printed["trainer"]["inference_mode"] is False


def content_of(path: Path, request: pytest.FixtureRequest) -> Any:
    """A configuration with its data and weights where they lie here; skips where it needs some and there are none."""
    if "weights: data/" in text_of(path):
        request.getfixturevalue("shared_data")
    return below_data_root(read_configuration(path))


@pytest.mark.parametrize("path", [p for p in sorted(CONFIGS.rglob("*.yaml")) if p.parent.name != "sweeps"], ids=name)
def test_what_it_reads_lies_below_one_folder(path: Path) -> None:
    """Every file and folder of a configuration is below ``data/`` or made by an earlier run, below ``runs/``."""

    def strings(content: Any) -> Iterator[str]:
        if isinstance(content, str):
            yield content
        elif isinstance(content, dict | list):
            for value in content.values() if isinstance(content, dict) else content:
                yield from strings(value)

    plan = path.parent.name == "reproduce"  # which names whole configurations, from the repository's root
    content = yaml.safe_load(path.read_text()) if plan else read_configuration(path)
    files = [text for text in strings(content) if "/" in text]
    assert [file for file in files if not file.startswith(("data/", "runs/", "configs/"))] == []


def text_of(path: Path) -> str:
    """A configuration with its parts, as YAML."""
    return yaml.safe_dump(read_configuration(path))


@pytest.mark.parametrize("path", [path for path in RUNS if "data/" in text_of(path)], ids=name)
def test_its_first_lines_say_where_the_data_come_from(path: Path) -> None:
    comment, content = path.read_text().partition("\nmodel:")[0], text_of(path)
    places = {
        "data/cifar10": "lightning-adv2 fetch cifar10",
        "root: data/imagenet": "image-net.org",
        "weights: data/imagenet1k-samples": "IMAGENET1K_V2",
        "data/boxes-sample": "cs231n.stanford.edu",
        "data/isic-sample": "challenge.isic-archive.com",
    }
    read = [place for place in places if place in content]
    assert read
    assert [place for place in read if places[place] not in comment] == []


@pytest.mark.parametrize("path", RUNS, ids=name)
def test_it_instantiates(
    path: Path, tmp_path: Path, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch
) -> None:
    content = content_of(path, request)
    monkeypatch.chdir(tmp_path)
    leave_weights(content)
    shut_in(monkeypatch, tmp_path / "wandb_home")

    class Built(CLI):
        """Everything is made, nothing is run."""

        def _run_subcommand(self, subcommand: str) -> None:
            self.subcommand_built = subcommand

    built = Built([SUBCOMMANDS[path.parent.name], "--config", str(path), "--trainer.logger=false"])
    assert built.subcommand_built == SUBCOMMANDS[path.parent.name]
    assert isinstance(built.model, pl.LightningModule)
    assert isinstance(built.datamodule, pl.LightningDataModule)
    assert not list(tmp_path.rglob("runs/*/records")), "something was run"


@pytest.mark.parametrize("path", SNIPPETS, ids=name)
def test_snippets_instantiate(
    path: Path, tmp_path: Path, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch
) -> None:
    content, config = content_of(path, request), tmp_path / path.name
    monkeypatch.chdir(tmp_path)
    leave_weights(content)
    config.write_text(yaml.safe_dump(content))
    base = PARTS[path.parent.name]
    parser = ArgumentParser()
    parser.add_subclass_arguments(base, "part")
    made = parser.instantiate_classes(parser.parse_args([f"--part={config}"])).part
    assert isinstance(made, base)


@pytest.mark.parametrize("path", SNIPPETS, ids=name)
def test_snippets_fit_where_their_comments_say(path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """On the command line, in place of the part that an evaluation names itself."""
    option = {
        "data": "--data.init_args.source",
        "classifier": "--model.init_args.classifier",
        "interpreter": "--model.init_args.interpreter",
    }[path.parent.name]
    with pytest.raises(SystemExit) as stopped:
        main(["test", "--config", str(CONFIGS / "evaluate" / "shapes_cam.yaml"), option, str(path), "--print_config"])
    assert stopped.value.code == 0
    printed: Any = yaml.safe_load(capsys.readouterr().out)
    for key in option.removeprefix("--").split("."):
        printed = printed[key]
    assert printed["class_path"] == yaml.safe_load(path.read_text())["class_path"]
