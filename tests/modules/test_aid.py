from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import pytorch_lightning as pl
import spawn
import torch
import torch.nn.functional as F
from lab import shapes, test_batch, trainer, untrained_rts, victim
from torch import Tensor

from lightning_adv2.attacks import ADV2, Pixels, Spatial, run_attack
from lightning_adv2.functional.random import draw_target_class, image_generators
from lightning_adv2.interpreters import RTS
from lightning_adv2.models import read_weights, weights_hash
from lightning_adv2.modules import AIDModule, MaskLoss
from lightning_adv2.modules.perturbations import Perturbations
from lightning_adv2.types import Batch
from modules.training import train

STEPS = 3


def rts() -> RTS:
    interpreter = untrained_rts()
    interpreter.network.train_encoder()
    return interpreter


def small_batch(count: int = 6) -> Batch:
    return {name: value[:count] for name, value in test_batch().items()}  # type: ignore[return-value,index]


@pytest.fixture
def logged(monkeypatch: pytest.MonkeyPatch) -> dict[str, float]:
    """``self.log`` needs a trainer; here it fills this."""
    values: dict[str, float] = {}
    monkeypatch.setattr(AIDModule, "log", lambda _, name, value, **__: values.update({name: float(value)}))
    monkeypatch.setattr(
        AIDModule, "log_dict", lambda _, given, **__: values.update({n: float(v) for n, v in given.items()})
    )
    return values


def by_hand(module: AIDModule, batch: Batch, step: int = 0) -> tuple[Tensor, Tensor, Tensor]:
    """Agreement, reaction and attacked images, image by image and class by class."""
    images, label, f, g = batch["images"], batch["label"], module.classifier, module.interpreter
    generators = image_generators(0, batch["image_id"], f"aid {step}")
    target = draw_target_class(label, 7, generators)
    benign = g.explain(f, images, label).attribution_map
    result = run_attack(ADV2(steps=STEPS).against(g), f, g, images, target, benign, generators=generators)
    agreement, reaction = torch.zeros(()), torch.zeros(())
    for i in range(len(images)):
        x, adv = images[i : i + 1], result.adv_images[i : i + 1]
        c, c_t = label[i : i + 1], target[i : i + 1]

        def shown(who: Any, image: Tensor, asked: Tensor) -> Tensor:
            return who.explain(f, image, asked).attribution_map

        for k in (c, c_t):
            agreement = agreement + (shown(g, x, k) - shown(module.teacher, x, k)).abs().mean()
        for one, other, share in ((c, c, 0.25), (c_t, c_t, 0.25), (c_t, c, 0.5)):
            reaction = reaction + share * (shown(g, adv, one) - shown(g, x, other)).abs().mean()
    return agreement / (2 * len(images)), reaction / len(images), result.adv_images


def moved(module: AIDModule) -> AIDModule:
    """With an interpreter that is no longer its teacher."""
    generator = torch.Generator().manual_seed(2)
    with torch.no_grad():
        for parameter in module.trained:
            parameter += 0.02 * torch.randn(parameter.shape, generator=generator)
    return module


@pytest.mark.parametrize("schedule", ["weigh", "alternate"])
def test_the_loss_by_hand(schedule: Any, logged: dict[str, float]) -> None:
    options = {"aid_weight": 0.7, "agreement_weight": 1.3, "schedule": schedule}
    module, batch = moved(AIDModule(victim(), rts(), ADV2(steps=STEPS), **options)), small_batch()
    agreement, reaction, _ = by_hand(module, batch)
    total = module.training_step(batch, 0)
    expected = 1.3 * float(agreement) - (0.7 * float(reaction) if schedule == "weigh" else 0.0)
    assert agreement > 0.01
    assert reaction > 0.001
    assert float(total.detach()) == pytest.approx(expected, rel=1e-4)
    assert ("train/aid" in logged) == (schedule == "weigh")


