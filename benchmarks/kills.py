"""``python -m benchmarks.kills``: SIGKILL an evaluation at random moments, start it again, compare the metrics.

An undisturbed run comes first, on one process. Then the same command runs on several processes, and one or all of them
are killed; this is repeated, and the last round runs to its end. The metrics must be equal to the byte, no finished
batch may be attacked twice, and no more than one batch per process and kill may be begun again.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

BOUND = 60.0
"""Seconds in which all processes must be gone after one was killed."""


@dataclass
class Outcome:
    """What the kills did.

    Attributes:
        kills: rounds that were killed before they ended by themselves.
        units: batches times interpreters.
        begun_twice: units begun more than once, counted as often.
        again: finished units that were begun again; must be 0.
        rewritten: finished records that changed; must be 0.
        slowest_end: seconds from a kill to the end of all processes, at most.
    """

    kills: int
    units: int
    begun_twice: int
    again: int
    rewritten: int
    slowest_end: float


def start(command: Sequence[str], folder: Path, environment: Mapping[str, str]) -> subprocess.Popen[bytes]:
    """Start a run in a session of its own; what it says goes to ``output.txt``."""
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "output.txt").open("ab") as output:
        return subprocess.Popen(command, stdout=output, stderr=output, env=dict(environment), start_new_session=True)


def processes(run: Any) -> list[int]:
    """All Python processes of a run by the operating system's account, the first one first."""
    found, todo = [], [run.pid]
    while todo:
        pid = todo.pop()
        try:
            command = Path(f"/proc/{pid}/cmdline").read_bytes()
            tasks = list(Path(f"/proc/{pid}/task").iterdir())
            children = [int(word) for task in tasks for word in (task / "children").read_text().split()]
        except FileNotFoundError:
            continue
        if b"python" in command.split(b"\0")[0] and b"wandb" not in command:
            found.append(pid)
            todo += children
    return found


