"""Every sweep in configs/sweeps/ gives commands that the program takes, and names a metric that it logs."""

from __future__ import annotations

import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml
from wandb.sdk.launch.sweeps.utils import create_sweep_command_args

from lightning_adv2.cli import main

ROOT = Path(__file__).parents[1]
SWEEPS = sorted((ROOT / "configs" / "sweeps").glob("*.yaml"))
LOGGED = {  # which part of the resolved configuration stands behind a metric's name
    "val/benign/{interpreter}/gap": ("RTSModule", "AIDModule"),
    "val/adv2-fast/{interpreter}/iou": ("AttackEvaluation",),
    "summary/adv2/{interpreter}/iou": ("AttackEvaluation",),
}


def choices(parameter: dict[str, Any]) -> list[Any]:
    """Some values of a parameter, its first and its last among them."""
    return parameter.get("values") or [parameter["min"], parameter["max"]]


def words(sweep: dict[str, Any], which: int, folder: Path) -> list[str]:
    """What an agent's run is started with, as the command's own shell passes it on to the program."""
    values = {name: {"value": choices(parameter)[which]} for name, parameter in sweep["parameters"].items()}
    made = create_sweep_command_args({"args": values})
    command = [word for part in sweep["command"] for word in (made["args"] if part == "${args}" else [part])]
    (folder / "lightning-adv2").write_text('#!/bin/bash\nprintf "%s\\0" "$@"\n')  # says what it was given
    (folder / "lightning-adv2").chmod(0o755)
    environment = {"PATH": f"{folder}:/usr/bin:/bin", "WANDB_SWEEP_ID": "s1", "WANDB_RUN_ID": "r1"}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True, cwd=ROOT)
    return done.stdout.split("\0")[:-1]


def test_there_are_sweeps_for_training_hardening_and_attack() -> None:
    assert {path.stem for path in SWEEPS} >= {"rts_cifar10", "aid_cifar10", "attack_cifar10"}


@pytest.mark.parametrize("path", SWEEPS, ids=lambda path: path.stem)
def test_its_commands_are_taken(
    path: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(ROOT)
    sweep = yaml.safe_load(path.read_text())
    resolved = []
    for which in (0, -1):
        given = words(sweep, which, tmp_path)
        with pytest.raises(SystemExit) as stopped:
            main([*given, "--print_config"])
        assert stopped.value.code == 0
        resolved.append(yaml.safe_load(capsys.readouterr().out))
        assert resolved[-1]["trainer"]["default_root_dir"] == "runs/sweeps/s1/r1", "a folder for each run"
        for name, parameter in sweep["parameters"].items():
            wanted = choices(parameter)[which]
            wanted = yaml.safe_load(wanted) if isinstance(wanted, str) else wanted
            assert _contains(_at(resolved[-1], name), wanted), name
    assert resolved[0] != resolved[1]
    text = yaml.safe_dump(resolved[0])
    interpreter = resolved[0]["model"]["init_args"]["interpreter"]
    short = interpreter.get("init_args", {}).get("name") or interpreter["class_path"].rpartition(".")[2].lower()
    behind = {name.format(interpreter=short): parts for name, parts in LOGGED.items()}
    assert any(part in text for part in behind[sweep["metric"]["name"]]), "what logs the metric is not there"


def _at(content: Any, name: str) -> Any:
    """The value under a dotted name; of a list the last."""
    for key in name.split("."):
        content = content[-1] if isinstance(content, list) else content
        content = content[key]
    return content


def _contains(found: Any, wanted: Any) -> bool:
    """Whether all that is wanted was taken over; more may have been filled in."""
    if isinstance(wanted, dict):
        return all(_contains(found[key], value) for key, value in wanted.items())
    if isinstance(wanted, list):
        return len(found) == len(wanted) and all(map(_contains, found, wanted))
    return bool(found == wanted)
