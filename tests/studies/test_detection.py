from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import pytest
import pytorch_lightning as pl
import torch
from lab import attack_data, idls, run_python, shapes, short_attacks, trainer, untrained_rts, victim
from pytorch_lightning.loggers import CSVLogger
from torch import Tensor, nn

from lightning_adv2.attacks import pgd
from lightning_adv2.detectors import LID, Detector, Disagreement, FeatureSqueezing, threshold_at
from lightning_adv2.evaluation import AttackEvaluation
from lightning_adv2.functional.squeeze import BitDepth, MedianFilter
from lightning_adv2.interpreters import CAM, Interpreter
from lightning_adv2.models import Classifier
from lightning_adv2.modules import RTSModule
from lightning_adv2.results import read_records
from lightning_adv2.results.records import to_uint8
from lightning_adv2.studies import DetectionEvaluation
from lightning_adv2.studies.detection.calibration import draw_calibration

KEYS = [
    "interpreter", "detector", "threshold", "attack", "schedule", "role",
    "n", "detection_rate", "benign_fpr", "calibration_fpr", "auroc",
]  # fmt: skip


class Watcher(Detector):
    """Scores at random, but for each image alike, and remembers what it was shown."""

    name = "watcher"

    def __init__(self) -> None:
        self.fitted: list[Tensor] = []
        self.labels: list[Tensor] = []

    def fit(self, classifier: Classifier, interpreter: Interpreter, calibration: Tensor, label: Tensor) -> None:
        self.fitted.append(calibration)
        self.labels.append(label)

    def score(self, classifier: Classifier, interpreter: Interpreter, images: Tensor) -> Tensor:
        return (images.double().mean((1, 2, 3)) * 1e4) % 1


def seen(images: Tensor) -> set[bytes]:
    return {image.numpy().tobytes() for image in to_uint8(images)}


def run(folder: Path, evaluation: DetectionEvaluation, num_images: int = 13, **kwargs: Any) -> Any:
    attacks = AttackEvaluation(short_attacks() if num_images == 13 else [pgd(steps=6)])
    trainer(folder, attacks, evaluation, **kwargs).test(idls(), attack_data(num_images=num_images), verbose=False)
    return json.loads((folder / "detection.json").read_text())


def images_of(folder: Path) -> list[dict[str, str]]:
    with (folder / "detection_images.csv").open(newline="") as stream:
        return list(csv.DictReader(stream))


