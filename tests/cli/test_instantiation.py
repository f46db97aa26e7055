"""An error of a class that a configuration names is told in the class's words, with its key."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from lightning_adv2.__main__ import main as entry
from lightning_adv2.cli import main
from lightning_adv2.reproduction.configuration import read_configuration

CONFIG = Path(__file__).parents[2] / "configs" / "evaluate" / "shapes_cam.yaml"
NETWORK = "model.init_args.classifier"
OWN = """
import torch
from lightning_adv2.models import ResidualClassifier

class FromFile(ResidualClassifier):
    def __init__(self, path: str = "nowhere.pth") -> None:
        super().__init__(num_classes=7)
        self.load_state_dict(torch.load(path))

class OtherHead(ResidualClassifier):
    def __init__(self, num_classes: int) -> None:
        super().__init__(num_classes=7)
        self.load_state_dict(ResidualClassifier(num_classes, widths=(8, 8, 8)).state_dict())

class Unfinished(ResidualClassifier):
    def __init__(self, options: str = "{}") -> None:
        super().__init__(num_classes=7)
        {}["missing"]

def made(steps: int = 0) -> ResidualClassifier:
    raise RuntimeError("steps are up")
"""


def words(tmp_path: Path, **overrides: Any) -> list[str]:
    content = read_configuration(CONFIG)
    content["model"]["init_args"]["classifier"]["init_args"]["weights"] = None
    (tmp_path / "run.yaml").write_text(yaml.safe_dump(content))
    return ["test", f"--config={tmp_path / 'run.yaml'}", "--trainer.logger=false"] + [
        f"--{key}={value}" for key, value in overrides.items()
    ]


def told(capsys: pytest.CaptureFixture[str], asked: list[str]) -> list[str]:
    """The lines of the error."""
    with pytest.raises(SystemExit) as stopped:
        entry(asked)
    assert stopped.value.code == 1
    lines = capsys.readouterr().err.splitlines()
    begin = next(number for number, line in enumerate(lines) if line.startswith("error: "))
    text = "\n".join(lines[begin:])
    assert "Namespace(" not in text
    assert "NoneType" not in text
    assert "Union" not in text
    return lines[begin:]


@pytest.mark.parametrize(
    ("key", "value", "first", "place"),
    [
        (f"{NETWORK}.init_args.weights", "x.pth", "weights='x.pth'", f"{NETWORK} (lightning_adv2.models.Residual"),
        (
            NETWORK,
            "{class_path: TorchvisionClassifier, init_args: {name: resnet81, num_classes: 7}}",
            "name='resnet81'",
            f"{NETWORK} (lightning_adv2.models.TorchvisionClassifier)",
        ),
        (
            "model.init_args.interpreter",
            "[{class_path: MASK, init_args: {size: -1}}, CAM]",
            "size=-1",
            "model.init_args.interpreter (lightning_adv2.interpreters.MASK)",
        ),
        (
            "model.init_args.interpreter",
            "{class_path: RTS, init_args: {map_stride: 3}}",
            "map_stride=3",
            "model (lightning_adv2.modules.IDLS)",
        ),
        ("data.init_args.batch_size", 0, "batch_size=0", "data (lightning_adv2.data.AttackDataModule)"),
        ("data.init_args.num_images", -3, "num_images=-3", "data (lightning_adv2.data.AttackDataModule)"),
        (
            "trainer.callbacks",
            "[{class_path: AttackEvaluation, init_args: {attacks: "
            "[{class_path: lightning_adv2.attacks.pgd, init_args: {steps: -1}}]}}]",
            "steps=-1",
            "trainer.callbacks.init_args.attacks (lightning_adv2.attacks.pgd)",
        ),
    ],
    ids=["weights", "architecture", "interpreter", "map_stride", "batch_size", "num_images", "function"],
)
def test_the_sentence_comes_first_and_its_key_after(
    key: str, value: Any, first: str, place: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    lines = told(capsys, words(tmp_path, **{key: value}))
    assert lines[0].startswith(f"error: {first}")
    assert lines[1].startswith(f"  at {place}")
    assert len(lines) == 3, lines


@pytest.mark.parametrize(
    ("value", "first"),
    [
        ("FromFile", "error: [Errno 2] No such file or directory: 'nowhere.pth'"),
        ("OtherHead, init_args: {num_classes: 3}", "error: Error(s) in loading state_dict for OtherHead:"),
        ("made", "error: steps are up"),
    ],
)
def test_a_class_of_ones_own(
    value: str, first: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    own(tmp_path, monkeypatch)
    lines = told(capsys, words(tmp_path, **{NETWORK: f"{{class_path: own_failing.{value}}}"}))
    assert lines[0] == first
    assert lines[-2] == f"  at {NETWORK} (own_failing.{value.split(',')[0]})"
    assert len(lines) <= 10


def test_a_fault_in_code_keeps_its_kind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    own(tmp_path, monkeypatch)
    with pytest.raises(KeyError) as raised:
        main(words(tmp_path, **{NETWORK: "own_failing.Unfinished"}))
    assert raised.value.__notes__ == [f"at {NETWORK} (own_failing.Unfinished)"]
    assert raised.value.__context__ is None


def own(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (folder / "own_failing.py").write_text(OWN)
    monkeypatch.syspath_prepend(folder)
    monkeypatch.delitem(sys.modules, "own_failing", raising=False)
