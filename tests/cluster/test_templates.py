from __future__ import annotations

import argparse
import shlex
import subprocess
from pathlib import Path

import pytest
import yaml

from cluster.cluster_lab import CLUSTER, ROOT, environment, text_of
from cluster.real_slurm import Slurm
from lightning_adv2.cli import main

TEMPLATES = sorted(CLUSTER.glob("*.sbatch"))
SCRIPTS = [*TEMPLATES, CLUSTER / "torchrun.sh"]
RECORDER = """#!/bin/bash
# In place of lightning-adv2 and torchrun: note the words and the variables, one file per process.
env -0 > "$NOTES/${SLURM_ARRAY_TASK_ID:-0}-${SLURM_PROCID:-0}.env"
printf '%s\\0' "$@" > "$NOTES/${SLURM_ARRAY_TASK_ID:-0}-${SLURM_PROCID:-0}.words"
"""
HERE = ("--nodes=1", "--ntasks-per-node=2", "--gpus-per-node=0", "--cpus-per-task=1")


def stem(path: Path) -> str:
    return path.stem


def directives(script: Path) -> list[str]:
    """The options in a batch file, which end at its first command."""
    words = []
    for line in script.read_text().splitlines():
        if line.startswith("#SBATCH"):
            words += shlex.split(line.removeprefix("#SBATCH"))
        elif line.strip() and not line.startswith("#"):
            break
    return words


def options_of(script: Path) -> argparse.Namespace:
    parser = argparse.ArgumentParser(allow_abbrev=False)
    for name in ("job-name", "output", "time", "signal", "array", "open-mode"):
        parser.add_argument(f"--{name}")
    for name in ("nodes", "ntasks-per-node", "gpus-per-node", "cpus-per-task"):
        parser.add_argument(f"--{name}", type=int)
    parser.add_argument("--requeue", action="store_true")
    return parser.parse_args(directives(script))


def test_all_are_here() -> None:
    assert {path.name for path in TEMPLATES} == {
        "single_node.sbatch", "several_nodes.sbatch", "interpreters_array.sbatch", "training.sbatch"
    }  # fmt: skip


