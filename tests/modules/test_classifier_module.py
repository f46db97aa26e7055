from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import pytorch_lightning as pl
import torch
from lab import shapes, trainer

from lightning_adv2.models import ResidualClassifier, TorchvisionClassifier
from lightning_adv2.modules import ClassifierModule, TrainingCheckpoint
from lightning_adv2.modules.classifier import one_cycle


class Losses(pl.Callback):
    """The training loss of every step."""

    def __init__(self) -> None:
        self.seen: list[float] = []

    def on_train_batch_end(self, trainer: pl.Trainer, *_: object) -> None:
        self.seen.append(float(trainer.callback_metrics["train/loss"]))


def network() -> ResidualClassifier:
    torch.manual_seed(0)
    return ResidualClassifier(num_classes=7, widths=(16, 24, 32), stem_stride=2)


def test_it_learns_and_writes_its_weights(tmp_path: Path) -> None:
    # Few pictures, seen often: whether the loop optimises, not how hard the dataset is.
    data, losses = shapes(num_train=70, num_val=70, batch_size=35), Losses()
    module = ClassifierModule(network(), learning_rate=2e-2)
    loop = trainer(tmp_path, losses, max_epochs=30, limit_val_batches=0)
    loop.fit(module, data)
    assert loop.global_step == len(losses.seen) == 60
    assert sum(losses.seen[-10:]) < 0.7 * sum(losses.seen[:10])
    module.eval()
    with torch.no_grad():
        batches = list(data.train_dataloader())
        right = torch.cat([module(batch["images"]).argmax(1) == batch["label"] for batch in batches])
    assert right.float().mean() > 3 / 7
    loaded = ResidualClassifier(
        num_classes=7, widths=(16, 24, 32), stem_stride=2, weights=str(tmp_path / "classifier.safetensors")
    )
    assert all(torch.equal(value, loaded.state_dict()[name]) for name, value in module.classifier.state_dict().items())
    assert not any(part.training for part in module.classifier.modules()), "left in train mode"


def test_it_is_trained_in_train_mode_after_validation_too(tmp_path: Path) -> None:
    class Modes(pl.Callback):
        seen: list[bool] = []  # noqa: RUF012 - one instance only

        def on_train_batch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule, *_: object) -> None:
            self.seen.append(all(part.training for part in pl_module.classifier.modules()))

    modes = Modes()
    loop = trainer(tmp_path, modes, max_epochs=2, num_sanity_val_steps=1)
    loop.fit(ClassifierModule(network()), shapes())
    assert modes.seen == [True] * 4


def test_metrics_of_validation_and_test(tmp_path: Path) -> None:
    data, module = shapes(batch_size=4), ClassifierModule(network().eval())
    loop = trainer(tmp_path)
    (tested,) = loop.test(module, data, verbose=False)
    (validated,) = loop.validate(module, data, verbose=False)
    assert tested.keys() == {"test/loss", "test/accuracy", "test/balanced_accuracy"}
    assert validated.keys() == {"val/loss", "val/accuracy", "val/balanced_accuracy"}
    dataset = data.dataset("test")
    images, label = (
        torch.stack([dataset[i]["images"] for i in range(35)]),
        torch.tensor([dataset[i]["label"] for i in range(35)]),
    )
    with torch.no_grad():
        logits = module(images)
    # The last batch has three images: both are means over images, not over batches.
    assert abs(tested["test/accuracy"] - float((logits.argmax(1) == label).float().mean())) < 1e-6
    assert abs(tested["test/loss"] - float(torch.nn.functional.cross_entropy(logits, label))) < 1e-5


@pytest.mark.parametrize("steps", [4, 10, 37, 1000])
def test_the_cycle_is_that_of_one_cycle_lr(steps: int) -> None:
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=0.1)
    peer = torch.optim.lr_scheduler.OneCycleLR(optimizer, max_lr=0.1, total_steps=steps)
    for step in range(steps):
        assert 0.1 * one_cycle(step, steps) == pytest.approx(peer.get_last_lr()[0], rel=1e-6, abs=1e-12)
        optimizer.step()
        if step + 1 < steps:
            peer.step()
    assert one_cycle(steps + 5, steps) == one_cycle(steps - 1, steps) == pytest.approx(1 / 25e4)


def test_promise_9_a_run_resumed_with_more_epochs_goes_on(tmp_path: Path) -> None:
    for epochs in (1, 3):
        checkpoint = TrainingCheckpoint()
        loop = trainer(tmp_path, checkpoint, max_epochs=epochs, enable_checkpointing=True)
        loop.fit(ClassifierModule(network()), shapes(), ckpt_path=checkpoint.found(tmp_path))
        assert loop.global_step == 2 * epochs


def normed() -> TorchvisionClassifier:
    """A network whose BatchNorm statistics are folded into its weights, as those of published files may be."""
    torch.manual_seed(1)
    classifier = TorchvisionClassifier("shufflenet_v2_x0_5", num_classes=7)
    for module in classifier.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            torch.nn.init.uniform_(module.bias, -0.1, 0.1)
    return classifier


def fitted(folder: Path, module: ClassifierModule, **kwargs: Any) -> ClassifierModule:
    data = shapes(num_train=16, batch_size=8)
    trainer(folder, max_epochs=1, limit_val_batches=0, **kwargs).fit(module, data)
    return module


