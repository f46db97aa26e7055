"""docs/own.md and configs/own/, followed to the letter on a tiny folder of images, but for sizes and lengths."""

from __future__ import annotations

import csv
import json
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import torchvision
from docs.guide import DOCS, ROOT, blocks, write
from lab import wandb_home  # noqa: F401 - the fixture is autouse
from PIL import Image

from lightning_adv2.__main__ import main
from lightning_adv2.data import ShapesDataset
from lightning_adv2.models import read_weights

QUIET = ["--trainer.accelerator=cpu", "--trainer.enable_model_summary=false", "--trainer.logger=false"]
SIZES = ("resize=64", "crop=64", "num_workers=0")
FEW = [{"class_path": f"lightning_adv2.attacks.{name}", "init_args": {"steps": 2}} for name in ("pgd", "ADV2")]
ATTACK = [
    "--data.init_args.num_images=4",
    "--data.init_args.batch_size=4",
    f"--trainer.callbacks.init_args.attacks={json.dumps(FEW)}",
]
TRAIN = ["--data.init_args.batch_size=6", "--trainer.max_steps=2"]
VALIDATE = ["--trainer.val_check_interval=2", "--trainer.limit_val_batches=1"]
TINY = {
    "evaluate": ATTACK,
    "evaluate_rts": ATTACK,
    "classifier": [*TRAIN, "--trainer.max_epochs=1"],
    "rts": [*TRAIN, *VALIDATE, "--model.init_args.selector_steps=1"],
    "aid": [*TRAIN, *VALIDATE, "--model.init_args.attack.init_args.steps=2"],
}
CLASSES = ("a cat", "dog", "zebra")


def draw(folder: Path) -> Path:
    """A folder of 3 classes, 4 images each to train on and 4 to test."""
    shapes = ShapesDataset(24, seed=5, split="test", image_size=64)
    for i in range(24):
        path = folder / ("train", "val")[i % 2] / CLASSES[i // 2 % 3] / f"{i}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(shapes.uint8(i)).save(path)
    return folder


def tiny(words: list[str]) -> list[str]:
    """The same command on few small images and with few steps."""
    if "--config" not in words:
        return words
    config = Path(words[words.index("--config") + 1]).stem
    source = "--data.init_args.source.init_args." if words[0] == "test" else "--data.init_args."
    cut = [] if words[0] == "validate" else TINY[config]
    return [*words, *QUIET, *(source + one for one in SIZES), *cut]


def commands(text: str) -> list[list[str]]:
    return [shlex.split(line) for line in text.replace("\\\n", " ").splitlines()]


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    shutil.copytree(ROOT / "configs/own", tmp_path / "configs/own")
    draw(tmp_path / "my_images")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def rows(run: Path) -> set[tuple[str, str]]:
    with (run / "results.csv").open(newline="", encoding="utf-8") as stream:
        return {(row["interpreter"], row["attack"]) for row in csv.DictReader(stream)}


@pytest.mark.long
def test_the_page_from_a_folder_and_a_pth_to_rts_a(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    torch.manual_seed(0)
    network = torchvision.models.resnet18(num_classes=3)
    torch.save(network.state_dict(), folder / "my_network.pth")
    ran, printed = [], ""
    for block in blocks(DOCS / "own.md"):
        if block.language in ("yaml", "python"):
            assert write(block, folder), block.line
            continue
        assert block.language == "bash"
        for words in commands(block.text):
            if words[0] == "lightning-adv2":
                assert main(tiny(words[1:])) == 0
                ran.append(Path(words[3]).stem)
            else:
                assert words[0] == "python"
                script = [sys.executable, *words[1:]]
                printed = subprocess.run(script, capture_output=True, text=True, check=True).stdout
    assert ran == ["evaluate", "evaluate", "rts", "evaluate_rts", "aid", "evaluate_rts", "evaluate_rts_a"]
    assert (folder / "runs/own/rts_and_rts_a.html").stat().st_size > 10_000
    assert "val/benign/accuracy" in capsys.readouterr().out
    with Image.open(folder / "adversarial.png") as adversarial, Image.open(folder / "adversarial_map.png") as shown:
        assert adversarial.size == shown.size == (64, 64)
    runs = folder / "runs/own"
    every = {"noise", "target_class", "pgd", "adv2"}
    names = ("grad", "cam", "gradcam", "smoothgrad")
    assert rows(runs / "evaluate") == {(name, attack) for name in names for attack in every}
    for name in ("rts", "rts_a"):
        assert rows(runs / f"evaluate_{name}") == {(name, attack) for attack in every}
    assert len(printed.splitlines()) == 8
    assert "ASR" in printed
    network_file = {"class_path": "my_network.MyClassifier", "init_args": {"num_classes": 3}}
    custom = ["test", "--config", "configs/own/evaluate.yaml", "--trainer.default_root_dir=runs/own/custom"]
    assert main(tiny([*custom, f"--model.init_args.classifier={json.dumps(network_file)}"])) == 0
    assert rows(runs / "custom") == {(name, attack) for name in names for attack in every}
    frozen, moved = (read_weights(runs / f"{name}.safetensors") for name in ("rts/rts", "aid/rts_a"))
    assert not any(name.startswith("encoder.") for name in frozen)
    encoder, before = moved["encoder.features.0.weight"], network.conv1.weight
    assert torch.allclose(encoder, before, atol=1e-2)  # it is the user's network
    assert not torch.equal(encoder, before)  # trained on


@pytest.mark.slow
def test_a_classifier_is_trained_where_network_yaml_looks_for_it(folder: Path) -> None:
    network = "--model.init_args.classifier.init_args."
    images = "--data.init_args.root=my_images"
    words = ["fit", "--config", "configs/own/classifier.yaml", images]
    words += [
        f"{network}name=resnet18",
        f"{network}num_classes=3",
        f"{network}weights=null",
        f"{network}new_head=false",
    ]
    assert main(tiny(words)) == 0
    words = ["test", "--config", "configs/own/evaluate.yaml", images.replace("args.root", "args.source.init_args.root")]
    words += [f"{network}name=resnet18", f"{network}num_classes=3", "--model.init_args.interpreter=CAM"]
    assert main(tiny(words)) == 0
    results = json.loads((folder / "runs/own/evaluate/results.json").read_text())
    assert results
    assert {name for name, _ in rows(folder / "runs/own/evaluate")} == {"cam"}
