"""The batch files under a real SLURM; the result is that of a run that nothing happened to."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path

import pytest
import torch
import yaml
from proc import awaits, catches, has_loaded

from cluster.cluster_lab import evaluation, records, text_of, training, undisturbed
from cluster.real_slurm import Slurm
from lightning_adv2.models import read_weights
from lightning_adv2.runtime.ownership import FILE

pytestmark = pytest.mark.slow
ONE = ("--ntasks-per-node=1", "--cpus-per-task=1", "--gpus-per-node=0")
TWO = ("--ntasks-per-node=2", "--cpus-per-task=1", "--gpus-per-node=0")


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    folder = tmp_path_factory.mktemp("alone")
    config = evaluation(folder, steps=150)
    return config, undisturbed(config, folder / "run")


def same_results(run: Path, expected: Path) -> None:
    assert (run / "results.json").read_bytes() == (expected / "results.json").read_bytes()
    assert not list(run.rglob("hpc_ckpt_*")), "Lightning loads these into any run under SLURM"
    assert not (run / FILE).exists()


def quiet(folder: Path) -> None:
    """What a run that was told to stop writes is for its user."""
    said = text_of(folder)
    for noise in ("Traceback", "terminate called", "gloo::", "Fatal Python error", "core dumped"):
        assert noise not in said, said


def test_promise_10_training_is_requeued_and_exact(slurm: Slurm, tmp_path: Path) -> None:
    config = training(tmp_path, epochs=30)
    unhurt, run = tmp_path / "unhurt", tmp_path / "hurt"
    first = slurm.submit(unhurt, "training.sbatch", options=TWO, CONFIG=config, RUN=unhurt)
    assert slurm.wait(first, unhurt) == "COMPLETED", text_of(unhurt)
    job = slurm.submit(run, "training.sbatch", options=TWO, CONFIG=config, RUN=run)
    slurm.wait_until(lambda: list((run / "checkpoints").glob("*.ckpt")), 120, run)
    tasks = slurm.processes(job)
    assert len(tasks) == 2, text_of(run)
    for task in tasks:
        os.kill(task, signal.SIGSTOP)  # else they may end before they hear the signal
    slurm.ask("scancel", "--signal=USR1", job)
    slurm.wait_until(lambda: all(awaits(task, signal.SIGUSR1) for task in tasks), 60, run)
    for task in tasks:
        os.kill(task, signal.SIGCONT)
    slurm.queued_again(job, run)
    assert not (run / "rts.safetensors").exists(), "it had ended before it was told to"
    assert slurm.wait(job, run) == "COMPLETED", text_of(run)
    expected, found = (dict(read_weights(one / "rts.safetensors")) for one in (unhurt, run))
    assert expected.keys() == found.keys()
    for name, value in expected.items():
        assert torch.equal(value, found[name]), name
    assert "the job is queued again" in text_of(run)
    quiet(run)


def test_promise_10_an_evaluation_is_requeued_and_goes_on(
    slurm: Slurm, alone: tuple[Path, Path], tmp_path: Path
) -> None:
    config, expected = alone
    job = slurm.submit(tmp_path, "several_nodes.sbatch", options=("--nodes=1", *TWO), CONFIG=config, RUN=tmp_path)
    slurm.wait_until(lambda: len(records(tmp_path)) >= 2, 120, tmp_path)
    slurm.ask("scancel", "--signal=USR1", job)
    slurm.queued_again(job, tmp_path)
    kept = records(tmp_path)
    assert not (tmp_path / "results.json").exists()
    assert slurm.wait(job, tmp_path) == "COMPLETED", text_of(tmp_path)
    same_results(tmp_path, expected)
    assert kept.items() <= records(tmp_path).items(), "a finished batch was attacked again"
    quiet(tmp_path)


def test_promise_10_a_task_that_has_only_to_wait_hears_the_signal(slurm: Slurm, tmp_path: Path) -> None:
    """One batch for two tasks: the second one waits from the start."""
    config = evaluation(tmp_path, steps=1200, num_images=4, batch_size=4)
    expected = undisturbed(config, tmp_path / "alone")
    run = tmp_path / "run"
    job = slurm.submit(run, "several_nodes.sbatch", options=("--nodes=1", *TWO), CONFIG=config, RUN=run)
    slurm.wait_until(lambda: (run / "records" / "experiment.json").exists(), 120, run)
    time.sleep(3)
    told = time.monotonic()
    slurm.ask("scancel", "--signal=USR1", job)
    slurm.queued_again(job, run)
    print(f"queued again after {time.monotonic() - told:.1f} s")
    assert not records(run), "it had ended before it was told to"
    assert slurm.wait(job, run) == "COMPLETED", text_of(run)
    same_results(run, expected)
    quiet(run)


def test_an_array_has_one_table_per_task_and_each_is_requeued_alone(slurm: Slurm, tmp_path: Path) -> None:
    """The last task is told to stop: its SLURM_JOB_ID is the whole array's."""
    config = evaluation(tmp_path, steps=100)
    array = slurm.submit(
        tmp_path, "interpreters_array.sbatch", options=("--array=0-1", *ONE), CONFIG=config, RUN=tmp_path / "runs",
        INTERPRETERS="CAM GradCAM",
    )  # fmt: skip
    first, last = f"{array}_0", f"{array}_1"
    slurm.wait_until(lambda: records(tmp_path / "runs" / "GradCAM"), 120, tmp_path)
    slurm.ask("scancel", "--signal=USR1", last)
    slurm.queued_again(last, tmp_path)
    for job in (first, last):
        assert slurm.wait(job, tmp_path) == "COMPLETED", text_of(tmp_path)
    assert slurm.describe(first)["Restarts"] == "0"
    for name, label in (("CAM", "cam"), ("GradCAM", "gradcam")):
        assert f'"interpreter": "{label}"' in (tmp_path / "runs" / name / "results.json").read_text()
    assert sorted(path.name for path in tmp_path.glob("*.out")) == [f"adv2-array-{array}_{k}.out" for k in (0, 1)]
    quiet(tmp_path)


