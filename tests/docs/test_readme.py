"""The README's commands, in its order, on a machine where only what ``fetch`` brings lies in ``data/``.

Lengths are cut: few images, few steps of attacks and trainings. The images of CIFAR-10 come as zips, which ``fetch``
leaves alone.
"""

from __future__ import annotations

import re
import shlex
import shutil
import tomllib
from pathlib import Path
from typing import Any

import pytest
import yaml
from lab import wandb_home  # noqa: F401 - the fixture is autouse

from docs.guide import ROOT, blocks
from lightning_adv2.__main__ import main

SHORT = {
    "num_images": 2, "num_train": 64, "num_test": 40, "num_val": 16, "calibration_images": 64, "max_steps": 2,
    "val_check_interval": 2,
}  # fmt: skip

STEPS = {
    r"lightning_adv2\.attacks\.(pgd|stadv|ADV2|adv2_\w+)": "steps",
    r"lightning_adv2\.interpreters\.MASK": "iterations",
}

# In the file and on no command's line, for reproduce trains by the same files in the same folders.
FEW_BATCHES = "trainer:\n  limit_train_batches: 4\n  limit_val_batches: 1\n"


def commands() -> list[list[str]]:
    """Words of each ``lightning-adv2`` command of the README's bash blocks but for the demo's."""
    found = [
        shlex.split(line, comments=True)[1:]
        for block in blocks(ROOT / "README.md")
        if block.language == "bash"
        for line in block.text.splitlines()
        if line.startswith("lightning-adv2 ")
    ]
    assert len(found) > 15
    return found


def layers() -> list[set[str]]:
    """The layers of the import contract, from the top down."""
    linter = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["importlinter"]
    (contract,) = (one for one in linter["contracts"] if one["type"] == "layers")
    return [{name.strip().removeprefix("lightning_adv2.") for name in layer.split("|")} for layer in contract["layers"]]


def test_the_house_is_the_contract_of_the_imports() -> None:
    """The README lists every folder of the package, in the order of the layers; the contract has every module."""
    package = ROOT / "lightning_adv2"
    folders = {path.parent.name for path in package.glob("*/__init__.py")}
    modules = {path.stem for path in package.glob("*.py")} - {"__init__", "__main__"}
    section = (ROOT / "README.md").read_text().partition("## Where things are")[2].partition("\n## ")[0]
    rows = re.findall(r"^\| `(\w+)/` \|", section, re.MULTILINE)
    assert sorted(rows) == sorted(folders)
    place = {name: number for number, layer in enumerate(layers()) for name in layer}
    assert [place[name] for name in rows] == sorted(place[name] for name in rows)
    assert set(place) == folders | modules


def shorten(folder: Path) -> None:
    """The configurations with the same keys and small numbers."""
    shutil.copytree(ROOT / "configs", folder / "configs")
    for path in (folder / "configs").rglob("*.yaml"):
        text = path.read_text()
        for key, value in SHORT.items():
            text = re.sub(rf"^( *{key}:) \d+$", rf"\1 {value}", text, flags=re.MULTILINE)
        if path.parent.name in ("train", "own"):
            text = text.replace("trainer:\n", FEW_BATCHES)
        content = yaml.safe_load(text)
        few_steps(content)
        path.write_text(yaml.safe_dump(content, sort_keys=False))


def few_steps(content: Any) -> None:
    """Give every attack, and MASK in every explanation, three steps, in place."""
    for part in content.values() if isinstance(content, dict) else content if isinstance(content, list) else ():
        few_steps(part)
    made = str(content.get("class_path")) if isinstance(content, dict) else ""
    for name, option in STEPS.items():
        if re.fullmatch(name, made):
            content["init_args"] = (content.get("init_args") or {}) | {option: 3}


@pytest.mark.long
def test_every_command_in_order(tmp_path: Path, shared_data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("LIGHTNING_ADV2_DATA", raising=False)
    shorten(tmp_path)
    (tmp_path / "data").mkdir()
    for name in ("cifar10", "isic-sample", "imagenet1k-samples"):
        (tmp_path / "data" / name).symlink_to(shared_data / name)
    for words in commands():
        if words[0] == "reproduce":
            words = [*words, "--tables", "stadv", "--num-images", "2"]
        if words[0] in ("fit", "test", "predict"):
            words = [*words, "--trainer.accelerator=cpu", "--trainer.enable_model_summary=false"]
        if words[0] == "fit":
            words = [*words, "--trainer.max_epochs=1"]
        assert main(words) == 0, words
