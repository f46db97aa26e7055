from __future__ import annotations

from pathlib import Path

import pytest
import pytorch_lightning as pl
import torch
from callbacks.lab import shapes, trainer

from lightning_adv2.callbacks import TrainingCheckpoint
from lightning_adv2.models import ResidualClassifier
from lightning_adv2.modules import ClassifierModule
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
    assert tested.keys() == {"test/loss", "test/accuracy"}
    assert validated.keys() == {"val/loss", "val/accuracy"}
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