def test_the_encoders_own_decision_by_hand(logged: dict[str, float]) -> None:
    weights = {"aid_weight": 0.0, "agreement_weight": 0.0, "encoder_weight": 0.4}
    module, batch = moved(AIDModule(victim(), rts(), ADV2(steps=STEPS), **weights)), small_batch()
    _, _, adv_images = by_hand(module, batch)
    total = module.training_step(batch, 0)
    encoder = module.interpreter.network.encoder
    wrong = [F.cross_entropy(encoder(images), batch["label"]) for images in (batch["images"], adv_images)]
    assert float(total.detach()) == pytest.approx(0.4 * float(sum(wrong)), rel=1e-4)
    assert logged["train/adv_encoder"] == pytest.approx(0.4 * float(wrong[1]), rel=1e-4)


def test_alternating_takes_the_attack_at_odd_steps(logged: dict[str, float], monkeypatch: pytest.MonkeyPatch) -> None:
    module, batch = moved(AIDModule(victim(), rts(), ADV2(steps=STEPS), schedule="alternate")), small_batch()
    monkeypatch.setattr(AIDModule, "global_step", 3)
    _, reaction, _ = by_hand(module, batch, step=3)
    assert float(module.training_step(batch, 0).detach()) == pytest.approx(-float(reaction), rel=1e-4)
    assert "train/agreement" not in logged


def test_the_interpreters_own_loss_is_added(logged: dict[str, float]) -> None:
    own = MaskLoss(tv_weight=1.0, area_weight=2.0, area_power=1.0, preserve_weight=0.0, destroy_weight=0.0)
    module, batch = AIDModule(victim(), rts(), ADV2(steps=STEPS), own, aid_weight=0.0), small_batch()
    module.training_step(batch, 0)
    shown = module.interpreter.explain(module.classifier, batch["images"], batch["label"]).attribution_map
    assert logged["train/area"] == pytest.approx(2 * float(shown.mean()), rel=1e-4)
    assert logged["train/agreement"] == pytest.approx(0, abs=1e-6), "it is its own teacher still"


@pytest.mark.usefixtures("logged")
def test_gradients_reach_the_interpreter_only() -> None:
    module = moved(AIDModule(victim(), rts(), ADV2(steps=STEPS)))
    before = weights_hash(module)
    module.training_step(small_batch(), 0).backward()  # type: ignore[no-untyped-call]
    for name, parameter in module.named_parameters():
        trained = name.startswith("interpreter.")
        assert (parameter.grad is not None) == trained, name
        if trained:
            assert parameter.grad is not None
            assert parameter.grad.isfinite().all(), name
    for part in ("encoder.conv1", "embedding", "reduce", "upsample", "output"):
        parameters = module.interpreter.network.get_submodule(part).parameters()
        assert any(p.grad is not None and p.grad.abs().sum() > 0 for p in parameters), part
    assert all(p.requires_grad for p in module.trained), "the attack froze them for good"
    assert weights_hash(module) == before, "BatchNorm's statistics among them"


@pytest.mark.usefixtures("logged")
def test_the_attack_ignores_autocast() -> None:
    module, batch = moved(AIDModule(victim(), rts(), ADV2(steps=STEPS))), small_batch()
    images, label = batch["images"], batch["label"]
    target = (label + 1) % 7
    benign = module.interpreter.explain(module.classifier, images, label).attribution_map
    drawn = [image_generators(0, batch["image_id"], "a") for _ in range(2)]
    plain = module._attack(batch, target, benign, drawn[0])
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(module._attack(batch, target, benign, drawn[1]), plain)


@pytest.mark.usefixtures("logged")
def test_promise_14_a_step_in_bf16_is_finite() -> None:
    module = moved(AIDModule(victim(), rts(), ADV2(steps=STEPS), MaskLoss(), encoder_weight=0.1))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        total = module.training_step(small_batch(), 0)
    total.backward()  # type: ignore[no-untyped-call]
    assert total.isfinite()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in module.trained)


