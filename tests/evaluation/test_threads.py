from __future__ import annotations

import json
import subprocess
from pathlib import Path

import pytest
import spawn
import torch
from lab import METRICS_FILES, WIDTHS, attack_data, idls, shapes, short_attacks, trainer, victim_weights

from lightning_adv2.attacks import adv2_grad, pgd
from lightning_adv2.data import AttackDataModule
from lightning_adv2.evaluation import AttackEvaluation
from lightning_adv2.interpreters import Gradient
from lightning_adv2.models import ResidualClassifier
from lightning_adv2.modules import IDLS
from lightning_adv2.runtime.experiment import DifferentExperimentError
from lightning_adv2.runtime.threads import arithmetic


def evaluate(folder: Path, weights: Path, devices: int, threads: int | None) -> None:
    """37 images by GRAD; the environment decides how many threads each process has."""
    classifier = ResidualClassifier(num_classes=7, widths=WIDTHS, stem_stride=2, weights=str(weights))
    evaluation = AttackEvaluation([pgd(steps=4), adv2_grad(steps=8)], seed=1, threads=threads)
    run = trainer(folder, evaluation, devices=devices, strategy="ddp" if devices > 1 else "auto")
    data = AttackDataModule(shapes(num_test=120), num_images=37, batch_size=4)
    run.test(IDLS(classifier, Gradient()), data, verbose=False)


def run(
    folder: Path, devices: int, omp: str | None = None, threads: int | None = None
) -> subprocess.CompletedProcess[str]:
    """That evaluation with ``OMP_NUM_THREADS`` as given, or without: fresh Pythons, which read it at their start."""
    weights = victim_weights(folder)  # trained by one number of threads
    words = spawn.call(evaluate, folder, weights, devices, threads)
    return spawn.run_fresh_python(*words, folder=folder, timeout=400, OMP_NUM_THREADS=omp)


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
@pytest.mark.parametrize(
    ("devices", "omp", "threads"),
    [
        (3, "1", None),
        (2, None, 1),
        pytest.param(2, "1", None, marks=pytest.mark.long),
        pytest.param(1, None, 1, marks=pytest.mark.long),
        pytest.param(3, "3", 1, marks=pytest.mark.long),
    ],
)
def test_promise_2_equal_for_any_number_of_processes_of_so_many_threads(
    tmp_path: Path, alone: list[bytes], devices: int, omp: str | None, threads: int | None
) -> None:
    done = run(tmp_path, devices, omp, threads)
    assert done.returncode == 0, done.stderr[-3000:]
    assert metrics(tmp_path) == alone


@pytest.mark.slow
@pytest.mark.parametrize("devices", [2, pytest.param(3, marks=pytest.mark.long)])
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
