"""The batch files themselves, under a SLURM of our own: SIGUSR1, save, requeue, go on; the result of an unhurt run."""

from __future__ import annotations

import os
import signal
import subprocess
from pathlib import Path
from typing import Any

import pytest
import torch

from cluster.cluster_lab import CLUSTER, environment, evaluation, one_process, start, text_of, training, wait_until
from lightning_adv2.models import read_weights

pytestmark = pytest.mark.slow
TWO = ("--ntasks-per-node=2", "--cpus-per-task=1", "--gpus-per-node=2")


def records(run: Path) -> dict[Path, int]:
    return {path: path.stat().st_mtime_ns for path in sorted((run / "records").rglob("batch_*.safetensors"))}


def requeues(folder: Path) -> list[str]:
    file = folder / "slurm" / "requeues"
    return file.read_text().split() if file.exists() else []


def notify(folder: Path, job: str) -> None:
    """What the time limit does, and what a user does to try it out."""
    subprocess.run(["scancel", "--signal=USR1", job], env=environment(folder), check=True, timeout=30)


def submit(folder: Path, template: str, *words: object, options: tuple[str, ...] = TWO, **variables: object) -> Any:
    command = ["sbatch", *options, CLUSTER / template, *words]
    return start(command, folder, **variables)


def no_hpc_files(folder: Path) -> None:
    """Lightning loads these into any run under SLURM, an evaluation too."""
    assert not list(folder.rglob("hpc_ckpt_*"))


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    folder = tmp_path_factory.mktemp("alone")
    config = evaluation(folder, steps=150)
    return config, one_process(config, folder / "run")


def test_promise_10_an_evaluation_is_requeued_and_goes_on(alone: tuple[Path, Path], tmp_path: Path) -> None:
    config, expected = alone
    run = tmp_path / "run"
    job = submit(tmp_path, "single_node.sbatch", CONFIG=config, RUN=run)
    wait_until(lambda: len(records(run)) >= 2, job, tmp_path)
    notify(tmp_path, "4000")
    wait_until(lambda: requeues(tmp_path), job, tmp_path, seconds=60)
    kept = records(run)
    assert not (run / "results.json").exists()
    assert job.wait(240) == 0, text_of(tmp_path)
    assert requeues(tmp_path) == ["4000"]
    assert (run / "results.json").read_bytes() == (expected / "results.json").read_bytes()
    after = records(run)
    assert all(after[path] == written for path, written in kept.items()), "a finished batch was attacked again"
    no_hpc_files(tmp_path)


def test_promise_10_requeued_several_times_on_two_nodes(alone: tuple[Path, Path], tmp_path: Path) -> None:
    config, expected = alone
    run = tmp_path / "run"
    options = ("--nodes=2", "--ntasks-per-node=1", "--cpus-per-task=1")
    job = submit(tmp_path, "several_nodes.sbatch", options=options, CONFIG=config, RUN=run)
    for count in (1, 2):
        wait_until(lambda count=count: len(records(run)) >= 2 * count, job, tmp_path)
        notify(tmp_path, "4000")
        wait_until(lambda count=count: len(requeues(tmp_path)) == count, job, tmp_path, seconds=60)
    assert job.wait(240) == 0, text_of(tmp_path)
    assert (run / "results.json").read_bytes() == (expected / "results.json").read_bytes()


def test_promise_10_preemption_then_another_number_of_processes(alone: tuple[Path, Path], tmp_path: Path) -> None:
    """SIGTERM alone ends the job without asking for a requeue; the same file goes on, with one process now."""
    config, expected = alone
    run = tmp_path / "run"
    job = submit(tmp_path, "single_node.sbatch", CONFIG=config, RUN=run)
    wait_until(lambda: len(records(run)) >= 2, job, tmp_path)
    command = ["scancel", "--signal=TERM", "4000"]
    subprocess.run(command, env=environment(tmp_path), check=True, timeout=30)
    assert job.wait(60) == 128 + signal.SIGTERM, text_of(tmp_path)
    assert not requeues(tmp_path)
    kept = records(run)
    options = ("--ntasks-per-node=1", "--cpus-per-task=1")
    again = submit(tmp_path, "single_node.sbatch", options=options, CONFIG=config, RUN=run)
    assert again.wait(240) == 0, text_of(tmp_path)
    assert (run / "results.json").read_bytes() == (expected / "results.json").read_bytes()
    assert all(records(run)[path] == written for path, written in kept.items())


def test_promise_11_a_killed_process_ends_the_step_and_the_same_file_goes_on(
    alone: tuple[Path, Path], tmp_path: Path
) -> None:
    config, expected = alone
    run = tmp_path / "run"
    job = submit(tmp_path, "single_node.sbatch", CONFIG=config, RUN=run)
    wait_until(lambda: len(records(run)) >= 2, job, tmp_path)
    step = (tmp_path / "slurm" / "4000" / "step.json").read_text()
    os.kill(int(step.strip("[]").split(",")[1]), signal.SIGKILL)
    assert job.wait(60) != 0, "bounded, and no success"
    again = submit(tmp_path, "single_node.sbatch", CONFIG=config, RUN=run)
    assert again.wait(240) == 0, text_of(tmp_path)
    assert (run / "results.json").read_bytes() == (expected / "results.json").read_bytes()


def test_an_array_has_one_table_per_interpreter(tmp_path: Path) -> None:
    config = evaluation(tmp_path)
    options = ("--array=0-1", "--cpus-per-task=1")
    job = submit(
        tmp_path, "interpreters_array.sbatch", options=options, CONFIG=config, RUN=tmp_path / "runs",
        INTERPRETERS="CAM GradCAM",
    )  # fmt: skip
    assert job.wait(240) == 0, text_of(tmp_path)
    for name, label in (("CAM", "cam"), ("GradCAM", "gradcam")):
        assert f'"interpreter": "{label}"' in (tmp_path / "runs" / name / "results.json").read_text()
    outputs = sorted(path.name for path in tmp_path.glob("adv2-array-*.out"))
    assert outputs == ["adv2-array-4000_0.out", "adv2-array-4000_1.out"]


def weights(run: Path) -> dict[str, torch.Tensor]:
    return dict(read_weights(run / "rts.safetensors"))


def test_promise_10_training_is_requeued_and_exact(tmp_path: Path) -> None:
    config = training(tmp_path, epochs=30)
    unhurt = tmp_path / "unhurt"
    job = submit(unhurt, "training.sbatch", CONFIG=config, RUN=unhurt / "run")
    assert job.wait(300) == 0, text_of(unhurt)
    folder = tmp_path / "hurt"
    run = folder / "run"
    job = submit(folder, "training.sbatch", CONFIG=config, RUN=run)
    wait_until(lambda: list((run / "checkpoints").glob("*.ckpt")), job, folder)
    notify(folder, "4000")
    wait_until(lambda: requeues(folder), job, folder, seconds=60)
    assert not (run / "rts.safetensors").exists(), "it had ended before it was told to"
    assert job.wait(300) == 0, text_of(folder)
    assert requeues(folder) == ["4000"]
    expected, found = weights(unhurt / "run"), weights(run)
    assert expected.keys() == found.keys()
    for name, value in expected.items():
        assert torch.equal(value, found[name]), name
    no_hpc_files(tmp_path)
