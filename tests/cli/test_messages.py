"""What a user reads when something is wrong."""

from __future__ import annotations

import json
import signal
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from lab import run_python

from lightning_adv2.__main__ import main as entry
from lightning_adv2.cli import main
from lightning_adv2.errors import short_errors, shorten
from lightning_adv2.reproduction.configuration import read_configuration

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
    content = read_configuration(CONFIG)
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
    ("words", "names", "meant"),
    [
        (["--data.init_args.num_imagse=3"], "num_imagse", "num_images"),
        (["--data.num_imagse=3"], "num_imagse", "num_images"),
        (["--data.init_args.source.init_args.image_siz=3"], "image_siz", "image_size"),
        (["--data.init_args.num_images=few"], "few", None),
        (["--model.init_args.interpreter=GradCAMM"], "GradCAMM", "GradCAM"),
        (["--model.init_args.interpreter.class_path=lightning_adv2.interpreters.GradCAMM"], "GradCAMM", "GradCAM"),
        (["--trainer.callbacks+=lightning_adv2.studies.NoiseEvaluatoin"], "NoiseEvaluatoin", "NoiseEvaluation"),
        (["--trainer.callbacks.init_args.sed=1"], "sed", "seed"),
        (["--trainer.max_epohcs=3"], "max_epohcs", "trainer.max_epochs"),
        (["--trianer.max_epochs=3"], "trianer", "trainer.max_epochs"),
        (["--trainer.nothing_like_it=3"], "nothing_like_it", None),
        (["--config=nowhere.yaml"], "nowhere.yaml", None),
    ],
    ids=lambda value: value[0].split("=")[0] if isinstance(value, list) else "",
)
def test_a_typo_in_a_few_lines(
    words: list[str], names: str, meant: str | None, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as stopped:
        main(["test", "--config", str(CONFIG), *words])
    assert stopped.value.code == 2
    text = capsys.readouterr().err
    assert names in text
    assert "--help" in text.splitlines()[-1]
    assert len(text.splitlines()) <= 10, text
    asked = [line for line in text.splitlines() if line.startswith("did you mean")]
    assert asked == ([f"did you mean {meant}?"] if meant else []), text


@pytest.mark.parametrize(
    ("content", "meant"),
    [
        ({"data": {"init_args": {"num_imagse": 3}}}, "num_images"),
        ({"trainer": {"max_epohcs": 3}}, "trainer.max_epochs"),
        ({"model": {"init_args": {"interpreter": {"class_path": "GradCAMM"}}}}, "GradCAM"),
        (
            {"trainer": {"callbacks": [{"class_path": "lightning_adv2.callbacks.AttackEvaluation"}]}},
            "lightning_adv2.evaluation.AttackEvaluation",
        ),
    ],
    ids=["argument", "trainer", "class", "class in another package"],
)
def test_a_typo_in_a_file(
    content: dict[str, Any], meant: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "typo.yaml").write_text(yaml.safe_dump(content))
    with pytest.raises(SystemExit):
        main(["test", "--config", str(CONFIG), "--config", str(tmp_path / "typo.yaml")])
    assert f"did you mean {meant}?" in capsys.readouterr().err.splitlines()


COMMANDS = "fit, validate, test, predict, demo, fetch, report, sync, verify, export, reproduce"


@pytest.mark.parametrize(("word", "meant"), [("tset", "test"), ("fecth", "fetch"), ("Export", "export")])
def test_a_mistyped_command(word: str, meant: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main([word, "--config", str(CONFIG)])
    lines = capsys.readouterr().err.splitlines()
    assert lines[:2] == [f"error: '{word}' is not a command; the commands are: {COMMANDS}", f"did you mean {meant}?"]


def test_no_command(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main([])
    assert capsys.readouterr().err.splitlines()[0] == f"error: give a command: {COMMANDS}"


@pytest.mark.parametrize(
    ("asked", "says"),
    [
        ("shapes_ca.yaml", "; did you mean configs/evaluate/shapes_cam.yaml?"),
        ("mine/runn.yaml", "; did you mean mine/run.yaml?"),
        ("mine/elephant.yaml", "; the package's are in its folder configs/"),
    ],
)
def test_a_missing_configuration_file(
    asked: str, says: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for path in ("configs/evaluate/shapes_cam.yaml", "mine/run.yaml"):
        (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / path).write_text("{}")
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit):
        main(["test", "--config", asked])
    first = capsys.readouterr().err.splitlines()[0]
    assert first == f"error: config: {asked}: no such file (relative paths start from {tmp_path}){says}"


@pytest.mark.parametrize(
    "words",
    [
        pytest.param(["--trainer.accelerator=gpu"], marks=pytest.mark.skipif(torch.cuda.is_available(), reason="GPU")),
        ["--trainer.devices=0", "--trainer.accelerator=cpu"],
        ["--trainer.strategy=deepspeed", "--trainer.accelerator=cpu"],
    ],
    ids=lambda words: words[0],
)
@pytest.mark.parametrize("wanted", [False, True], ids=["short", "traceback"])
def test_a_device_that_is_not_there(words: list[str], wanted: bool, capsys: pytest.CaptureFixture[str]) -> None:
    words = [*words, "--traceback"] if wanted else words
    with pytest.raises(SystemExit) as stopped:
        entry(["test", f"--config={CONFIG}", "--model.init_args.classifier.init_args.weights=null", *words])
    assert stopped.value.code == 1
    err = capsys.readouterr().err
    assert words[0].replace("=", " ") in err
    assert "--trainer.accelerator cpu runs on any machine; " in err
    assert ("Traceback" in err) is wanted
    assert wanted or len(err[err.index("error: ") :].splitlines()) == 3


def test_what_lightning_refuses_in_a_run_is_short(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["test", "--data=ShapesDataModule", f"--trainer.default_root_dir={tmp_path}", "--trainer.logger=false"]
    network = "{class_path: ResidualClassifier, init_args: {num_classes: 7}}"
    words += ["--model=RTSModule", f"--model.init_args.classifier={network}"]
    words += [
        "--model.init_args.interpreter={class_path: RTS, init_args: {map_stride: 4}}",
        "--trainer.accelerator=cpu",
    ]
    with pytest.raises(SystemExit) as stopped:
        entry(words)  # it is for fit
    assert stopped.value.code == 1
    err = capsys.readouterr().err
    assert "error: No `test_step()` method" in err
    assert "Traceback" not in err


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


@pytest.mark.parametrize("wanted", [False, True], ids=["short", "traceback"])
def test_ctrl_c_before_a_run_begins(wanted: bool, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stopped, short_errors(wanted):
        signal.raise_signal(signal.SIGINT)
    assert stopped.value.code == 130
    err = capsys.readouterr().err
    assert err.splitlines()[-1] == "interrupted"
    assert ("Traceback" in err) is wanted


@pytest.mark.parametrize("wanted", [False, True], ids=["short", "traceback"])
def test_export_is_short_too(wanted: bool, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "records" / "cam" / "batch_00000.safetensors").mkdir(parents=True)  # a folder where a file belongs
    with pytest.raises(SystemExit) as stopped:
        entry(["export", str(tmp_path), *(["--traceback"] if wanted else [])])
    assert stopped.value.code == 1
    err = capsys.readouterr().err
    assert "a folder and no regular file" in err
    assert ("Traceback" in err) is wanted
    assert wanted or len(err.splitlines()) <= 10


def test_verify_names_what_cannot_be_read(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "records" / "cam" / "batch_00000.safetensors").mkdir(parents=True)
    (tmp_path / "manifest.json").mkdir()
    assert entry(["verify", str(tmp_path), "--traceback"]) == 1
    out, err = capsys.readouterr()
    assert "WRONG" in out
    assert not err


@pytest.mark.parametrize(
    "words",
    [
        ["export", "x", "--out=y"],
        ["verify", "x", "--im=y"],
        ["demo", "--num=3"],
        ["report", "x", "--out=y"],
        ["reproduce", "--conf=x"],
    ],
    ids=lambda w: w[0],
)
def test_the_other_commands_complete_no_option(words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stopped:
        entry(words)
    assert stopped.value.code == 2
    assert len(capsys.readouterr().err.splitlines()) <= 10