def buffers(module: torch.nn.Module) -> list[torch.Tensor]:
    return [value.clone() for name, value in module.named_buffers() if "running" in name]


@pytest.mark.parametrize("frozen", [True, False])
def test_frozen_batchnorm_keeps_its_statistics_and_trains_its_weights(tmp_path: Path, frozen: bool) -> None:
    module = ClassifierModule(normed(), frozen_batchnorm=frozen)
    before, weight = buffers(module), module.classifier.get_parameter("features.0.1.weight").clone()
    fitted(tmp_path, module)
    kept = all(torch.equal(old, new) for old, new in zip(before, buffers(module), strict=True))
    assert kept is frozen
    assert not torch.equal(weight, module.classifier.get_parameter("features.0.1.weight"))


def test_frozen_parts_stay_as_they_are(tmp_path: Path) -> None:
    module = ClassifierModule(normed(), frozen=["features.0", "features.2"])
    before = {name: value.clone() for name, value in module.classifier.state_dict().items()}
    fitted(tmp_path, module)
    same = {name for name, value in module.classifier.state_dict().items() if torch.equal(value, before[name])}
    held = {name for name in before if name.startswith(("features.0.", "features.2."))}
    assert held
    assert held <= same
    assert not any(name.endswith("weight") for name in same - held), "nothing else was left out"
    with pytest.raises(ValueError, match=r"frozen=\['layer1'\]: no part layer1; there are: .*features\.0"):
        ClassifierModule(normed(), frozen=["layer1"])


def test_class_weights_and_label_smoothing_are_in_the_training_loss_alone(tmp_path: Path) -> None:
    weight, smoothing = [0.5, 3.0, 1.0, 1.0, 2.0, 0.1, 1.0], 0.2
    losses = Losses()
    data = shapes(num_train=16, batch_size=16)
    module = ClassifierModule(network().eval(), learning_rate=0.0, label_smoothing=smoothing, class_weight=weight)
    module.on_fit_start = lambda: None  # type: ignore[method-assign] - in eval mode the loss can be computed beside it
    loop = trainer(tmp_path, losses, max_epochs=1)
    loop.fit(module, data)
    batch = next(iter(data.train_dataloader()))
    with torch.no_grad():
        log_probability = module(batch["images"]).log_softmax(1).double()
    target = torch.full_like(log_probability, smoothing / 7)
    target[range(16), batch["label"]] += 1 - smoothing
    weights = torch.tensor(weight, dtype=torch.float64)
    expected = -(target * weights * log_probability).sum() / weights[batch["label"]].sum()
    assert losses.seen == [pytest.approx(float(expected), rel=1e-5)]
    validation = [data.dataset("val")[i] for i in range(14)]
    plain = torch.nn.functional.cross_entropy(
        module(torch.stack([item["images"] for item in validation])),
        torch.tensor([item["label"] for item in validation]),
    )
    assert float(loop.callback_metrics["val/loss"]) == pytest.approx(float(plain), rel=1e-5)
    with pytest.raises(ValueError, match=r"class_weight=\[1\.0\]: give one for each of the 7"):
        ClassifierModule(network(), class_weight=[1.0])
    with pytest.raises(ValueError, match="label_smoothing=1"):
        ClassifierModule(network(), label_smoothing=1.0)


class Seen(pl.Callback):
    """The images that the network is given in each training step."""

    def __init__(self) -> None:
        self.images: list[torch.Tensor] = []

    def on_fit_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        pl_module.classifier.register_forward_pre_hook(self.look)  # type: ignore[union-attr]

    def look(self, module: torch.nn.Module, given: tuple[torch.Tensor]) -> None:
        if module.training:
            self.images.append(given[0].clone())


class Stop(pl.Callback):
    """Ends after the first epoch, as if the process were told to."""

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        trainer.should_stop = True


def test_promise_9_symmetries_move_pixels_at_random_and_alike_in_a_resumed_run(tmp_path: Path) -> None:
    def run(name: str, *more: pl.Callback) -> tuple[list[torch.Tensor], dict[str, torch.Tensor]]:
        pl.seed_everything(3, verbose=False)
        seen, keeper = Seen(), TrainingCheckpoint()
        loop = trainer(tmp_path / name, seen, keeper, *more, max_epochs=2, enable_checkpointing=True)
        module = ClassifierModule(network(), symmetries=True)
        loop.fit(module, shapes(num_train=32, batch_size=8), ckpt_path=keeper.found(tmp_path / name))
        return seen.images, module.classifier.state_dict()

    whole, weights = run("whole")
    first, _ = run("parts", Stop())
    rest, resumed = run("parts")
    assert (len(whole), len(first), len(rest)) == (8, 4, 4)
    assert all(torch.equal(one, other) for one, other in zip(whole, first + rest, strict=True))
    assert all(torch.equal(value, resumed[name]) for name, value in weights.items())
    source = shapes(num_train=32).dataset("train")
    originals = torch.stack([source[i]["images"] for i in range(32)])
    moved = sum(not bool((image == originals).flatten(1).all(1).any()) for batch in whole for image in batch)
    assert 40 <= moved <= 64, "seven of eight on average"
    histograms = {tuple(image.flatten().sort().values.tolist()) for image in originals}
    assert all(tuple(image.flatten().sort().values.tolist()) in histograms for batch in whole for image in batch)
