"""A signal before the first batch ends the run with one line, whatever the process is doing."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any, TypeAlias

import pytest
import yaml
from lab import WIDTHS, victim_weights
from proc import catches, has_loaded
from spawn import Spawned, environment, start_python

from benchmarks.kills import alive, processes, wait_until
from lightning_adv2.__main__ import RUNS
from lightning_adv2.cli import commands
from lightning_adv2.runtime.ownership import FILE

SLOW = """
import os
import time
from pathlib import Path
from lightning_adv2.data import ShapesDataModule

class Slow(ShapesDataModule):
    def __init__(self, where: str, folder: str, num_train: int = 16, num_test: int = 8, image_size: int = 32) -> None:
        super().__init__(num_train=num_train, num_test=num_test, image_size=image_size, batch_size=4)
        self.where, self.folder = where, folder
        self.wait("made")

    def build(self, split):
        self.wait("scan")
        return super().build(split)

    def wait(self, where):
        if self.where == where:
            Path(self.folder, f"{where}_{os.environ.get('LOCAL_RANK', 0)}").touch()
            time.sleep(100)
"""
LINE = "{}: the run stopped during its set-up; run the same command again to go on"
Run: TypeAlias = "subprocess.Popen[str] | Spawned"
Start: TypeAlias = "Callable[..., subprocess.Popen[str]]"
SIGNALS = [signal.SIGTERM, signal.SIGUSR1, signal.SIGINT]


def configuration(folder: Path, command: str, where: str) -> str:
    """A run that waits for long at one point of its set-up."""
    (folder / "slow.py").write_text(SLOW)
    weights = {"num_classes": 7, "widths": list(WIDTHS), "stem_stride": 2, "weights": str(victim_weights(folder))}
    classifier = {"class_path": "lightning_adv2.models.ResidualClassifier", "init_args": weights}
    data: dict[str, Any] = {"class_path": "slow.Slow", "init_args": {"where": where, "folder": str(folder)}}
    interpreter: dict[str, Any] = {"class_path": "lightning_adv2.interpreters.CAM"}
    module, callbacks = "IDLS", [{"class_path": "lightning_adv2.evaluation.AttackEvaluation"}]
    if command == "test":
        data = {"class_path": "lightning_adv2.data.AttackDataModule", "init_args": {"source": data, "num_images": 4}}
    else:
        interpreter = {
            "class_path": "lightning_adv2.interpreters.RTS",
            "init_args": {"encoder": classifier, "map_stride": 4},
        }
        module, callbacks = "RTSModule", []
    trainer = {
        "accelerator": "cpu", "devices": 1, "logger": False, "enable_progress_bar": False,
        "enable_model_summary": False, "default_root_dir": str(folder / "run"), "callbacks": callbacks,
    }  # fmt: skip
    options = {"classifier": classifier, "interpreter": interpreter}
    model = {"class_path": f"lightning_adv2.modules.{module}", "init_args": options}
    path = folder / "run.yaml"
    path.write_text(yaml.safe_dump({"model": model, "data": data, "trainer": trainer}))
    return str(path)


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Start]:
    """Starts the command line in a Python of its own, and ends what is left of its session after the test."""
    started: list[subprocess.Popen[str]] = []

    def run(*words: str) -> subprocess.Popen[str]:
        command = [sys.executable, "-m", "lightning_adv2", *words]
        process = subprocess.Popen(
            command, cwd=tmp_path, env=environment(tmp_path), text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
            start_new_session=True,
        )  # fmt: skip
        started.append(process)
        return process

    yield run
    for process in started:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.communicate()


def reached(run: Run, happened: Callable[[], bool]) -> None:
    wait_until(lambda: happened() or run.poll() is not None, 200)
    assert run.poll() is None, texts(run)


def texts(run: Run) -> tuple[str, str]:
    """What an ended run said."""
    return (run.stdout, run.stderr) if isinstance(run, Spawned) else run.communicate()


def ended(run: Run, number: signal.Signals, seconds: float = 30) -> str:
    """Check how a run ended, and that it said one line about it; returns what stands on stderr."""
    told = time.monotonic()
    code = run.wait(seconds)
    print(f"{number.name}: gone after {time.monotonic() - told:.1f} s")
    out, err = texts(run)
    assert out.strip() == LINE.format(number.name), err
    assert code == 128 + number, err
    for noise in ("Traceback", "Error", "error", "terminate called"):
        assert noise not in err, err
    return err


def test_the_runs_are_those_of_the_table() -> None:
    assert set(commands.RUNS) == RUNS


@pytest.mark.parametrize("number", SIGNALS, ids=lambda number: number.name)
def test_before_and_during_the_imports(number: signal.Signals, start: Start) -> None:
    """The configuration is never read: the process has ended before."""
    run = start("test", "--config", "nowhere.yaml")
    reached(run, lambda: catches(run.pid, *SIGNALS))
    assert not has_loaded(run.pid, "libtorch"), "handlers come first"
    run.send_signal(number)
    ended(run, number)
    run = start("fit", "--config", "nowhere.yaml")
    reached(run, lambda: has_loaded(run.pid, "libtorch_cpu.so"))
    run.send_signal(number)
    err = ended(run, number)
    assert err == "lightning-adv2 fit: started, loading PyTorch and Lightning\n"


@pytest.mark.parametrize(
    ("command", "where", "number"),
    [
        ("test", "made", signal.SIGUSR1),
        ("test", "scan", signal.SIGTERM),
        ("test", "scan", signal.SIGINT),
        ("fit", "made", signal.SIGINT),
        ("fit", "scan", signal.SIGUSR1),
    ],
)
def test_while_classes_are_made_or_data_are_scanned(
    command: str, where: str, number: signal.Signals, tmp_path: Path
) -> None:
    words = ["-m", "lightning_adv2", command, "--config", configuration(tmp_path, command, where)]
    run = start_python(*words, folder=tmp_path)
    reached(run, (tmp_path / f"{where}_0").exists)
    assert (tmp_path / "run" / FILE).exists() is (where == "scan"), "the folder is owned from the start of the run"
    os.kill(run.pid, number)
    ended(run, number)
    assert not (tmp_path / "run" / FILE).exists(), "the folder is given back"


def test_the_same_command_runs_after_a_signal_in_its_set_up(tmp_path: Path) -> None:
    words = ["-m", "lightning_adv2", "test", "--config", configuration(tmp_path, "test", "scan")]
    run = start_python(*words, folder=tmp_path)
    reached(run, (tmp_path / "scan_0").exists)
    os.kill(run.pid, signal.SIGTERM)
    ended(run, signal.SIGTERM)
    again = start_python(*words, "--data.init_args.source.init_args.where=nowhere", folder=tmp_path)
    assert again.wait(200) == 0, again
    assert (tmp_path / "run" / "results.json").exists()


@pytest.mark.parametrize("command", ["test", "fit"])
def test_from_the_first_batch_on_the_run_saves_first(command: str, tmp_path: Path) -> None:
    words = ["-m", "lightning_adv2", command, "--config", configuration(tmp_path, command, "nowhere")]
    words += ["--trainer.max_epochs=10000"] if command == "fit" else ["--data.num_images=8", "--data.batch_size=1"]
    run = start_python(*words, folder=tmp_path)
    saved = "checkpoints/last.ckpt" if command == "fit" else "records/*/batch_*.safetensors"
    reached(run, lambda: any((tmp_path / "run").glob(saved)))
    os.kill(run.pid, signal.SIGTERM)
    assert run.wait(60) == 128 + signal.SIGTERM, run
    line = r"SIGTERM: (finished batches are saved|step \d+ is saved); run the same command again to go on"
    assert re.search(line, run.stdout), run
    assert "Traceback" not in run.stderr
    assert not (tmp_path / "run" / FILE).exists()


TWO = ("--trainer.devices=2", "--trainer.strategy=ddp")


@pytest.mark.slow
@pytest.mark.parametrize("moment", ["started", "imports", "scan"])
@pytest.mark.parametrize(
    ("whom", "number"),
    [("first", signal.SIGTERM), ("second", signal.SIGUSR1), ("all", signal.SIGINT)],
    ids=lambda value: value if isinstance(value, str) else value.name,
)
def test_two_processes_end_with_one_line(
    moment: str, whom: str, number: signal.Signals, start: Start, tmp_path: Path
) -> None:
    """The first one waits inside PyTorch for the second, which still imports; then both scan."""
    run = start("test", "--config", configuration(tmp_path, "test", "scan"), *TWO)
    reached(run, lambda: len(processes(run)) == 2)
    _, second = processes(run)
    if moment == "scan":
        reached(run, lambda: (tmp_path / "scan_0").exists())
    else:
        reached(
            run, lambda: catches(second, *SIGNALS) if moment == "started" else has_loaded(second, "libtorch_cpu.so")
        )
    if whom == "all":
        os.killpg(run.pid, number)
    else:
        os.kill(run.pid if whom == "first" else second, number)
    ended(run, number)
    wait_until(lambda: not alive(second), 10)
    assert not (tmp_path / "run" / FILE).exists()


@pytest.mark.slow
@pytest.mark.parametrize("moment", ["started", "imports"])
def test_a_process_whose_run_is_gone_does_not_wait_for_it(moment: str, start: Start, tmp_path: Path) -> None:
    run = start("test", "--config", configuration(tmp_path, "test", "scan"), *TWO)
    reached(run, lambda: len(processes(run)) == 2)
    _, second = processes(run)
    reached(run, lambda: catches(second, *SIGNALS) if moment == "started" else has_loaded(second, "libtorch_cpu.so"))
    run.kill()
    wait_until(lambda: not alive(second), 30)
