"""What the tests of this folder share: small configurations, the environment of a login node, processes."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import configurations
import spawn
from lab import victim_weights, wandb_environment

ROOT = Path(__file__).parents[2]
CLUSTER = ROOT / "configs" / "cluster"
QUIET = {"logger": False, "enable_progress_bar": False}


def evaluation(folder: Path, steps: int = 4, num_images: int = 13, batch_size: int = 2) -> Path:
    """A configuration for ``test``."""
    weights = victim_weights(folder)
    return Path(configurations.evaluation(folder, weights, None, steps, num_images, batch_size, **QUIET))


def training(folder: Path, epochs: int = 6) -> Path:
    """A configuration for ``fit``: RTS on 64 images."""
    data, limits = {"num_train": 64, "batch_size": 8}, {"max_epochs": epochs, "log_every_n_steps": 1}
    return Path(configurations.training(folder, victim_weights(folder), 4, data, **QUIET, **limits))


def records(run: Path) -> dict[Path, int]:
    """The finished batches of a run, and when each was written."""
    return {path: path.stat().st_mtime_ns for path in sorted((run / "records").rglob("batch_*.safetensors"))}


def environment(folder: Path, **more: object) -> dict[str, str]:
    """Variables of a shell on a login node: one thread, nobody's W&B settings."""
    inherited = {k: v for k, v in os.environ.items() if not k.startswith(("WANDB_", "COV_", "SLURM_"))}
    own = {
        "OMP_NUM_THREADS": "1",
        "ADV2": str(Path(sys.executable).with_name("lightning-adv2")),
        "TORCHRUN": str(Path(sys.executable).with_name("torchrun")),
        "ACCELERATOR": "cpu",
    }
    return inherited | wandb_environment(folder / "wandb_home") | own | {k: str(v) for k, v in more.items()}


def undisturbed(config: Path, run: Path, verb: str = "test", *words: str) -> Path:
    """The same without any cluster: what every other run is compared with."""
    done = spawn.run_python(*command(config, run, verb), *words, folder=run.parent)
    assert done.returncode == 0, done
    return run


def command(config: Path, run: Path, verb: str = "test") -> list[object]:
    """The words after ``python``."""
    return ["-m", "lightning_adv2", verb, "--config", config, f"--trainer.default_root_dir={run}"]


_started: list[subprocess.Popen[str]] = []


def start(command: list[object], folder: Path, **variables: object) -> subprocess.Popen[str]:
    """Start a command on the login node; its output goes to ``folder/output.txt``."""
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "output.txt").open("a") as stream:
        process = subprocess.Popen(
            [str(word) for word in command],
            cwd=folder, env=environment(folder, **variables), stdout=stream, stderr=stream, text=True,
            start_new_session=True,
        )  # fmt: skip
    _started.append(process)
    return process


def end_all() -> None:
    """End what a failed test left running."""
    for process in _started:
        if process.poll() is None:
            for pid in (*children(process.pid), process.pid):
                with suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
            process.wait()
    _started.clear()


def children(pid: int) -> list[int]:
    """The processes that a process started, and those that they started."""
    answer = subprocess.run(["ps", "-o", "pid=", "--ppid", str(pid)], capture_output=True, text=True, check=False)
    own = [int(word) for word in answer.stdout.split()]
    return own + [below for one in own for below in children(one)]


def wait_until(
    happened: Callable[[], object], process: subprocess.Popen[str], folder: Path, seconds: int = 240
) -> None:
    """Poll; fail with the output when the process ends first or time runs out."""
    end = time.monotonic() + seconds
    while not happened():
        assert process.poll() is None, f"ended with {process.returncode}:\n{text_of(folder)}"
        assert time.monotonic() < end, f"not in {seconds} s:\n{text_of(folder)}"
        time.sleep(0.02)


def text_of(folder: Path) -> str:
    """All that commands and jobs wrote to the terminal."""
    return "\n".join(path.read_text(errors="replace") for path in sorted(folder.glob("*.[ot][ux]t")))