def test_real_detectors(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    detectors: list[Detector] = [
        FeatureSqueezing([BitDepth(2)]), FeatureSqueezing([MedianFilter(3)]), LID(k=4, attack=pgd(steps=6)),
    ]  # fmt: skip
    logger = CSVLogger(tmp_path / "log", name="", version="")
    content = run(tmp_path, DetectionEvaluation(detectors, calibration_images=18), logger=logger)
    rows = content["rows"]
    assert [list(row) for row in rows] == [KEYS] * len(rows)
    names = ["squeezing-bit2", "squeezing-median3x3", "lid4"]
    assert [(row["detector"], row["attack"]) for row in rows] == [
        (name, attack) for name in names for attack in ("noise", "pgd", "adv2")
    ]
    for row in rows:
        assert row["interpreter"] == "cam"
        assert row["calibration_fpr"] <= 0.05
        assert 0 <= row["detection_rate"] <= 1
        assert 0 <= row["auroc"] <= 1
    with (tmp_path / "detection.csv").open(newline="") as stream:
        assert [float(row["detection_rate"]) for row in csv.DictReader(stream)] == [r["detection_rate"] for r in rows]
    assert (tmp_path / "figures" / "detection.png").stat().st_size > 5000
    assert (tmp_path / "figures" / "gallery.png").exists(), "the attack's own files stay"
    assert "squeezing-median3x3" in capsys.readouterr().out
    logged: dict[str, str] = {}
    with (tmp_path / "log" / "metrics.csv").open(newline="") as stream:
        for line in csv.DictReader(stream):
            logged |= {key: value for key, value in line.items() if value and "detection" in key}
    assert {key: float(value) for key, value in logged.items()} == {
        f"test/detection/{row['detector']}/{row['attack']}{'' if row['role'] == 'control' else '-fast'}/cam":
        pytest.approx(row["detection_rate"], rel=1e-6)
        for row in rows
    }  # fmt: skip


def test_thresholds_come_from_calibration_images_alone(tmp_path: Path) -> None:
    watcher = Watcher()
    content = run(tmp_path, DetectionEvaluation([watcher], 15, false_positive_rate=0.2))
    (calibration,) = watcher.fitted
    assert len(calibration) == 15
    (row,) = [row for row in content["rows"] if row["attack"] == "pgd"]
    scores = watcher.score(victim(), CAM(), calibration)
    assert row["threshold"] == threshold_at(scores, 0.2)
    assert row["calibration_fpr"] == 3 / 15
    with torch.no_grad():
        assert torch.equal(victim()(calibration).argmax(1), watcher.labels[0]), "classified correctly"
    records = list(read_records(tmp_path / "records"))
    attacked = set().union(*(seen(record.images / 255) for record in records))
    assert len(attacked) == 13
    assert not attacked & seen(calibration)
    listed = images_of(tmp_path)
    ids = [line["image_id"] for line in listed if line["part"] == "calibration"]
    assert len(set(ids)) == len(ids) == content["settings"]["calibration_images"] == 15
    assert [float(line["score"]) for line in listed if line["part"] == "calibration"] == scores.tolist()
    assert not set(ids) & {name for record in records for name in record.image_id}
    # And the rest of the row, from the records.
    images = torch.cat([record.images for record in records]) / 255
    success = torch.cat([record.attacks[2].adv_predicted == record.target_class for record in records])
    adversarial = torch.cat([record.attacks[2].adv_images for record in records])[success] / 255
    assert row["n"] == len(adversarial)
    for key, pixels in (("benign_fpr", images), ("detection_rate", adversarial)):
        flagged = watcher.score(victim(), CAM(), pixels) > row["threshold"]
        assert row[key] == pytest.approx(float(flagged.double().mean()))


def test_the_same_again_gives_the_same(tmp_path: Path) -> None:
    found = []
    for name in ("one", "other"):
        detectors: list[Detector] = [Watcher(), LID(k=3, attack=pgd(steps=3))]
        found.append(run(tmp_path / name, DetectionEvaluation(detectors, 14), num_images=4))
    assert found[0] == found[1]
    dataset, chosen = shapes().dataset("test"), []
    for seed in (0, 0, 1):
        chosen.append(draw_calibration(dataset, victim(), 10, ["nothing"], seed)[2])
    assert chosen[0] == chosen[1] != chosen[2]


def test_measured_rate_is_near_the_one_asked_for(tmp_path: Path) -> None:
    """Exchangeable scores: 300 set the threshold, 120 others stay within four standard deviations of 10%."""

    source = shapes(num_test=430)
    dataset = source.dataset("test")
    images, _, ids = draw_calibration(dataset, _Oracle(dataset), 420, [], seed=0)  # type: ignore[arg-type]
    assert len(ids) == 420
    scores = Watcher().score(victim(), CAM(), images)
    threshold = threshold_at(scores[:300], 0.1)
    assert float((scores[300:] > threshold).double().mean()) == pytest.approx(
        0.1, abs=4 * (0.09 / 120 + 0.09 / 300) ** 0.5
    )


class _Oracle(nn.Module):
    """Knows all labels of a dataset by heart."""

    def __init__(self, dataset: Any) -> None:
        super().__init__()
        self.known = {seen(dataset[i]["images"][None]).pop(): dataset.label(i) for i in range(len(dataset))}
        self.num_classes = len(dataset.classes)

    def forward(self, images: Tensor) -> Tensor:
        label = torch.tensor([self.known[seen(image[None]).pop()] for image in images])
        return nn.functional.one_hot(label, self.num_classes).float()


def test_too_few_images() -> None:
    dataset = shapes().dataset("test")
    ids = [dataset.image_id(i) for i in range(len(dataset))]
    with pytest.warns(UserWarning, match=r"calibration_images=500, but only \d+ images"):
        images, label, chosen = draw_calibration(dataset, victim(), 500, ids[:20], seed=0)
    assert len(images) == len(label) == len(chosen)
    assert set(chosen) <= set(ids[20:])
    with pytest.raises(RuntimeError, match="none is left to set a threshold on; attack fewer"):
        draw_calibration(dataset, victim(), 500, ids, seed=0)


def test_validate(tmp_path: Path) -> None:
    """The images come from the split that the loop ran on; with a limit some are left without AttackDataModule."""
    watcher = Watcher()
    loop = trainer(tmp_path, AttackEvaluation(short_attacks()), DetectionEvaluation([watcher], 4), limit_val_batches=1)
    loop.validate(idls(), shapes(num_val=60, batch_size=8), verbose=False)
    assert (tmp_path / "detection.json").exists()
    val = shapes(num_val=60).dataset("val")
    assert seen(watcher.fitted[0]) <= seen(torch.stack([val[i]["images"] for i in range(60)]))


def test_nothing_during_fit(tmp_path: Path) -> None:
    watcher = Watcher()
    callbacks: list[pl.Callback] = [
        AttackEvaluation(short_attacks("rts"), num_images=2), DetectionEvaluation([watcher], 5)
    ]  # fmt: skip
    loop = trainer(tmp_path, *callbacks, max_steps=2, max_epochs=-1, val_check_interval=2)
    loop.fit(RTSModule(victim(), untrained_rts(), selector_steps=1), shapes())
    assert (tmp_path / "validation").exists()
    assert not watcher.fitted


def test_it_comes_after_the_attack(tmp_path: Path) -> None:
    detection, attack = DetectionEvaluation([Watcher()]), AttackEvaluation(short_attacks())
    for callbacks in ([detection], [detection, attack]):
        with pytest.raises(ValueError, match="list it after that one"):
            trainer(tmp_path, *callbacks).test(idls(), attack_data(), verbose=False)
    with pytest.raises(TypeError, match="give the trainer an AttackDataModule"):
        trainer(tmp_path, attack, detection).test(idls(), shapes().test_dataloader(), verbose=False)


def test_an_interpreter_that_cannot_disagree(tmp_path: Path) -> None:
    with pytest.raises(TypeError, match=r"CAM gives no aux\['disagreement'\]"):
        run(tmp_path, DetectionEvaluation([Disagreement()], 5), num_images=1)


@pytest.mark.slow
def test_processes(tmp_path: Path) -> None:
    """The same files on two processes as on one, each of which scores some batches; an error ends them all."""
    script = Path(__file__).with_name("detection_processes.py")
    for devices in (1, 2):
        folder = tmp_path / str(devices)
        folder.mkdir()
        done = run_python(script, folder, devices, folder=folder, processes=devices)
        assert done.returncode == 0, done.stderr[-3000:]
        rows = {(folder / f"rows_{rank}.txt").read_text() for rank in range(devices)}
        assert len(rows) == 1, "every process knows them"
        assert [(folder / f"error_{rank}.txt").read_text() for rank in range(devices)] == ["broken detector"] * devices
        shares = [set((folder / f"scored_{rank}.txt").read_text().split()) for rank in range(devices)]
        assert all(shares)
        assert len(set.union(*shares)) == sum(map(len, shares)), "no batch is scored twice"
    for name in ("detection.json", "detection_images.csv"):
        assert (tmp_path / "1" / name).read_text() == (tmp_path / "2" / name).read_text()


def test_arguments() -> None:
    for detectors, found in (([], "none"), ([Watcher(), Watcher()], "watcher, watcher")):
        with pytest.raises(ValueError, match=f"different names, got {found}"):
            DetectionEvaluation(detectors)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="calibration_images=0"):
        DetectionEvaluation([Watcher()], 0)
    with pytest.raises(ValueError, match="false_positive_rate=1: a share"):
        DetectionEvaluation([Watcher()], false_positive_rate=1)
