from __future__ import annotations

import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).with_name("waiting.py")


def run(*words: str) -> list[tuple[int, str]]:
    """Exit status and output of both processes."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    command = [sys.executable, str(SCRIPT)]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    started = [
        subprocess.Popen(
            [*command, rank, port, *words], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=environment
        )
        for rank in ("0", "1")
    ]
    outputs = [process.communicate(timeout=120)[0] for process in started]
    return [(process.returncode, output) for process, output in zip(started, outputs, strict=True)]


def test_waiting_takes_as_long_as_the_last_and_hears_signals() -> None:
    (status, first), (other, _) = run("late")
    assert (status, other) == (0, 0), first
    _, seconds, heard = first.splitlines()[-1].split()
    assert float(seconds) >= 2.5
    assert heard == "1"


@pytest.mark.parametrize("dead", [0, 1])
def test_promise_11_a_dead_process_is_noticed_at_once(dead: int) -> None:
    outcomes = run("dead", str(dead))
    assert outcomes[dead][0] == -9
    status, output = outcomes[1 - dead]
    assert status == 3, output
    ended = next(line for line in output.splitlines() if line.startswith("ended"))
    assert float(ended.split()[1]) < 10
    assert "run the same command again" in ended


@pytest.mark.parametrize(("words", "expected"), [((), "got 7"), (("fails",), "raised of rank 0")])
def test_rank_zeros_result_or_error_reaches_all(words: tuple[str, ...], expected: str) -> None:
    for status, output in run("raises", *words):
        assert status == 0, output
        assert expected in output
