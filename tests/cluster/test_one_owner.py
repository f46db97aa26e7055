"""Two starts in one folder, by the command line and without a cluster."""

from __future__ import annotations

import os
import signal
import sys
from pathlib import Path

import pytest
import spawn

from benchmarks.kills import wait_until
from cluster.cluster_lab import command, evaluation, records, start, text_of, undisturbed
from lightning_adv2.runtime.ownership import FILE

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    folder = tmp_path_factory.mktemp("alone")
    config = evaluation(folder, steps=100)
    return config, undisturbed(config, folder / "run")


def test_the_second_is_refused_and_harms_nothing_and_a_killed_one_is_followed(
    alone: tuple[Path, Path], tmp_path: Path
) -> None:
    config, expected = alone
    run = tmp_path / "run"
    first = spawn.start_python(*command(config, run), folder=tmp_path)
    wait_until(lambda: len(records(run)) >= 2 or first.poll() is not None, 120)
    os.kill(first.pid, signal.SIGSTOP)  # a slow one: it is at work all the same
    half_written = next(iter(records(run))).parent / ".batch.tmp"
    half_written.touch()
    before = {path: path.read_bytes() for path in run.rglob("*") if path.is_file()}
    for verb in ("test", "predict"):
        second = spawn.run_python(*command(config, run, verb), folder=tmp_path)
        assert second.returncode != 0
        assert f"in use by process {first.pid} on " in second.stderr
    assert {path: path.read_bytes() for path in run.rglob("*") if path.is_file()} == before
    kept = records(run)
    first.kill()
    again = spawn.run_python(*command(config, run), folder=tmp_path)
    assert again.returncode == 0, again
    assert (run / "results.json").read_bytes() == (expected / "results.json").read_bytes()
    assert kept.items() <= records(run).items()
    assert not half_written.exists()
    assert not (run / FILE).exists()


def test_lightnings_own_processes_are_one_owner(alone: tuple[Path, Path], tmp_path: Path) -> None:
    config, expected = alone
    run = undisturbed(config, tmp_path / "run", "test", "--trainer.devices=2", "--trainer.strategy=ddp")
    assert (run / "results.json").read_bytes() == (expected / "results.json").read_bytes()
    assert not (run / FILE).exists()


def test_torchrun_without_the_number_of_processes_is_refused(alone: tuple[Path, Path], tmp_path: Path) -> None:
    config, _ = alone
    torchrun = Path(sys.executable).with_name("torchrun")
    words = [torchrun, "--standalone", "--nproc-per-node=2", *command(config, tmp_path / "run")]
    process = start(words, tmp_path)
    assert process.wait(120) != 0
    assert "torchrun started 2 processes (WORLD_SIZE=2), but the trainer has 1" in text_of(tmp_path)
    assert not (tmp_path / "run" / "records").exists()
