from __future__ import annotations

import math
import warnings
from pathlib import Path
from typing import Any

import pytest
import pytorch_lightning as pl
import spawn
import torch
import torch.nn.functional as F
from lab import shapes, test_batch, trainer, untrained_rts, victim
from pytorch_lightning.callbacks import ModelCheckpoint
from torch import Tensor

from lightning_adv2.functional.masking import blend, uninformative
from lightning_adv2.interpreters import RTS
from lightning_adv2.models import ResidualClassifier, weights_hash
from lightning_adv2.modules import RTSModule
from lightning_adv2.types import Interpretation

TERMS = {
    "tv_weight": 0.7,
    "area_weight": 3.0,
    "area_power": 0.5,
    "preserve_weight": 0.4,
    "destroy_weight": 1.5,
    "destroy_power": 0.6,
}


def snapshot(module: torch.nn.Module) -> dict[str, Tensor]:
    return {name: value.detach().clone() for name, value in module.state_dict().items()}


def changed(before: dict[str, Tensor], module: torch.nn.Module) -> set[str]:
    return {name for name, value in module.state_dict().items() if not torch.equal(value, before[name])}


def test_every_term_by_hand() -> None:
    module, batch = RTSModule(victim(), untrained_rts(), **TERMS), test_batch()
    images, label = batch["images"][:6], batch["label"][:6]
    mask = torch.rand(6, 1, 8, 8, generator=torch.Generator().manual_seed(1))
    real = torch.tensor([True, True, False, True, False, True])
    torch.manual_seed(9)
    found = module.mask_losses(images, label, mask, real)
    torch.manual_seed(9)
    generator = torch.Generator().manual_seed(int(torch.randint(2**62, ())))
    background = uninformative(images, [generator] * 6)
    kept = module.classifier(blend(images, background, mask)).softmax(1)
    left = module.classifier(blend(images, background, 1 - mask)).softmax(1)
    sums = dict.fromkeys(("tv", "area", "preserve", "destroy"), 0.0)
    for i in range(6):
        m = mask[i, 0].double()
        sums["tv"] += 0.7 * float((m[:, 1:] - m[:, :-1]).pow(2).mean() + (m[1:] - m[:-1]).pow(2).mean())
        sums["area"] += 3.0 * float((m.mean() + 1e-4).sqrt() - 1e-4**0.5)
        if real[i]:
            sums["preserve"] += 0.4 * -math.log(float(kept[i, label[i]]))
            sums["destroy"] += 1.5 * float(left[i, label[i]]) ** 0.6
    assert found.keys() == sums.keys()
    for name, value in sums.items():
        assert float(found[name]) == pytest.approx(value / 6, rel=1e-4), name


def one_step(module: RTSModule, **options: float) -> Tensor:
    batch = test_batch()
    module.train()
    module.interpreter.train()
    torch.manual_seed(2)
    return module.training_step({k: v[:8] for k, v in batch.items()}, 0)  # type: ignore[arg-type,index]


@pytest.fixture
def quiet(monkeypatch: pytest.MonkeyPatch) -> None:
    """``self.log`` needs a trainer; what is logged is looked at in the tests with one."""
    monkeypatch.setattr(RTSModule, "log", lambda *_, **__: None)
    monkeypatch.setattr(RTSModule, "log_dict", lambda *_, **__: None)


@pytest.mark.usefixtures("quiet")
def test_phase_one_is_the_presence_alone() -> None:
    module = RTSModule(victim(), untrained_rts(), selector_steps=5, **TERMS)
    total = one_step(module)
    batch = test_batch()
    torch.manual_seed(2)
    real = torch.rand(8) >= 0.5
    shift = torch.randint(1, 7, (8,))
    asked = torch.where(real, batch["label"][:8], (batch["label"][:8] + shift) % 7)
    assert bool((asked == batch["label"][:8])[~real].any()) is False
    presence = module.interpreter.network.presence(batch["images"][:8], asked)
    assert float(total) == pytest.approx(float(F.binary_cross_entropy_with_logits(presence, real.float())), rel=1e-5)
    total.backward()
    network = module.interpreter.network
    assert network.embedding.weight.grad is not None
    assert network.embedding.weight.grad.abs().sum() > 0


@pytest.mark.usefixtures("quiet")
def test_gradients_reach_selector_and_decoder_only() -> None:
    module = RTSModule(victim(), untrained_rts(), selector_steps=0, **TERMS)
    one_step(module).backward()
    for name, parameter in module.named_parameters():
        frozen = name.startswith(("classifier.", "interpreter.network.encoder."))
        assert (parameter.grad is None) == frozen, name
        if not frozen:
            assert parameter.grad is not None
            assert parameter.grad.isfinite().all()
    for part in ("embedding", "reduce", "upsample", "output"):
        parameters = getattr(module.interpreter.network, part).parameters()
        assert any(p.grad is not None and p.grad.abs().sum() > 0 for p in parameters), part