def alive(pid: int) -> bool:
    """Whether a process runs; one that is dead and not yet collected does not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except FileNotFoundError:
        return False


def wait_until(condition: Callable[[], bool], seconds: float = BOUND) -> None:
    """Poll.

    Raises:
        TimeoutError: it takes longer than so many seconds.
    """
    end = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > end:
            raise TimeoutError(f"not within {seconds:.0f} s")
        time.sleep(0.05)


def begun(folder: Path) -> list[tuple[int, str]]:
    """Batch and interpreter of every attack that was begun, in order."""
    log = folder / "begun.txt"
    lines = map(str.split, log.read_text().splitlines()) if log.exists() else []
    return [(int(words[0]), words[1]) for words in lines]


def finished(folder: Path) -> dict[tuple[int, str], tuple[int, int]]:
    """(Batch, interpreter) of every record -> what changes when a file is written again."""
    paths = (folder / "records").glob("*/batch_*.safetensors")
    return {(int(path.stem[6:]), path.parent.name): (path.stat().st_ino, path.stat().st_mtime_ns) for path in paths}


def note_attacks(folder: Path) -> None:
    """From now on this process notes in ``begun.txt`` every attack on a batch that it begins."""
    from lightning_adv2.evaluation import attack_evaluation

    original = attack_evaluation.attack_batch

    def noted(classifier: Any, interpreter: Any, batch: Any, *, shared: Any, **kwargs: Any) -> Any:
        log = os.open(folder / "begun.txt", os.O_CREAT | os.O_APPEND | os.O_WRONLY)
        os.write(log, f"{shared.batch_index} {interpreter.name}\n".encode())  # a kill leaves a short append whole
        os.close(log)
        return original(classifier, interpreter, batch, shared=shared, **kwargs)

    attack_evaluation.attack_batch = noted


def kill_at_random(launch: Callable[[], Any], folder: Path, kills: int, wait: float, seed: int = 0) -> Outcome:
    """Start a run again and again, killing one or all of its processes; at the end let it run.

    Args:
        launch: starts the run, which notes what it attacks (:func:`note_attacks`); returns a ``subprocess.Popen`` or
            what has its ``pid``, ``poll`` and ``wait``.
        folder: of the run.
        kills: how often.
        wait: longest time in seconds from the round's first attack to the kill.
        seed: of moments and victims.

    Raises:
        TimeoutError: processes outlive a kill by ``BOUND`` seconds.
        RuntimeError: the last round fails.
    """
    moments, slowest, again, rewritten, done = random.Random(seed), 0.0, 0, 0, 0
    for _ in range(kills):
        before, already = finished(folder), len(begun(folder))
        run = launch()

        def under_way(run: Any = run, already: int = already) -> bool:
            return len(begun(folder)) > already or run.poll() is not None

        wait_until(under_way, 300)
        time.sleep(moments.uniform(0, wait))
        everyone = processes(run)
        victims = everyone if moments.random() < 0.3 else [moments.choice(everyone)] if everyone else []
        done += bool(victims)
        for pid in victims:
            os.kill(pid, signal.SIGKILL)
        killed = time.monotonic()
        run.wait(BOUND)
        wait_until(lambda everyone=everyone: not any(map(alive, everyone)))  # type: ignore[misc]
        slowest = max(slowest, time.monotonic() - killed)
        again += len(set(begun(folder)[already:]) & before.keys())
        rewritten += sum(finished(folder).get(unit) != stamp for unit, stamp in before.items())
    if launch().wait() != 0:
        raise RuntimeError(f"the last round failed: see what it printed; the run's folder is {folder}")
    counts = Counter(begun(folder))
    twice = sum(count - 1 for count in counts.values())
    return Outcome(done, len(finished(folder)), twice, again, rewritten, slowest)


def main() -> None:
    """Run it with a real configuration, and write JSON."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.kills", description=__doc__)
    parser.add_argument("--config", default="configs/evaluate/cifar10_quick.yaml")
    parser.add_argument("--batch-size", type=int, default=4)
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--wait", type=float, default=2.0, help="longest time from an attack to the kill, in seconds")
    parser.add_argument("--folder", type=Path, help="where to; by default a temporary folder")
    parser.add_argument("--output", type=Path, default=Path("benchmarks/results"))
    parser.add_argument("--worker", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("words", nargs="*", help="more arguments of 'lightning-adv2 test'")
    options = parser.parse_args()
    if options.worker is not None:
        from lightning_adv2.cli import main as cli

        note_attacks(options.worker)
        cli(options.words)
        return
    root = options.folder or Path(tempfile.mkdtemp())
    environment = os.environ | {"OMP_NUM_THREADS": "1", "WANDB_MODE": "offline"}

    def command(folder: Path, count: int) -> list[str]:
        given = ["test", "--config", options.config, "--trainer.default_root_dir", str(folder)]
        given += ["--trainer.accelerator=cpu", f"--trainer.devices={count}", "--trainer.logger=false"]
        given += [f"--data.init_args.batch_size={options.batch_size}", *options.words]
        given += ["--trainer.strategy=ddp"] if count > 1 else []
        return [sys.executable, "-m", "benchmarks.kills", "--worker", str(folder), "--", *given]

    begin = time.monotonic()
    if start(command(root / "whole", 1), root / "whole", environment).wait() != 0:
        raise SystemExit(f"the undisturbed run failed: see {root / 'whole' / 'output.txt'}")
    middle = time.monotonic()
    launch = partial(start, command(root / "killed", options.processes), root / "killed", environment)
    outcome = kill_at_random(launch, root / "killed", options.kills, options.wait)
    names = ("results.json", "images.csv", "status.csv", "manifest.json")
    equal = {n: (root / "whole" / n).read_bytes() == (root / "killed" / n).read_bytes() for n in names}
    found = asdict(outcome) | {
        "equal_to_the_byte": equal,
        "processes": options.processes,
        "seconds_undisturbed_1_process": middle - begin,
        "seconds_with_kills": time.monotonic() - middle,
    }
    print(json.dumps(found, indent=1))
    options.output.mkdir(parents=True, exist_ok=True)
    (options.output / "kills.json").write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
    bound = outcome.kills * options.processes
    if not all(equal.values()) or outcome.again or outcome.rewritten or outcome.begun_twice > bound:
        raise SystemExit("a promise is broken; see above")


if __name__ == "__main__":
    main()