@pytest.mark.usefixtures("logged")
def test_promise_14_losses_are_finite_where_maps_are_empty_full_and_nothing() -> None:
    for bias in ([-50.0, 1e-9], [1e-9, 50.0], [0.0, 0.0]):
        module = AIDModule(victim(), rts(), ADV2(steps=STEPS), MaskLoss())
        output = module.interpreter.network.output  # type: ignore[operator]
        with torch.no_grad():
            output.weight.zero_()
            output.bias.copy_(torch.tensor(bias))
        total = module.training_step(small_batch(), 0)
        total.backward()  # type: ignore[no-untyped-call]
        assert total.isfinite()
        assert all(p.grad is not None and p.grad.isfinite().all() for p in module.trained)


def test_fit_changes_the_interpreter_alone_and_writes_it(tmp_path: Path) -> None:
    module = AIDModule(victim(), RTS(victim(), width=4, train_encoder=True, name="rts_a"), ADV2(steps=STEPS))
    frozen = weights_hash(module.classifier), weights_hash(module.teacher)
    loop = trainer(tmp_path, max_steps=4, max_epochs=-1, val_check_interval=2, check_val_every_n_epoch=None)
    loop.fit(module, shapes())
    assert (weights_hash(module.classifier), weights_hash(module.teacher)) == frozen
    assert weights_hash(module.interpreter) != frozen[1]
    assert 0 < float(loop.callback_metrics["train/attack_share"]) < 1
    assert "val/benign/rts_a/preserved" in loop.callback_metrics
    again = RTS(victim(), width=4, weights=str(tmp_path / "rts_a.safetensors"))
    assert weights_hash(again) == weights_hash(module.interpreter)
    assert any(name.startswith("encoder.") for name in read_weights(tmp_path / "rts_a.safetensors"))


def test_a_warm_start_goes_on_from_where_the_last_attack_ended(tmp_path: Path) -> None:
    """Three epochs over one batch: what is kept is what a run of the attacks by hand, one after another, leaves."""
    module = AIDModule(victim(), rts(), ADV2(steps=2), warm_start=True, learning_rate=0.0, weight_decay=0.0)
    data = shapes(num_train=7, batch_size=7)
    trainer(tmp_path, max_epochs=3, limit_val_batches=0).fit(module, data)
    kept, images = module._perturbations, data.dataset("train")
    assert kept is not None
    ids = [images.image_id(i) for i in range(7)]
    x = torch.stack([images[i]["images"] for i in range(7)])
    label = torch.tensor([images.label(i) for i in range(7)])
    target = draw_target_class(label, 7, image_generators(0, ids, "target_class"))
    benign = module.teacher.explain(module.classifier, x, label).attribution_map
    delta = torch.zeros_like(x)
    for _ in range(3):
        result = run_attack(module.attack, module.classifier, module.teacher, x, target, benign, start=delta)
        delta = result.last_images - x
    left = 255 * kept.get(kept.rows(ids), x)
    assert torch.equal(left.round(), (255 * delta).round())
    assert left.abs().max() > 4.5, "more than one attack of two steps of 2/255 can do"


def test_a_warm_start_keeps_changed_pixels_only() -> None:
    with pytest.raises(TypeError, match="makes a FlowField"):
        AIDModule(victim(), rts(), ADV2(steps=2, threat_model=Spatial()), warm_start=True)
    with pytest.raises(TypeError, match=r"epsilon 0\.6"):
        AIDModule(victim(), rts(), ADV2(steps=2, threat_model=Pixels(0.6)), warm_start=True)


def test_perturbations_of_other_images_are_refused() -> None:
    state = Perturbations(["a", "b"], (3, 4, 4)).state_dict()
    with pytest.raises(ValueError, match="other training images"):
        Perturbations(["a", "c"], (3, 4, 4)).load_state_dict(state)