def test_fit_leaves_the_frozen_networks_alone(tmp_path: Path) -> None:
    module = RTSModule(victim(), untrained_rts(), selector_steps=1, **TERMS)
    network, before = module.interpreter.network, snapshot(module)
    loop = trainer(tmp_path, max_steps=4, max_epochs=-1, val_check_interval=2)
    loop.fit(module, shapes())
    moved = changed(before, module)
    assert not [name for name in moved if name.startswith(("classifier.", "interpreter.network.encoder."))]
    for part in ("embedding.weight", "reduce.weight", "output.weight", "upsample.0.mix.1.running_mean"):
        assert f"interpreter.network.{part}" in moved, part
    assert not any(part.training for part in module.interpreter.modules()), "left in train mode"
    logged = loop.callback_metrics.keys()
    assert {f"val/benign/rts/{name}" for name in ("area", "preserved", "destroyed", "localisation_iou")} <= logged
    assert {f"train/{name}" for name in ("presence", "tv", "area", "preserve", "destroy", "loss")} <= logged
    loaded = untrained_rts()
    loaded.load(tmp_path / "rts.safetensors")
    assert all(torch.equal(v, loaded.network.state_dict()[n]) for n, v in network.trainable_state().items())


def test_modes_while_training(tmp_path: Path) -> None:
    class Modes(pl.Callback):
        def on_train_batch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule, *_: object) -> None:
            network = pl_module.interpreter.network
            assert not any(part.training for part in pl_module.classifier.modules())
            assert not any(part.training for part in network.encoder.modules())
            assert all(part.training for part in network.upsample.modules())

    loop = trainer(tmp_path, Modes(), max_steps=4, max_epochs=-1, val_check_interval=1, num_sanity_val_steps=1)
    loop.fit(RTSModule(victim(), untrained_rts(), selector_steps=2), shapes())
    assert loop.global_step == 4


def test_phase_one_trains_the_selector_only(tmp_path: Path) -> None:
    module = RTSModule(victim(), untrained_rts(), selector_steps=100)
    before = snapshot(module)
    trainer(tmp_path, max_steps=10, max_epochs=-1, limit_val_batches=0).fit(module, shapes())
    assert "interpreter.network.embedding.weight" in changed(before, module)
    # The weight decay of a few steps is allowed, at its decoupled rate of lr * decay = 1e-7 a step; not a worn decoder.
    for name, parameter in module.named_parameters():
        if "embedding" not in name:
            assert float((parameter - before[name]).abs().max()) < 1e-5, name


def test_loss_falls(tmp_path: Path) -> None:
    class Losses(pl.Callback):
        def __init__(self) -> None:
            self.seen: list[float] = []

        def on_train_batch_end(self, trainer: pl.Trainer, *_: object) -> None:
            self.seen.append(float(trainer.callback_metrics["train/loss"]))

    losses = Losses()
    torch.manual_seed(0)
    module = RTSModule(victim(), untrained_rts(), selector_steps=0, learning_rate=1e-2)
    trainer(tmp_path, losses, max_steps=40, max_epochs=-1, limit_val_batches=0).fit(module, shapes())
    assert sum(losses.seen[-8:]) < 0.9 * sum(losses.seen[:8])


def test_checkpoints_hold_what_is_trained_and_resume(tmp_path: Path) -> None:
    def fit(folder: Path, steps: int, ckpt_path: Path | None = None) -> tuple[pl.Trainer, RTSModule]:
        torch.manual_seed(0)
        module = RTSModule(victim(), untrained_rts(), selector_steps=2)
        checkpoints = ModelCheckpoint(folder / "checkpoints", save_last=True, every_n_train_steps=4)
        options = {"max_steps": steps, "max_epochs": -1, "limit_val_batches": 0, "enable_checkpointing": True}
        loop = trainer(folder, checkpoints, **options)
        loop.fit(module, shapes(), ckpt_path=ckpt_path)
        return loop, module

    _, first = fit(tmp_path / "first", 4)
    path = tmp_path / "first" / "checkpoints" / "last.ckpt"
    content = torch.load(path, weights_only=True)  # nothing in it needs to be unpickled
    names = list(content["state_dict"])
    assert names
    assert not [n for n in names if n.startswith("classifier.") or ".encoder." in n]
    assert all(n.startswith("interpreter.network.") for n in names)
    assert content["hyper_parameters"]["selector_steps"] == 2
    loop, second = fit(tmp_path / "second", 6, path)
    assert loop.global_step == 6
    assert weights_hash(second.classifier) == weights_hash(victim())
    assert weights_hash(second.interpreter.network.encoder) == weights_hash(victim())
    loop, same = fit(tmp_path / "third", 4, path)  # nothing left to do
    assert weights_hash(same.interpreter) == weights_hash(first.interpreter)


def test_other_classes_are_refused() -> None:
    encoder = ResidualClassifier(num_classes=5, widths=(8, 12, 16), stem_stride=2)
    with pytest.raises(ValueError, match=r"interpreter: its encoder has 5 classes, the classifier 7"):
        RTSModule(victim(), untrained_rts(encoder))