def test_promise_10_after_scancel_the_same_file_goes_on_with_another_number_of_processes(
    slurm: Slurm, alone: tuple[Path, Path], tmp_path: Path
) -> None:
    config, expected = alone
    job = slurm.submit(tmp_path, "single_node.sbatch", options=TWO, CONFIG=config, RUN=tmp_path)
    slurm.wait_until(lambda: len(records(tmp_path)) >= 2, 120, tmp_path)
    slurm.ask("scancel", job)
    assert slurm.wait(job, tmp_path, 60) == "CANCELLED", text_of(tmp_path)
    slurm.wait_until(lambda: not slurm.processes(job), 60, tmp_path)
    assert "SIGTERM: finished batches are saved" in text_of(tmp_path)
    quiet(tmp_path)
    kept = records(tmp_path)
    again = slurm.submit(tmp_path, "single_node.sbatch", options=ONE, CONFIG=config, RUN=tmp_path)
    assert slurm.wait(again, tmp_path) == "COMPLETED", text_of(tmp_path)
    same_results(tmp_path, expected)
    assert kept.items() <= records(tmp_path).items()


@pytest.mark.long
@pytest.mark.parametrize("rank", [0, 1])
def test_promise_11_a_killed_task_ends_the_job_and_the_same_file_goes_on(
    rank: int, slurm: Slurm, alone: tuple[Path, Path], tmp_path: Path
) -> None:
    config, expected = alone
    job = slurm.submit(tmp_path, "single_node.sbatch", options=TWO, CONFIG=config, RUN=tmp_path)
    slurm.wait_until(lambda: len(records(tmp_path)) >= 2, 120, tmp_path)
    os.kill(slurm.processes(job)[rank], signal.SIGKILL)
    assert slurm.wait(job, tmp_path, 60) == "FAILED", "bounded, and no success"
    again = slurm.submit(tmp_path, "single_node.sbatch", options=TWO, CONFIG=config, RUN=tmp_path)
    assert slurm.wait(again, tmp_path) == "COMPLETED", text_of(tmp_path)
    same_results(tmp_path, expected)


@pytest.mark.parametrize("moment", [pytest.param("start", marks=pytest.mark.long), "imports", "set-up"])
def test_promise_10_a_signal_before_the_first_batch(
    moment: str, slurm: Slurm, alone: tuple[Path, Path], tmp_path: Path
) -> None:
    """As the tasks hear signals, while they load PyTorch, and when the run has its folder."""
    config, expected = alone

    def reached() -> bool:
        tasks = slurm.processes(job)
        if moment == "set-up":
            return (tmp_path / FILE).exists()
        return len(tasks) == 2 and all(
            catches(one, signal.SIGUSR1) if moment == "start" else has_loaded(one, "libtorch_cpu.so") for one in tasks
        )

    job = slurm.submit(tmp_path, "single_node.sbatch", options=TWO, CONFIG=config, RUN=tmp_path)
    slurm.wait_until(reached, 60, tmp_path)
    slurm.ask("scancel", "--signal=USR1", job)
    slurm.queued_again(job, tmp_path)
    assert not records(tmp_path)
    line = "SIGUSR1: the run stopped during its set-up; the job is queued again"
    assert [said for said in text_of(tmp_path).splitlines() if "SIGUSR1" in said] == [line]
    assert slurm.wait(job, tmp_path) == "COMPLETED", text_of(tmp_path)
    same_results(tmp_path, expected)
    quiet(tmp_path)