@pytest.mark.parametrize("path", SCRIPTS, ids=stem)
def test_bash_can_read_it(path: Path) -> None:
    done = subprocess.run(["bash", "-n", path], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    assert path.read_text().isascii()
    assert "set -euo pipefail" in path.read_text()


@pytest.mark.parametrize("path", TEMPLATES, ids=stem)
def test_what_slurm_is_asked_for(path: Path) -> None:
    options = options_of(path)
    assert options.signal == "USR1@120", "to the step's processes; B: would reach the batch shell alone"
    assert options.requeue
    assert options.open_mode == "append"
    assert options.ntasks_per_node == options.gpus_per_node >= 1
    assert options.nodes == (2 if path.stem == "several_nodes" else 1)
    assert options.cpus_per_task >= 1
    assert options.time
    assert ("%A_%a" if options.array else "%j") in options.output
    assert "/" not in options.output, "SLURM fails without a word when the folder is not there"
    # Every line that looks like an option is one: SLURM stops reading at the first command.
    assert len(directives(path)) == sum(line.startswith("#SBATCH") for line in path.read_text().splitlines())


def recorder(folder: Path) -> dict[str, Path]:
    """Variables by which a script starts a recorder in place of its program."""
    program = folder / "recorder"
    (folder / "notes").mkdir()
    program.write_text(RECORDER)
    program.chmod(0o755)
    return {"NOTES": folder / "notes", "ADV2": program, "TORCHRUN": program}


def recorded(folder: Path) -> dict[str, tuple[list[str], dict[str, str]]]:
    """The words and variables of every process, by ``task-rank``."""
    found = {}
    for file in sorted((folder / "notes").glob("*.words")):
        lines = file.with_suffix(".env").read_text().split("\0")
        found[file.stem] = file.read_text().split("\0")[:-1], dict(line.split("=", 1) for line in lines if "=" in line)
    return found


@pytest.mark.slow
@pytest.mark.parametrize("path", TEMPLATES, ids=stem)
def test_every_process_gets_a_command_that_our_parser_takes(
    path: Path, slurm: Slurm, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    threads = {"OMP_NUM_THREADS": ""}  # as on a login node, where it is not set
    job = slurm.submit(
        tmp_path, path.name, "--seed_everything=7", options=HERE, **recorder(tmp_path), **threads
    )  # fmt: skip
    tasks = range(6) if options_of(path).array else range(1)
    for task in tasks:
        one = f"{job}_{task}" if len(tasks) > 1 else job
        assert slurm.wait(one, tmp_path, 60) == "COMPLETED", text_of(tmp_path)
    found = recorded(tmp_path)
    assert set(found) == {f"{task}-{rank}" for task in tasks for rank in range(2)}
    words, variables = found["0-0"]
    assert variables["WANDB_MODE"] == "offline"
    assert variables["OMP_NUM_THREADS"] == variables["SRUN_CPUS_PER_TASK"] == "1"
    monkeypatch.chdir(ROOT)  # the configurations in the files are relative to the checkout
    with pytest.raises(SystemExit) as stopped:
        main([*words, "--print_config"])
    assert stopped.value.code == 0
    assert words[0] == ("fit" if path.stem == "training" else "test")
    printed = yaml.safe_load(capsys.readouterr().out)
    assert printed["seed_everything"] == 7
    assert printed["trainer"]["devices"] == "2"
    assert printed["trainer"]["num_nodes"] == 1
    assert printed["trainer"]["strategy"] == "ddp"
    assert printed["trainer"]["accelerator"] == "cpu"
    assert printed["trainer"]["default_root_dir"].startswith("runs/cluster/")


@pytest.mark.slow
def test_array_has_one_folder_and_one_interpreter_per_task(slurm: Slurm, tmp_path: Path) -> None:
    """A class by its name, or a YAML file with arguments."""
    names = "CAM configs/interpreter/grad.yaml"
    job = slurm.submit(
        tmp_path, "interpreters_array.sbatch", options=("--array=0-1", *HERE),
        INTERPRETERS=names, RUN="elsewhere", **recorder(tmp_path),
    )  # fmt: skip
    for task in range(2):
        assert slurm.wait(f"{job}_{task}", tmp_path, 60) == "COMPLETED", text_of(tmp_path)
    found = recorded(tmp_path)
    for key, interpreter, folder in (
        ("0-0", "lightning_adv2.interpreters.CAM", "elsewhere/CAM"),
        ("1-1", "configs/interpreter/grad.yaml", "elsewhere/grad"),
    ):
        words, _ = found[key]
        assert words[words.index("--model.init_args.interpreter") + 1] == interpreter
        assert words[words.index("--trainer.default_root_dir") + 1] == folder


def test_torchrun_script_hands_on_what_it_is_given(tmp_path: Path) -> None:
    given = {"PROCESSES": 3, "NODES": 2, "NODE": 1, "HEAD": "10.0.0.1:29500", "ADDRESS": "10.0.0.2"}
    subprocess.run(
        ["bash", CLUSTER / "torchrun.sh", "test", "--config", "a b.yaml"],
        cwd=tmp_path, env=environment(tmp_path, **recorder(tmp_path), **given), timeout=60, check=True,
    )  # fmt: skip
    words, variables = recorded(tmp_path)["0-0"]
    assert words[words.index("-m") :] == [
        "-m", "lightning_adv2", "test", "--config", "a b.yaml",
        "--trainer.devices", "3", "--trainer.num_nodes", "2", "--trainer.strategy", "ddp",
    ]  # fmt: skip
    assert {"--nnodes=2", "--nproc-per-node=3", "--rdzv-conf=is_host=0", "--local-addr=10.0.0.2"} <= set(words)
    assert int(variables["TORCH_ELASTIC_SHUTDOWN_TIMEOUT"]) > 30