def fit_by_two(folder: Path) -> dict[str, Any]:
    """A training through both phases, on one of two processes."""
    module = RTSModule(victim(), untrained_rts(), selector_steps=2)
    frozen = weights_hash(module.classifier)
    loop = trainer(folder, devices=2, strategy="ddp", max_steps=4, max_epochs=-1)
    loop.fit(module, shapes(num_train=24, batch_size=4))
    return {
        "steps": loop.global_step,
        "frozen": weights_hash(module.classifier) == frozen,
        "embedding": weights_hash(module.interpreter.network.embedding),
        "logged": {name: float(value) for name, value in loop.callback_metrics.items() if name.startswith("val/")},
    }


def test_two_processes(tmp_path: Path) -> None:
    first, second = spawn.run(fit_by_two, tmp_path, folder=tmp_path, processes=2)
    assert first["steps"] == second["steps"] == 4
    assert first["frozen"]
    assert second["frozen"]
    assert first["embedding"] == second["embedding"]
    assert first["logged"] == second["logged"]
    assert (tmp_path / "rts.safetensors").is_file()


class Hopeless(torch.nn.Module):
    """Gives the asked class a probability that underflows to 0, or the whole of it."""

    num_classes = 7

    def __init__(self, logit: float) -> None:
        super().__init__()
        self.network, self.logit = victim(), logit

    def forward(self, images: Tensor) -> Tensor:
        logits = self.network(images)
        return logits + self.logit * F.one_hot(torch.zeros(len(images), dtype=torch.long), 7)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("logit", [-1e4, 0.0, 1e4])
@pytest.mark.parametrize("value", [0.0, 1.0, None])
def test_promise_14_all_terms_and_gradients_are_finite(value: float | None, logit: float, dtype: torch.dtype) -> None:
    module = RTSModule(victim(), untrained_rts(), area_power=0.3, destroy_power=0.3)
    module.classifier = Hopeless(logit).eval()  # type: ignore[assignment]
    images = test_batch()["images"][:4]
    mask = torch.rand(4, 1, 8, 8) if value is None else torch.full((4, 1, 8, 8), value)
    mask.requires_grad_()
    for real in ([True] * 4, [False] * 4, [True, False, True, False]):
        with torch.autocast("cpu", torch.bfloat16, enabled=dtype == torch.bfloat16):
            terms = module.mask_losses(images, torch.zeros(4, dtype=torch.long), mask.to(dtype), torch.tensor(real))
        assert all(bool(term.isfinite()) for term in terms.values()), terms
        (gradient,) = torch.autograd.grad(torch.stack([term.float() for term in terms.values()]).sum(), mask)
        assert gradient.isfinite().all()


@pytest.mark.parametrize("planes", [(0.0, 9.0), (9.0, 0.0), (0.0, 0.0), None], ids=["empty", "full", "0/0", "random"])
def test_promise_14_training_in_bf16_mixed_precision_stays_finite(
    tmp_path: Path, planes: tuple[float, float] | None
) -> None:
    seen: list[float] = []

    class Losses(pl.Callback):
        def on_train_batch_end(self, trainer: pl.Trainer, *_: object) -> None:
            seen.append(float(trainer.callback_metrics["train/loss"]))

    module = RTSModule(victim(), untrained_rts(), selector_steps=1)
    with torch.no_grad():
        if planes is not None:
            module.interpreter.network.output.weight.zero_()
            module.interpreter.network.output.bias.copy_(torch.tensor(planes))
    trainer(tmp_path, Losses(), max_steps=4, precision="bf16-mixed", limit_val_batches=0).fit(module, shapes())
    assert len(seen) == 4
    assert all(math.isfinite(loss) for loss in seen)
    assert all(bool(parameter.isfinite().all()) for parameter in module.parameters())


@pytest.mark.parametrize(("level", "said"), [(0.0, "nearly empty"), (1.0, "nearly full"), (0.4, None)])
def test_a_validation_says_what_the_maps_are_worth(
    level: float, said: str | None, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    class Level(RTS):
        def forward(self, *args: Any, **kwargs: Any) -> Interpretation:
            shown = super().forward(*args, **kwargs)
            return Interpretation(shown.logits, torch.full_like(shown.attribution_map, level), shown.aux)

    module = RTSModule(victim(), Level(victim(), map_stride=4, width=4))
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        trainer(tmp_path, max_steps=1, val_check_interval=1, limit_val_batches=1).fit(module, shapes())
    told = [str(one.message) for one in caught if "they show nothing" in str(one.message)]
    assert len(told) == (said is not None)
    assert said is None or (said in told[0] and "area_weight" in told[0])
    printed = capsys.readouterr().out
    assert f"Step 1: benign maps of level: area {level:.3f}, preserved " in printed
    assert f"{tmp_path / 'level.safetensors'}: the trained weights" in printed
