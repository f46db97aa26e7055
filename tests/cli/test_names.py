"""The last part of a class path will do for what the package has; an unknown name is answered with what there is."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest
import pytorch_lightning as pl
import yaml

from lightning_adv2 import attacks
from lightning_adv2.__main__ import main as entry
from lightning_adv2.attacks import AttackRecipe
from lightning_adv2.cli import main
from lightning_adv2.cli.names import offered
from lightning_adv2.files.likeness import alike
from lightning_adv2.interpreters import Interpreter
from lightning_adv2.models import Classifier

CONFIG = Path(__file__).parents[2] / "configs" / "evaluate" / "shapes_cam.yaml"
NETWORK = "model.init_args.classifier.init_args"
ABSTRACT = "lightning_adv2.interpreters.Interpreter"
FUNCTIONS = ("pgd", "stadv", "adv2_grad", "adv2_cam", "adv2_rts", "adv2_mask")


def printed(capsys: pytest.CaptureFixture[str], *words: str) -> dict[str, Any]:
    with pytest.raises(SystemExit) as stopped:
        main(["test", "--config", str(CONFIG), *words, "--print_config"])
    out, err = capsys.readouterr()
    assert stopped.value.code == 0, err
    content: dict[str, Any] = yaml.safe_load(out)
    return content


def refused(capsys: pytest.CaptureFixture[str], *words: str) -> list[str]:
    with pytest.raises(SystemExit) as stopped:
        main(["test", "--config", str(CONFIG), *words])
    assert stopped.value.code == 2
    return capsys.readouterr().err.splitlines()


def evaluation(prefix: str) -> list[dict[str, Any]]:
    own: list[Any] = [prefix + name for name in FUNCTIONS]
    own.append({"class_path": prefix + "ADV2", "init_args": {"steps": 30}})
    own.append({"class_path": prefix + "pgd", "init_args": {"steps": 7}})
    return [{"class_path": "AttackEvaluation", "init_args": {"attacks": own}}]


@pytest.mark.parametrize("way", ["flag", "file", "file of the list"])
def test_functions_have_short_names(way: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    def given(value: Any, name: str) -> list[str]:
        if way == "flag":
            return [f"--trainer.callbacks={yaml.safe_dump(value, default_flow_style=True)}"]
        part = value if way == "file of the list" else {"trainer": {"callbacks": value}}
        (tmp_path / name).write_text(yaml.safe_dump(part))
        return [f"--{'config' if way == 'file' else 'trainer.callbacks'}", str(tmp_path / name)]

    short = printed(capsys, *given(evaluation(""), "short.yaml"))
    assert short == printed(capsys, *given(evaluation("lightning_adv2.attacks."), "long.yaml"))
    got = short["trainer"]["callbacks"][0]["init_args"]["attacks"]
    assert [one["class_path"] for one in got[: len(FUNCTIONS)]] == [f"lightning_adv2.attacks.{n}" for n in FUNCTIONS]


def test_offered_are_the_exports_of_the_kind() -> None:
    assert offered(AttackRecipe)["pgd"] == "lightning_adv2.attacks.pgd"
    presets = {*FUNCTIONS, "adv2_ensemble"}
    assert set(offered(AttackRecipe)) == {"ADV2", "Attack", *presets} <= set(attacks.__all__)
    assert {"GradCAM", "RTS"} < set(offered(Interpreter))
    assert "Interpreter" not in offered(Interpreter)  # nothing can be made of it
    assert "pgd" not in offered(Interpreter)


def test_a_function_of_another_kind_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    assert "there is no Interpreter 'pgd'; available: " in refused(capsys, "--model.init_args.interpreter=pgd")[0]


@pytest.mark.parametrize(
    ("key", "value", "kind", "meant"),
    [
        ("model.init_args.interpreter", "LIME", Interpreter, None),
        ("model.init_args.interpreter", "Gradcam", Interpreter, "GradCAM"),
        ("model.init_args.interpreter", "grad_cam", Interpreter, "GradCAM"),
        ("model.init_args.interpreter", "[CAM, smoothgrad]", Interpreter, "SmoothGrad"),
        ("model.init_args.interpreter", "lightning_adv2.interpreters.Gradcam", Interpreter, "GradCAM"),
        ("model.init_args.classifier", "{class_path: ResidualClasifier}", Classifier, "ResidualClassifier"),
        ("model", "idls", pl.LightningModule, "IDLS"),
        ("data", "ShapesDatamodule", pl.LightningDataModule, "ShapesDataModule"),
        ("trainer.callbacks", "[attackevaluation]", pl.Callback, "AttackEvaluation"),
        ("trainer.callbacks", "[EarlyStoping]", pl.Callback, "EarlyStopping"),
        ("trainer.callbacks", "[{class_path: AttackEvaluation, init_args: {attacks: [PGD]}}]", AttackRecipe, "pgd"),
        ("trainer.callbacks", "[{class_path: AttackEvaluation, init_args: {attacks: [adv2]}}]", AttackRecipe, "ADV2"),
    ],
)
def test_an_unknown_name(
    key: str, value: str, kind: type, meant: str | None, capsys: pytest.CaptureFixture[str]
) -> None:
    lines = refused(capsys, f"--{key}={value}")
    assert lines[0].startswith(f"error: {key}"), lines
    assert f"available: {', '.join(sorted(offered(kind)))}" in lines[0]
    assert f"there is no {kind.__name__} '" in lines[0]
    assert [line for line in lines if "did you mean" in line] == ([f"did you mean {meant}?"] if meant else [])


def test_alike_whatever_the_case() -> None:
    assert alike("GRADcam", ["GradCAM", "CAM"]) == "GradCAM"
    assert alike("elephant", ["GradCAM", "CAM"]) is None


OWN = """
from torch import nn
from lightning_adv2.models import ResidualClassifier

