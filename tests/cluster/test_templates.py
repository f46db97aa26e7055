from __future__ import annotations

import subprocess
from pathlib import Path

import pytest
import yaml

from cluster.cluster_lab import CLUSTER, ROOT, environment
from cluster.fake_slurm import batch_options, directives
from lightning_adv2.cli import main

TEMPLATES = sorted(CLUSTER.glob("*.sbatch"))
SCRIPTS = [*TEMPLATES, CLUSTER / "torchrun.sh"]
RECORDER = """#!/bin/bash
# In place of lightning-adv2 and torchrun: note the words and the variables, one file per process.
env -0 > "$NOTES/${SLURM_ARRAY_TASK_ID:-0}-${SLURM_PROCID:-0}.env"
printf '%s\\0' "$@" > "$NOTES/${SLURM_ARRAY_TASK_ID:-0}-${SLURM_PROCID:-0}.words"
"""


def stem(path: Path) -> str:
    return path.stem


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
    options = batch_options().parse_args(directives(path))
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


def recorded(path: Path, folder: Path, *words: str, **variables: object) -> dict[str, tuple[list[str], dict[str, str]]]:
    """Submit a template with a recorder as program: the words and variables of every process."""
    notes, recorder = folder / "notes", folder / "recorder"
    notes.mkdir()
    recorder.write_text(RECORDER)
    recorder.chmod(0o755)
    shown = environment(folder, NOTES=notes, ADV2=recorder, TORCHRUN=recorder, **variables)
    del shown["OMP_NUM_THREADS"]
    start = ["sbatch"] if path.suffix == ".sbatch" else ["bash"]
    done = subprocess.run(
        [*start, path, *words], cwd=folder, env=shown, capture_output=True, text=True, timeout=60, check=False
    )
    jobs = "".join(file.read_text() for file in folder.glob("*.out"))
    assert done.returncode == 0, done.stderr + jobs
    found = {}
    for file in sorted(notes.glob("*.words")):
        lines = file.with_suffix(".env").read_text().split("\0")
        found[file.stem] = file.read_text().split("\0")[:-1], dict(line.split("=", 1) for line in lines if line)
    return found


@pytest.mark.parametrize("path", TEMPLATES, ids=stem)
def test_every_process_gets_a_command_that_our_parser_takes(
    path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    found = recorded(path, tmp_path, "--seed_everything=7")
    options = batch_options().parse_args(directives(path))
    ranks = range(options.nodes * options.ntasks_per_node)
    tasks = range(6) if options.array else range(1)
    assert set(found) == {f"{task}-{rank}" for task in tasks for rank in ranks}
    words, variables = found["0-0"]
    assert variables["WANDB_MODE"] == "offline"
    assert variables["OMP_NUM_THREADS"] == variables["SRUN_CPUS_PER_TASK"] == str(options.cpus_per_task)
    monkeypatch.chdir(ROOT)  # the configurations in the files are relative to the checkout
    with pytest.raises(SystemExit) as stopped:
        main([*words, "--print_config"])
    assert stopped.value.code == 0
    assert words[0] == ("fit" if path.stem == "training" else "test")
    printed = yaml.safe_load(capsys.readouterr().out)
    assert printed["seed_everything"] == 7
    assert printed["trainer"]["devices"] == str(options.ntasks_per_node)
    assert printed["trainer"]["num_nodes"] == options.nodes
    assert printed["trainer"]["strategy"] == "ddp"
    assert printed["trainer"]["accelerator"] == "cpu"
    assert printed["trainer"]["default_root_dir"].startswith("runs/cluster/")


def test_array_has_one_folder_and_one_interpreter_per_task(tmp_path: Path) -> None:
    found = recorded(CLUSTER / "interpreters_array.sbatch", tmp_path, RUN="elsewhere")
    chosen = [words[words.index("--model.init_args.interpreter") + 1] for words, _ in found.values()]
    folders = [words[words.index("--trainer.default_root_dir") + 1] for words, _ in found.values()]
    names = [text.removeprefix("lightning_adv2.interpreters.") for text in chosen]
    assert folders == [f"elsewhere/{name}" for name in names]
    assert len(set(names)) == 6


def test_array_takes_yaml_files_with_arguments(tmp_path: Path) -> None:
    names = "CAM configs/interpreter/grad.yaml CAM CAM CAM CAM"
    words, _ = recorded(CLUSTER / "interpreters_array.sbatch", tmp_path, INTERPRETERS=names, RUN="r")["1-0"]
    assert words[words.index("--model.init_args.interpreter") + 1] == "configs/interpreter/grad.yaml"
    assert words[words.index("--trainer.default_root_dir") + 1] == "r/grad"


def test_torchrun_script_hands_on_what_it_is_given(tmp_path: Path) -> None:
    given = {"PROCESSES": 3, "NODES": 2, "NODE": 1, "HEAD": "10.0.0.1:29500", "ADDRESS": "10.0.0.2"}
    words, variables = recorded(CLUSTER / "torchrun.sh", tmp_path, "test", "--config", "a b.yaml", **given)["0-0"]
    assert words[words.index("-m") :] == [
        "-m", "lightning_adv2", "test", "--config", "a b.yaml",
        "--trainer.devices", "3", "--trainer.num_nodes", "2", "--trainer.strategy", "ddp",
    ]  # fmt: skip
    assert {"--nnodes=2", "--nproc-per-node=3", "--rdzv-conf=is_host=0", "--local-addr=10.0.0.2"} <= set(words)
    assert int(variables["TORCH_ELASTIC_SHUTDOWN_TIMEOUT"]) > 30


def test_fake_slurm_refuses_what_the_real_one_does(tmp_path: Path) -> None:
    """The tests above are worth what this is worth."""
    shown = environment(tmp_path)
    for text in ("#!/bin/bash\n#SBATCH --ntask-per-node=2\ntrue\n", "echo no first line\n"):
        (tmp_path / "bad.sbatch").write_text(text)
        done = subprocess.run(["sbatch", tmp_path / "bad.sbatch"], env=shown, capture_output=True, check=False)
        assert done.returncode != 0, text
    assert subprocess.run(["scontrol", "requeue", "1"], env=shown, capture_output=True, check=False).returncode == 1
    (tmp_path / "good.sbatch").write_text(
        "#!/bin/bash\n#SBATCH --requeue\n#SBATCH --open-mode=append\n"
        '#SBATCH --ntasks-per-node=2\n#SBATCH --output=out\nexec srun bash -c "echo rank $SLURM_PROCID; '
        '[ -n \\"\\$SLURM_RESTART_COUNT\\" ] || { scontrol requeue $SLURM_JOB_ID; sleep 60; }"\n'
    )
    done = subprocess.run(
        ["sbatch", tmp_path / "good.sbatch"], env=shown, cwd=tmp_path, capture_output=True, timeout=60, check=False
    )
    assert done.returncode == 0
    assert (tmp_path / "out").read_text().count("rank") == 4, "two processes, twice"
    assert set((tmp_path / "slurm" / "requeues").read_text().split()) == {"4000"}
    assert sorted(path.name for path in (tmp_path / "slurm").iterdir()) == ["4000", "requeues"]
