from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from lab import run_python, wandb_environment

from benchmarks.kills import processes, start, wait_until

SCRIPT = Path(__file__).with_name("uneven.py")
TIMEOUT = 20
LATE = 40


@pytest.fixture(scope="module")
def even(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """The figures of two processes that come at the same time."""
    folder = tmp_path_factory.mktemp("even")
    done = run_python(SCRIPT, folder, "ours", 1, 0, TIMEOUT, folder=folder)
    assert done.returncode == 0, done.stderr[-3000:]
    return (folder / "results.json").read_bytes()


@pytest.mark.slow
@pytest.mark.parametrize(("kind", "late"), [("ours", 0), ("user", 1)])
def test_promise_10_a_process_may_be_later_than_the_groups_timeout(
    tmp_path: Path, even: bytes, kind: str, late: int
) -> None:
    """Twice as late as the group of the processes waits; ``user`` logs a metric object."""
    done = run_python(SCRIPT, tmp_path, kind, late, LATE, TIMEOUT, folder=tmp_path)
    assert done.returncode == 0, done.stderr[-3000:]
    assert done.stdout.count("accuracy 1.0") == 2
    assert (tmp_path / "results.json").read_bytes() == even


@pytest.mark.slow
def test_promise_10_a_process_may_be_late_in_a_validation_of_fit(tmp_path: Path) -> None:
    done = run_python(SCRIPT, tmp_path, "fit", 0, LATE, TIMEOUT, folder=tmp_path)
    assert done.returncode == 0, done.stderr[-3000:]
    first, second = [line for line in done.stdout.splitlines() if line.startswith("accuracy")]
    assert first == second
    assert len(list((tmp_path / "validation").glob("step_*/results.json"))) == 1


@pytest.mark.slow
@pytest.mark.parametrize("early", [0, 1])
def test_promise_10_a_waiting_process_hears_a_signal(tmp_path: Path, even: bytes, early: int) -> None:
    run = _started(tmp_path, 1 - early)
    told = time.monotonic()
    os.kill(processes(run)[early], signal.SIGTERM)
    assert run.wait(LATE) == 128 + signal.SIGTERM
    seconds = time.monotonic() - told
    print(f"ended after {seconds:.1f} s")
    assert seconds < 10
    assert "SIGTERM: finished batches are saved; run the same command again to go on" in _said(tmp_path)
    assert not (tmp_path / "results.json").exists()
    done = run_python(SCRIPT, tmp_path, "ours", 1, 0, TIMEOUT, folder=tmp_path)
    assert done.returncode == 0, done.stderr[-3000:]
    assert (tmp_path / "results.json").read_bytes() == even


@pytest.mark.slow
def test_promise_11_a_process_that_waits_says_that_another_one_died(tmp_path: Path) -> None:
    run = _started(tmp_path, 0)
    first, second = processes(run)
    os.kill(first, signal.SIGKILL)
    wait_until(lambda: not Path(f"/proc/{second}").exists(), 30)
    run.wait()
    assert "another process of this run has ended (see its output)" in _said(tmp_path)


def _started(folder: Path, late: int) -> subprocess.Popen[bytes]:
    """Two processes, of which the early one waits for the other."""
    environment = os.environ | wandb_environment(folder / "wandb_home") | {"OMP_NUM_THREADS": "1"}
    command = [sys.executable, str(SCRIPT), str(folder), "ours", str(late), str(LATE), str(TIMEOUT)]
    run = start(command, folder, environment)
    wait_until(lambda: "the early process attacks its last batch" in _said(folder), 120)
    time.sleep(3)
    return run


def _said(folder: Path) -> str:
    return (folder / "output.txt").read_text()