def test_an_encoder_that_is_the_classifier_is_refused() -> None:
    """Freezing the one would freeze the other, and leave the decoder to resist by itself."""
    shared = victim()
    with pytest.raises(ValueError, match="shares weights with the classifier"):
        AIDModule(shared, RTS(shared, width=4, train_encoder=True))


@pytest.mark.usefixtures("logged")
def test_the_reaction_moves_the_attacked_map_alone() -> None:
    """With an attack that changes nothing its map is the benign one's, and L_aid has no slope where it is zero."""
    module, batch = moved(AIDModule(victim(), rts(), ADV2(steps=STEPS), agreement_weight=0.0)), small_batch()
    seen: list[Tensor] = []
    maps = module.interpreter.maps

    def watched(images: Tensor, *classes: Tensor) -> tuple[list[Tensor], Tensor]:
        found, logits = maps(images, *classes)
        for one in found:
            one.retain_grad()
        seen.extend(found)
        return found, logits

    module.interpreter.maps = watched  # type: ignore[method-assign]
    module.training_step(batch, 0).backward()  # type: ignore[no-untyped-call]
    benign, attacked = seen[:2], seen[2:]
    assert all(one.grad is None or not one.grad.any() for one in benign)
    assert all(one.grad is not None and one.grad.any() for one in attacked)


def test_a_warm_start_needs_to_know_the_images(tmp_path: Path) -> None:
    module = AIDModule(victim(), rts(), ADV2(steps=2), warm_start=True)
    with pytest.raises(TypeError, match="warm_start=True needs a data module"):
        trainer(tmp_path, max_epochs=1).fit(module, shapes().train_dataloader())


def test_everything_stays_in_eval_mode(tmp_path: Path) -> None:
    class Modes(pl.Callback):
        def on_train_batch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule, *_: object) -> None:
            modules: list[Any] = [pl_module.classifier, pl_module.interpreter, pl_module.teacher]
            assert not any(part.training for module in modules for part in module.modules())

    loop = trainer(tmp_path, Modes(), max_steps=2, max_epochs=-1, val_check_interval=1, num_sanity_val_steps=1)
    loop.fit(AIDModule(victim(), rts(), ADV2(steps=STEPS)), shapes())
    assert loop.global_step == 2


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["alternating aid", "warm aid"])
def test_two_processes_train_as_one_with_the_same_global_batch(tmp_path: Path, kind: str) -> None:
    """Target classes, attacks and losses belong to the images: only the order of sums differs."""
    found = []
    for devices in (1, 2):
        folder = tmp_path / str(devices)
        folder.mkdir()
        options = {"devices": devices, "kind": kind, "limits": {"max_epochs": 3}}
        spawn.run(train, folder, options, folder=folder, processes=devices)
        found.append(read_weights(folder / "rts.safetensors"))
    before = untrained_rts().network.state_dict()
    for name, value in found[0].items():
        assert torch.allclose(value, found[1][name], rtol=1e-3, atol=2e-5), name
    assert any((value - before[name]).abs().max() > 1e-3 for name, value in found[0].items()), "nothing was trained"


@pytest.mark.parametrize(
    ("options", "message"),
    [({"schedule": "both"}, "schedule='both'"), ({"aid_weight": -1.0}, "aid_weight=-1.0")],
)
def test_bad_settings_are_named(options: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        AIDModule(victim(), rts(), **options)


def test_another_attack_is_another_training(tmp_path: Path) -> None:
    from lightning_adv2.runtime.describe import differences
    from lightning_adv2.runtime.training import describe_training

    first, second = (describe_training(AIDModule(victim(), rts(), ADV2(steps=n)), None) for n in (3, 4))
    assert any("attack" in line and "3 before, 4 now" in line for line in differences(first, second))
    assert not differences(first, describe_training(AIDModule(victim(), rts(), ADV2(steps=3)), None))
