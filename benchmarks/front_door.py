"""``python -m benchmarks.front_door --before FOLDER``: CPU time until the command line says something.

Paired with a checkout of an earlier revision: each round runs every command of both, with this Python. Of ``--help``
the whole process counts; of a run the time to its first line, and to the moment from which on signals are kept. The
floor is a Python that prints a line, or sets the same handlers, and imports nothing else.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
CONFIG = "configs/evaluate/shapes_cam.yaml"
OWN = ("demo", "fetch", "report", "sync", "verify", "export", "reproduce")
HELP = [["--help"], *([name, "--help"] for name in ("fit", "validate", "test", "predict", *OWN))]
RUN = ["test", "--config", CONFIG]
FIRST_LINE = [RUN, ["report", "runs/nowhere"], ["sync", "runs/nowhere"], ["reproduce", "--config", "nowhere.yaml"]]
PRINTS = ["-c", "print()"]
LISTENS = ["-c", "import signal, time; signal.signal(signal.SIGUSR1, print); time.sleep(60)"]


def start(checkout: Path, words: Sequence[str]) -> subprocess.Popen[bytes]:
    """A Python of the checkout's; it writes into a pipe."""
    environment = os.environ | {"PYTHONPATH": str(checkout), "OMP_NUM_THREADS": "1", "WANDB_MODE": "offline"}
    return subprocess.Popen(
        [sys.executable, *words], cwd=checkout, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
    )


def whole(checkout: Path, words: Sequence[str]) -> float:
    """CPU seconds of a process from its start to its end."""
    process = start(checkout, words)
    assert process.stdout is not None
    said = process.stdout.read()
    _, status, used = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode or not said:
        raise RuntimeError(f"{' '.join(words)} in {checkout}: exit code {process.returncode}: {said.decode()}")
    return used.ru_utime + used.ru_stime


def to_first_line(checkout: Path, words: Sequence[str]) -> float:
    """CPU seconds of a process when its first line arrives."""
    process = start(checkout, words)
    assert process.stdout is not None
    process.stdout.readline()
    return _stopped(process)


def to_handler(checkout: Path, words: Sequence[str]) -> float:
    """CPU seconds of a process when it has a handler for SIGUSR1, which would end it."""
    process = start(checkout, words)
    while not _keeps(process.pid):
        if process.poll() is not None:
            raise RuntimeError(f"{' '.join(words)} in {checkout}: it ended before")
    return _stopped(process)


def _keeps(pid: int) -> bool:
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    caught = int(next(line.split()[1] for line in lines if line.startswith("SigCgt")), 16)
    return bool(caught >> (signal.SIGUSR1 - 1) & 1)


def _stopped(process: subprocess.Popen[bytes]) -> float:
    os.kill(process.pid, signal.SIGSTOP)
    try:
        tasks = list(Path(f"/proc/{process.pid}/task").iterdir())
        return sum(int((task / "schedstat").read_text().split()[0]) for task in tasks) / 1e9
    finally:
        process.kill()
        process.communicate()


def measure(before: Path, rounds: int) -> list[dict[str, Any]]:
    """A row for each command: both medians in ms, and the median, smallest and largest of the paired ratios.

    Args:
        before: a checkout of an earlier revision.
        rounds: how often; one round more is thrown away.
    """
    module = ["-m", "lightning_adv2"]
    cases: list[tuple[str, str, Callable[[Path, Sequence[str]], float], list[str], list[str]]] = [
        *(("whole", " ".join(words), whole, [*module, *words], PRINTS) for words in HELP),
        *(("first line", words[0], to_first_line, [*module, *words], PRINTS) for words in FIRST_LINE),
        ("signals are kept", RUN[0], to_handler, [*module, *RUN], LISTENS),
    ]
    taken: dict[tuple[str, str], list[Mapping[str, float]]] = {}
    for round_ in range(rounds + 1):
        start = time.perf_counter()
        for until, command, timed, words, floor in cases:
            both = {"before": timed(before, words), "after": timed(ROOT, words), "floor": timed(ROOT, floor)}
            if round_:
                taken.setdefault((until, command), []).append(both)
        print(f"round {round_} of {rounds}: {time.perf_counter() - start:.0f} s", flush=True)
    rows = []
    for (until, command), times in taken.items():
        ratios = [one["after"] / one["before"] for one in times]
        medians = {f"{name}_ms": 1000 * statistics.median(one[name] for one in times) for name in times[0]}
        rows.append({
            "until": until, "command": command, **medians,
            "ratio": statistics.median(ratios), "ratio_min": min(ratios), "ratio_max": max(ratios),
        })  # fmt: skip
    return rows


def main() -> None:
    """Measure and write JSON."""
    from lightning_adv2.results import make_stamp

    parser = argparse.ArgumentParser(prog="python -m benchmarks.front_door", description=__doc__)
    parser.add_argument("--before", type=Path, required=True, help="a checkout of an earlier revision")
    parser.add_argument("--rounds", type=int, default=10, help="paired rounds (%(default)s)")
    parser.add_argument("--output", type=Path, default=Path(__file__).parent / "results")
    options = parser.parse_args()
    rows = measure(options.before.resolve(), options.rounds)
    command = ["git", "-C", str(options.before), "rev-parse", "HEAD"]
    revision = subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
    stamp = make_stamp(rounds=options.rounds, before=revision) | {"command": ["python", "-m", "benchmarks.front_door"]}
    options.output.mkdir(parents=True, exist_ok=True)
    content = {"stamp": stamp, "rows": rows}
    (options.output / "front_door.json").write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
