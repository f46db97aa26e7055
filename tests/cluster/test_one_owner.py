"""Two starts in one folder, by the command line and without a cluster."""

from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path

import pytest

from cluster.cluster_lab import environment, evaluation, one_process, records, start, text_of, wait_until
from lightning_adv2.runtime.ownership import FILE

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    folder = tmp_path_factory.mktemp("alone")
    config = evaluation(folder, steps=100)
    return config, one_process(config, folder / "run")


def command(config: Path, run: Path, verb: str = "test") -> list[object]:
    return [sys.executable, "-m", "lightning_adv2", verb, "--config", config, f"--trainer.default_root_dir={run}"]


def test_the_second_is_refused_and_harms_nothing_and_a_killed_one_is_followed(
    alone: tuple[Path, Path], tmp_path: Path
) -> None:
    config, expected = alone
    run = tmp_path / "run"
    first = start(command(config, run), tmp_path)
    wait_until(lambda: len(records(run)) >= 2, first, tmp_path)
    first.send_signal(signal.SIGSTOP)  # a slow one: it is at work all the same
    half_written = next(iter(records(run))).parent / ".batch.tmp"
    half_written.touch()
    before = {path: path.read_bytes() for path in run.rglob("*") if path.is_file()}
    for verb in ("test", "predict"):
        second = subprocess.run(
            [str(word) for word in command(config, run, verb)],
            env=environment(tmp_path), cwd=tmp_path, capture_output=True, text=True, timeout=240, check=False,
        )  # fmt: skip
        assert second.returncode != 0
        assert f"in use by process {first.pid} on " in second.stderr
    assert {path: path.read_bytes() for path in run.rglob("*") if path.is_file()} == before
    kept = records(run)
    first.kill()
    first.wait()
    again = start(command(config, run), tmp_path)
    assert again.wait(240) == 0, text_of(tmp_path)
    assert (run / "results.json").read_bytes() == (expected / "results.json").read_bytes()
    assert kept.items() <= records(run).items()
    assert not half_written.exists()
    assert not (run / FILE).exists()


def test_lightnings_own_processes_are_one_owner(alone: tuple[Path, Path], tmp_path: Path) -> None:
    config, expected = alone
    run = one_process(config, tmp_path / "run", "test", "--trainer.devices=2", "--trainer.strategy=ddp")
    assert (run / "results.json").read_bytes() == (expected / "results.json").read_bytes()
    assert not (run / FILE).exists()


def test_torchrun_without_the_number_of_processes_is_refused(alone: tuple[Path, Path], tmp_path: Path) -> None:
    config, _ = alone
    torchrun = Path(sys.executable).with_name("torchrun")
    words = [torchrun, "--standalone", "--nproc-per-node=2", *command(config, tmp_path / "run")[1:]]
    process = start(words, tmp_path)
    assert process.wait(120) != 0
    assert "torchrun started 2 processes (WORLD_SIZE=2), but the trainer has 1" in text_of(tmp_path)
    assert not (tmp_path / "run" / "records").exists()