class MyNet(nn.Module):
    pass

def made():
    return ResidualClassifier(7)
"""


@pytest.mark.parametrize("way", ["flag", "file by flag", "file in a file"])
@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("MyNet", "own_plain.MyNet is not a subclass of lightning_adv2.models.Classifier; make it one, as docs/own.md"),
        ("made", "own_plain.made does not return a lightning_adv2.models.Classifier by its annotation; add it"),
    ],
)
def test_a_class_of_another_kind(
    name: str,
    says: str,
    way: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    (tmp_path / "own_plain.py").write_text(OWN)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "own_plain", raising=False)
    network = tmp_path / "network.yaml"
    network.write_text(f"class_path: own_plain.{name}\n")
    over = tmp_path / "over.yaml"
    over.write_text(yaml.safe_dump({"model": {"class_path": "IDLS", "init_args": {"classifier": "network.yaml"}}}))
    words = {
        "flag": [f"--model.init_args.classifier=own_plain.{name}"],
        "file by flag": [f"--model.init_args.classifier={network}"],
        "file in a file": ["--config", str(over)],
    }[way]
    lines = refused(capsys, *words)
    assert lines[0].startswith(f"error: model.init_args.classifier: {says}"), lines
    assert "loop" not in "".join(lines)


def test_a_file_that_holds_itself_is_a_loop(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "part.yaml").write_text("class_path: AttackDataModule\ninit_args: {source: part.yaml}\n")
    lines = refused(capsys, f"--data={tmp_path / 'part.yaml'}")
    assert lines[0].startswith("error: data.init_args.source: "), lines


@pytest.mark.parametrize(
    ("word", "first"),
    [
        ("--data.init_args.num_images=few", "error: data.init_args.num_images: expected int"),
        ("--trainer.callbacks.init_args.seed=x", "error: trainer.callbacks.init_args.seed: expected int"),
        ("--model.init_args.classifier=nowhere.yaml", "error: model.init_args.classifier: nowhere.yaml: no such file"),
        ("--model.init_args.classifier=nowhere.Net", "error: model.init_args.classifier (nowhere.Net): No module"),
    ],
)
def test_the_key_is_one_path(word: str, first: str, capsys: pytest.CaptureFixture[str]) -> None:
    lines = refused(capsys, word)
    assert lines[0].startswith(first), lines
    assert "Namespace" not in "".join(lines)
    assert "NestedArg" not in "".join(lines)


def test_an_abstract_class_is_told_what_it_lacks(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        entry(
            ["test", "--config", str(CONFIG), f"--{NETWORK}.weights=null", f"--model.init_args.interpreter={ABSTRACT}"]
        )
    err = capsys.readouterr().err
    assert "abstract" in err
    assert "forward" in err
    assert "model.init_args.interpreter" in err