def test_promise_10_a_signal_where_the_configuration_wants_no_requeue(
    slurm: Slurm, alone: tuple[Path, Path], tmp_path: Path
) -> None:
    config, _ = alone
    plugin = tmp_path / "no_requeue.yaml"
    environment = {"class_path": "pytorch_lightning.plugins.environments.SLURMEnvironment"}
    plugin.write_text(yaml.safe_dump({"trainer": {"plugins": [environment | {"init_args": {"auto_requeue": False}}]}}))
    words = ("--config", str(plugin))
    job = slurm.submit(tmp_path, "single_node.sbatch", *words, options=ONE, CONFIG=config, RUN=tmp_path)
    slurm.wait_until(lambda: any(catches(one, signal.SIGUSR1) for one in slurm.processes(job)), 60, tmp_path)
    slurm.ask("scancel", "--signal=USR1", job)
    assert slurm.wait(job, tmp_path, 90) == "FAILED", text_of(tmp_path)
    assert slurm.describe(job)["Restarts"] == "0"
    assert "SIGUSR1: the run stopped during its set-up; run the same command again" in text_of(tmp_path)
    quiet(tmp_path)


@pytest.mark.parametrize("moment", ["start", "set-up"])
def test_promise_10_scancel_before_the_first_batch(
    moment: str, slurm: Slurm, alone: tuple[Path, Path], tmp_path: Path
) -> None:
    config, _ = alone
    job = slurm.submit(tmp_path, "single_node.sbatch", options=TWO, CONFIG=config, RUN=tmp_path)

    def reached() -> bool:
        tasks = slurm.processes(job)
        started = len(tasks) == 2 and all(catches(one, signal.SIGTERM) for one in tasks)
        return (tmp_path / FILE).exists() if moment == "set-up" else started

    slurm.wait_until(reached, 60, tmp_path)
    slurm.ask("scancel", job)
    assert slurm.wait(job, tmp_path, 60) == "CANCELLED", text_of(tmp_path)
    slurm.wait_until(lambda: not slurm.processes(job), 60, tmp_path)
    assert text_of(tmp_path).count("SIGTERM: the run stopped during its set-up") == 1
    assert not (tmp_path / FILE).exists()
    quiet(tmp_path)


def test_of_two_jobs_on_one_folder_the_second_is_refused(
    slurm: Slurm, alone: tuple[Path, Path], tmp_path: Path
) -> None:
    config, expected = alone
    run = tmp_path / "run"
    first = slurm.submit(tmp_path / "first", "single_node.sbatch", options=ONE, CONFIG=config, RUN=run)
    slurm.wait_until(lambda: records(run), 120, tmp_path / "first")
    (owner,) = slurm.processes(first)
    os.kill(owner, signal.SIGSTOP)  # else it may end while the second loads
    second = slurm.submit(tmp_path / "second", "single_node.sbatch", options=TWO, CONFIG=config, RUN=run)
    assert slurm.wait(second, tmp_path / "second", 60) == "FAILED", text_of(tmp_path / "second")
    assert f"is in use by process {owner} on " in text_of(tmp_path / "second")
    assert f"(SLURM job {first})" in text_of(tmp_path / "second")
    os.kill(owner, signal.SIGCONT)
    assert slurm.wait(first, tmp_path / "first") == "COMPLETED", text_of(tmp_path / "first")
    same_results(run, expected)


def test_copies_of_a_run_are_refused(slurm: Slurm, alone: tuple[Path, Path], tmp_path: Path) -> None:
    """Two tasks and a trainer of one process: the first task alone must not go on as if it were the run."""
    config, _ = alone
    words = ("--trainer.devices=1", "--trainer.strategy=auto")
    begin = time.monotonic()
    job = slurm.submit(tmp_path, "single_node.sbatch", *words, options=TWO, CONFIG=config, RUN=tmp_path)
    assert slurm.wait(job, tmp_path, 60) == "FAILED", text_of(tmp_path)
    assert time.monotonic() - begin < 60
    assert "SLURM_STEP_NUM_TASKS=2" in text_of(tmp_path)
    assert "--trainer.devices 2 --trainer.num_nodes 1" in text_of(tmp_path)
    assert not (tmp_path / "records").exists()
