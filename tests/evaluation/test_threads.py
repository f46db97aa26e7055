from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from lab import attack_data, idls, short_attacks, trainer, victim_weights, wandb_environment

from evaluation.test_processes import METRICS_FILES
from lightning_adv2.evaluation import AttackEvaluation
from lightning_adv2.runtime.experiment import DifferentExperimentError
from lightning_adv2.runtime.threads import arithmetic

SCRIPT = Path(__file__).with_name("threads.py")


def run(folder: Path, devices: int, omp: str = "", threads: int = 0) -> subprocess.CompletedProcess[str]:
    """An evaluation of 37 images by GRAD, with ``OMP_NUM_THREADS`` as given, or without it."""
    kept = {k: v for k, v in os.environ.items() if not k.startswith("WANDB_") and k != "OMP_NUM_THREADS"}
    environment = kept | wandb_environment(folder / "wandb_home") | ({"OMP_NUM_THREADS": omp} if omp else {})
    weights = victim_weights(folder)  # trained by one number of threads
    command = [sys.executable, str(SCRIPT), str(folder), str(weights), str(devices), str(threads)]
    return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=400, check=False)


def metrics(folder: Path) -> list[bytes]:
    return [(folder / name).read_bytes() for name in METRICS_FILES]


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory) -> list[bytes]:
    folder = tmp_path_factory.mktemp("alone")
    done = run(folder, 1, omp="1")
    assert done.returncode == 0, done.stderr[-3000:]
    assert json.loads((folder / "stamp.json").read_text())["arithmetic"] == "1 CPU thread (OMP_NUM_THREADS=1)"
    assert json.loads((folder / "results.json").read_text())["denominators"]["selected"] == 37
    return metrics(folder)


@pytest.mark.slow
@pytest.mark.parametrize(("devices", "omp", "threads"), [(2, "1", 0), (3, "1", 0), (1, "", 1), (2, "", 1), (3, "3", 1)])
def test_promise_2_equal_for_any_number_of_processes_of_so_many_threads(
    tmp_path: Path, alone: list[bytes], devices: int, omp: str, threads: int
) -> None:
    done = run(tmp_path, devices, omp, threads)
    assert done.returncode == 0, done.stderr[-3000:]
    assert metrics(tmp_path) == alone


@pytest.mark.slow
@pytest.mark.parametrize("devices", [2, 3])
def test_promise_2_processes_with_a_share_of_the_cores_each_are_refused(tmp_path: Path, devices: int) -> None:
    done = run(tmp_path, devices)
    assert done.returncode != 0
    assert f"threads: each of {devices} processes would take its share of the cores" in done.stderr
    assert "Set OMP_NUM_THREADS=1" in done.stderr
    assert not list(tmp_path.rglob("batch_*"))


def test_promise_5_another_number_of_threads_is_another_experiment(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def attack(threads: int | None) -> None:
        evaluation = AttackEvaluation(short_attacks(), threads=threads)
        trainer(tmp_path, evaluation).test(idls(), attack_data(num_images=2), verbose=False)

    before = torch.get_num_threads()
    attack(before)
    attack(None)
    for threads in (before + 1, before + 2):
        with pytest.raises(DifferentExperimentError, match=rf"arithmetic: .*={before}\) before, .*={threads}\) now"):
            attack(threads)
        assert torch.get_num_threads() == before, "it is put back"


@pytest.mark.parametrize("threads", [0, -1])
def test_numbers_of_threads_that_are_none(threads: int) -> None:
    with pytest.raises(ValueError, match=f"threads={threads}: give at least 1"):
        AttackEvaluation(threads=threads)


def test_threads_do_not_count_on_a_gpu() -> None:
    assert arithmetic(torch.device("cuda", 1)) == "cuda"
