from __future__ import annotations

import os
import signal
from pathlib import Path
from typing import Any

import pytest
import pytorch_lightning as pl
import spawn
import torch
from lab import shapes, test_batch, trainer, victim
from safetensors.torch import load_file
from torch import Tensor

from lightning_adv2.interpreters import CAM, Gradient, Interpreter, Student
from lightning_adv2.models import weights_hash
from lightning_adv2.modules import DistillationModule, TrainingCheckpoint
from lightning_adv2.runtime.training import describe_training
from lightning_adv2.types import Batch


def student(map_stride: int = 8, **options: Any) -> Student:
    """A student with a random head; CAM's maps have the same stride."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(5)
        return Student(victim(), map_stride=map_stride, width=16, **options)


def distillation(teacher: Interpreter | None = None, train_encoder: bool = False, **options: Any) -> DistillationModule:
    return DistillationModule(victim(), student(train_encoder=train_encoder), teacher or CAM(), **options)


def part(batch: Batch, rows: slice) -> Batch:
    return {"images": batch["images"][rows], "label": batch["label"][rows], "image_id": batch["image_id"][rows]}


def quiet(module: DistillationModule, monkeypatch: pytest.MonkeyPatch) -> dict[str, Tensor]:
    """``self.log`` needs a trainer: collect what it gets."""
    seen: dict[str, Tensor] = {}
    monkeypatch.setattr(module, "log", lambda name, value, **_: seen.update({name: value}))
    monkeypatch.setattr(module, "log_dict", lambda values, **_: seen.update(values))
    return seen


def test_the_maps_come_much_closer_to_cams_than_the_best_constant_map_does(tmp_path: Path) -> None:
    torch.manual_seed(0)
    module, batch = distillation(learning_rate=1e-2), test_batch()  # the test images are in no training batch
    before = {name: weights_hash(getattr(module, name)) for name in ("classifier", "teacher")}
    loop = trainer(tmp_path, max_steps=250, max_epochs=-1, limit_val_batches=0)
    loop.fit(module, shapes(num_train=256))
    images, label = batch["images"], batch["label"]
    for shift in (0, 2):  # the true class, and another
        asked = (label + shift) % 7
        wanted = CAM().explain(victim(), images, asked).attribution_map
        best_constant = (wanted - wanted.median(0).values).abs().mean()  # per pixel, on these very maps
        reached = (module.interpreter.explain(victim(), images, asked).attribution_map - wanted).abs().mean()
        assert reached < 0.65 * best_constant, (shift, reached, best_constant)
    assert {name: weights_hash(getattr(module, name)) for name in before} == before
    assert not any(m.training for m in module.interpreter.modules())
    loaded = student(weights=str(tmp_path / "student.safetensors"))
    assert weights_hash(loaded) == weights_hash(module.interpreter)


def test_the_loss_by_hand(monkeypatch: pytest.MonkeyPatch) -> None:
    module, batch = distillation(), part(test_batch(), slice(6))
    logged = quiet(module, monkeypatch)
    other = module._other_class(batch, "distillation 0")
    total = module.training_step(batch, 0).detach()
    square = absolute = 0.0
    for i in range(6):
        for asked in (batch["label"][i : i + 1], other[i : i + 1]):
            shown, wanted = (
                one.explain(victim(), batch["images"][i : i + 1], asked).attribution_map.double()
                for one in (module.interpreter, CAM())
            )
            square += float(((shown - wanted) ** 2).mean()) / 12
            absolute += float((shown - wanted).abs().mean()) / 12
    assert float(logged["train/teacher_mse"]) == pytest.approx(square, rel=1e-4)
    assert float(logged["train/teacher_l1"]) == pytest.approx(absolute, rel=1e-4)
    assert float(total) == pytest.approx(square + absolute, rel=1e-4)


@pytest.mark.parametrize("train_encoder", [False, True])
def test_gradients_reach_the_student_only(train_encoder: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    module = distillation(train_encoder=train_encoder)
    quiet(module, monkeypatch)
    module.training_step(part(test_batch(), slice(8)), 0).backward()
    for name, parameter in module.named_parameters():
        if name.startswith("interpreter.network.") and (train_encoder or ".encoder." not in name):
            assert parameter.grad is not None, name  # DDP waits for every one
            assert parameter.grad.isfinite().all(), name
            assert parameter.grad.any() or name.endswith(("linear.weight", "linear.bias")), name
        else:
            assert parameter.grad is None, name


def test_the_other_class_belongs_to_image_and_step() -> None:
    module, batch = distillation(), test_batch()
    drawn = [module._other_class(batch, f"distillation {step}") for step in range(60)]
    for other in drawn:
        assert (other != batch["label"]).all()
    assert len({tuple(other.tolist()) for other in drawn}) == 60
    each = torch.stack(drawn)
    assert all(len(each[:, i].unique()) == 6 for i in range(len(batch["label"]))), "some class is never drawn"
    halves = [module._other_class(part(batch, rows), "distillation 3") for rows in (slice(9), slice(9, None))]
    assert torch.equal(torch.cat(halves), drawn[3])
    assert not torch.equal(distillation(seed=1)._other_class(batch, "distillation 3"), drawn[3])


def test_validation_logs_the_distance_from_the_teacher(tmp_path: Path) -> None:
    module, data = distillation(), shapes()
    loop = trainer(tmp_path, inference_mode=False)
    loop.validate(module, data, verbose=False)
    dataset = data.dataset("val")
    images = torch.stack([dataset[i]["images"] for i in range(len(dataset))])
    label = torch.tensor([int(dataset[i]["label"]) for i in range(len(dataset))])
    shown, wanted = (one.explain(victim(), images, label).attribution_map for one in (module.interpreter, CAM()))
    logged = {name: float(value) for name, value in loop.callback_metrics.items()}
    assert logged["val/benign/student/teacher_l1"] == pytest.approx(float((shown - wanted).abs().mean()), rel=1e-5)
    assert 0 < logged["val/benign/student/teacher_l1_other_class"] < 1
    assert {f"val/benign/student/{name}" for name in ("area", "preserved", "destroyed")} <= logged.keys()


def test_a_teacher_of_another_size_that_needs_gradients(tmp_path: Path) -> None:
    module = distillation(Gradient(pool=1))
    loop = trainer(tmp_path, max_steps=2, max_epochs=-1, limit_val_batches=1, val_check_interval=1)
    loop.fit(module, shapes())
    assert "val/benign/student/teacher_l1" in loop.callback_metrics
    assert all(bool(p.isfinite().all()) for p in module.parameters())


def test_modes_while_training() -> None:
    module = distillation()
    module.train()
    module.on_fit_start()
    assert module.interpreter.network.mix.training
    for frozen in (module.classifier, module.teacher, module.interpreter.network.encoder):
        assert not any(m.training for m in frozen.modules())


@pytest.mark.parametrize("train_encoder", [False, True])
def test_checkpoints_hold_what_is_trained(tmp_path: Path, train_encoder: bool) -> None:
    module = distillation(CAM(), train_encoder)
    loop = trainer(tmp_path, max_steps=1, limit_val_batches=0)
    loop.fit(module, shapes())
    loop.save_checkpoint(tmp_path / "one.ckpt")
    names = torch.load(tmp_path / "one.ckpt", weights_only=True)["state_dict"].keys()
    assert any(".encoder." in name for name in names) == train_encoder
    assert all(name.startswith("interpreter.network.") for name in names)
    written = load_file(tmp_path / "student.safetensors").keys()
    assert {f"interpreter.network.{name}" for name in written} == names


def test_another_teacher_is_another_training() -> None:
    described = [describe_training(distillation(teacher), None) for teacher in (CAM(), Gradient(1), Gradient(2), CAM())]
    assert described[0] == described[3]
    assert described[0] != described[1] != described[2]


class Kill(pl.Callback):
    """Before the fourth of six steps, in the second epoch."""

    def on_train_batch_start(self, trainer: pl.Trainer, *_: Any) -> None:
        if trainer.global_step == 3:
            os.kill(os.getpid(), signal.SIGKILL)


def fit(folder: Path, *callbacks: pl.Callback) -> str:
    """Train, or go on with it; the hash of the student."""
    pl.seed_everything(7, verbose=False)
    module, checkpoint = distillation(train_encoder=True), TrainingCheckpoint(every_n_steps=1)
    options = {"max_steps": 6, "max_epochs": -1, "enable_checkpointing": True}
    loop = trainer(folder, checkpoint, *callbacks, **options)
    loop.fit(module, shapes(), ckpt_path=checkpoint.found(folder))
    assert loop.global_step == 6
    return weights_hash(module.interpreter)


def test_killed_and_resumed_it_is_bit_equal(tmp_path: Path) -> None:
    killed, whole = tmp_path / "killed", tmp_path / "whole"
    died = spawn.start(fit, killed, Kill(), folder=tmp_path)
    assert died.wait(240) == -signal.SIGKILL, died.stderr
    assert (killed / "checkpoints" / "last.ckpt").exists(), "it would begin anew"
    assert spawn.run(fit, killed, folder=tmp_path) == spawn.run(fit, whole, folder=tmp_path)
