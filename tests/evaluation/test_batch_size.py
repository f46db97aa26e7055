"""``batch_size: auto``: as many images at once as fit."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from cases import lattice_images, small_classifier
from lab import interpreter, shapes, trainer, victim

from lightning_adv2.attacks import AcceleratedCopy, adv2_cam, adv2_grad, pgd
from lightning_adv2.attacks.footprint import step_bytes
from lightning_adv2.data import AttackDataModule
from lightning_adv2.evaluation import AttackEvaluation, batch_size
from lightning_adv2.evaluation.batch_size import fitting_batch, free_memory
from lightning_adv2.interpreters import CAM, Gradient
from lightning_adv2.interpreters.captum import Captum
from lightning_adv2.models import weights_hash
from lightning_adv2.modules import IDLS
from lightning_adv2.results.run import read_run

CPU = torch.device("cpu")


@pytest.mark.parametrize(
    ("images", "processes", "expected"), [(1, 1, 1), (5, 1, 4), (5, 2, 2), (1000, 1, 64), (0, 1, 1)]
)
def test_a_power_of_two_that_fits_half_of_the_free_memory(monkeypatch, images, processes, expected):
    classifier, image = small_classifier(), lattice_images(1)[0]
    each = step_bytes(adv2_grad(), AcceleratedCopy(classifier, Gradient()), image)
    monkeypatch.setattr(batch_size, "free_memory", lambda device: 2 * images * each + 2)
    attacks = [(CAM(), [pgd(), adv2_cam()]), (Gradient(), [adv2_grad()])]
    assert fitting_batch(classifier, attacks, image, CPU, processes) == expected


def test_free_memory_is_what_the_system_says():
    lines = Path("/proc/meminfo").read_text(encoding="ascii").splitlines()
    total = next(int(line.split()[1]) * 1024 for line in lines if line.startswith("MemTotal"))
    assert 0.01 * total < free_memory(CPU) < total


def run(folder, size, num_images=20):
    evaluation = AttackEvaluation([pgd(steps=2)])
    data = AttackDataModule(shapes(), num_images=num_images, batch_size=size)
    trainer(folder, evaluation).test(IDLS(victim(), interpreter("cam")), data, verbose=False)
    return data, read_run(folder)


def test_an_evaluation_finds_it_keeps_it_and_goes_on_with_it(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(batch_size, "MOST_ON_CPU", 8)
    data, first = run(tmp_path, "auto")
    assert data.batch_size == 8
    assert "batch_size=auto: 8 images at once" in capsys.readouterr().out
    assert [len(record.image_id) for record in first.records("cam")] == [8, 8, 4]
    assert json.loads((tmp_path / "records" / "experiment.json").read_text())["experiment"]["batch_size"] == 8
    monkeypatch.setattr(batch_size, "MOST_ON_CPU", 2)  # resumed on a smaller machine
    data, second = run(tmp_path, "auto")
    assert data.batch_size == 8
    assert second.summary.rows == first.summary.rows


def test_no_more_than_there_are(tmp_path):
    assert run(tmp_path, "auto", num_images=5)[0].batch_size == 5


def test_without_a_trainer_a_number_is_asked_for():
    data = AttackDataModule(shapes(), num_images=4, batch_size="auto")
    data.manifest_for(victim())
    with pytest.raises(RuntimeError, match="batch_size='auto'"):
        data.test_dataloader()
    with pytest.raises(ValueError, match="num_workers=-1"):
        AttackDataModule(shapes(), num_workers=-1)


def test_a_containers_limit_counts(monkeypatch, tmp_path):
    monkeypatch.setattr(batch_size, "CGROUP", tmp_path)
    (tmp_path / "memory.current").write_text("100\n")
    (tmp_path / "memory.max").write_text("1100\n")
    assert free_memory(CPU) == 1000
    (tmp_path / "memory.max").write_text("max\n")
    assert free_memory(CPU) > 10**6


def test_measuring_changes_no_statistics_of_a_victim_in_train_mode():
    classifier, image = small_classifier().train(), lattice_images(1)[0]
    before = weights_hash(classifier)
    fitting_batch(classifier, [(CAM(), [adv2_cam()])], image, CPU)
    assert weights_hash(classifier) == before
    assert classifier.training


def test_a_map_that_cannot_be_attacked_is_refused_by_name(tmp_path):
    data = AttackDataModule(shapes(), num_images=4, batch_size="auto")
    with pytest.raises(ValueError, match="Captum"):
        trainer(tmp_path, AttackEvaluation()).test(IDLS(victim(), Captum("Saliency")), data, verbose=False)
    with pytest.raises(ValueError, match="batch_size='Auto'"):
        AttackDataModule(shapes(), batch_size="Auto")
