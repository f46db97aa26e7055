"""What a user reads when something is wrong."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import yaml
from callbacks.lab import run_python

from lightning_adv2.cli import main
from lightning_adv2.cli.messages import shorten

CONFIG = Path(__file__).parents[2] / "configs" / "evaluate" / "shapes_cam.yaml"


def test_a_long_message_keeps_its_beginning_and_its_end() -> None:
    lines = [f"line {number}" for number in range(60)]
    short = shorten("\n".join([*lines, "do this"])).splitlines()
    assert short[0] == "line 0"
    assert short[-1] == "do this"
    assert len(short) <= 8
    assert shorten("one\n\ntwo") == "one\ntwo"


@pytest.mark.parametrize("wanted", [False, True], ids=["short", "traceback"])
def test_missing_weights_in_a_few_lines(wanted: bool, tmp_path: Path) -> None:
    content = yaml.safe_load(CONFIG.read_text())
    content["model"]["init_args"]["classifier"]["init_args"]["weights"] = "nowhere.safetensors"
    (tmp_path / "run.yaml").write_text(yaml.safe_dump(content))
    words = ["test", "--config", "run.yaml", "--trainer.logger=false", *(["--traceback"] if wanted else [])]
    done = run_python("-m", "lightning_adv2", *words, folder=tmp_path)
    assert done.returncode == 1
    assert "weights='nowhere.safetensors': no such file" in done.stderr
    assert ("Traceback" in done.stderr) is wanted
    if not wanted:
        assert len(done.stderr.splitlines()) <= 10, done.stderr


@pytest.mark.parametrize(
    ("words", "names"),
    [
        (["--data.init_args.num_imagse=3"], "num_imagse"),
        (["--data.init_args.num_images=few"], "few"),
        (["--model.init_args.interpreter=GradCAMM"], "GradCAMM"),
        (["--trainer.max_epohcs=3"], "max_epohcs"),
        (["--config=nowhere.yaml"], "nowhere.yaml"),
    ],
    ids=["key", "value", "class", "option", "file"],
)
def test_a_typo_in_a_few_lines(words: list[str], names: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stopped:
        main(["test", "--config", str(CONFIG), *words])
    assert stopped.value.code == 2
    text = capsys.readouterr().err
    assert names in text
    assert "--help" in text.splitlines()[-1]
    assert len(text.splitlines()) <= 10, text


@pytest.mark.parametrize(
    "words",
    [["--trainer.max_epoch=3"], ["--trainer.max_epoch", "3"], ["--conf=x.yaml"], ["--data.init_args.num_image=3"]],
    ids=" ".join,
)
def test_an_option_is_not_completed(words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stopped:
        main(["test", "--config", str(CONFIG), *words, "--print_config"])
    assert stopped.value.code == 2
    out, err = capsys.readouterr()
    assert not out
    assert words[0].split("=")[0].split(".")[-1] in err


def resolved(capsys: pytest.CaptureFixture[str], *words: str) -> dict[str, Any]:
    with pytest.raises(SystemExit):
        main(["test", "--config", str(CONFIG), *words, "--print_config"])
    out, err = capsys.readouterr()
    assert not err
    content: dict[str, Any] = yaml.safe_load(out)
    return content


@pytest.mark.parametrize("way", ["flag", "file"])
def test_null_means_none(way: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    network, source = "model.init_args.classifier", "data.init_args.source"
    folder = {"class_path": "ImageFolderDataModule", "init_args": {"root": "x", "boxes": "b.csv", "classes": ["a"]}}
    first = [f"--{source}={json.dumps(folder)}", f"--{network}.init_args.weights=w.pth"]
    keys = {f"{network}.init_args.weights", *(f"{source}.init_args.{key}" for key in ("boxes", "classes", "crop"))}
    (tmp_path / "null.yaml").write_text(
        yaml.safe_dump(
            {
                "model": {"init_args": {"classifier": {"init_args": {"weights": None}}}},
                "data": {"init_args": {"source": {"init_args": {"boxes": None, "classes": None, "crop": None}}}},
            }
        )
    )
    second = [f"--config={tmp_path / 'null.yaml'}"] if way == "file" else [f"--{key}=null" for key in sorted(keys)]
    before, after = resolved(capsys, *first), resolved(capsys, *first, *second)
    for key in keys:
        values: list[Any] = [before, after]
        for name in key.split("."):
            values = [value[name] for value in values]
        assert values[1] is None, key
        assert values[0] is not None or key.endswith("crop"), key


def test_null_inside_a_list_stays_none(capsys: pytest.CaptureFixture[str]) -> None:
    words = ["--data.init_args.target_class=[1, null, 0]", "--trainer.callbacks.init_args.seed=1"]
    assert resolved(capsys, *words)["data"]["init_args"]["target_class"] == [1, None, 0]
