"""Checks before the first batch: loop, module and interpreters must fit the attacks."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import pytorch_lightning as pl
import torch

from lightning_adv2.attacks import Attack
from lightning_adv2.attacks.checks import check_gradient
from lightning_adv2.interpreters import Interpreter
from lightning_adv2.models import Classifier
from lightning_adv2.modules.idls import interpreters_of
from lightning_adv2.results.records import check_name
from lightning_adv2.types import Batch


def check_attackable(
    trainer: pl.Trainer, pl_module: pl.LightningModule, attacks: Callable[[Interpreter], Sequence[Attack]]
) -> None:
    """Raise an error that says what to change where the loop, the module or an interpreter does not fit the attacks.

    Args:
        trainer: in its validation or test loop.
        pl_module: must have ``classifier`` and ``interpreter``.
        attacks: those on an interpreter.

    Raises:
        ValueError: several dataloaders, names that cannot be part of a file's, or a map without a right gradient.
        TypeError: the module lacks a network.
        RuntimeError: in inference mode.
    """
    if len(trainer.num_test_batches if trainer.testing else trainer.num_val_batches) > 1:
        raise ValueError("dataloaders: AttackEvaluation takes one; run one evaluation per dataloader")
    check_networks(pl_module, attacks)
    if torch.is_inference_mode_enabled():
        raise RuntimeError("an attack needs gradients: set Trainer(inference_mode=False)")


def check_networks(pl_module: pl.LightningModule, attacks: Callable[[Interpreter], Sequence[Attack]]) -> None:
    """Raise an error where the module or an interpreter does not fit the attacks; needs no running loop.

    Raises:
        ValueError: names that cannot be part of a file's, or a map without a right gradient.
        TypeError: the module lacks a network.
    """
    missing = [name for name in ("classifier", "interpreter") if not hasattr(pl_module, name)]
    if missing:
        raise TypeError(
            f"{type(pl_module).__name__} has no attribute {' and '.join(missing)}, which AttackEvaluation needs; "
            "use modules.IDLS or give your module both"
        )
    for interpreter in interpreters_of(pl_module):
        check_name("interpreter", interpreter.name)
        for attack in attacks(interpreter):
            check_gradient(attack, interpreter)


def rehearse(classifier: Classifier, interpreters: Sequence[Interpreter], batch: Batch) -> None:
    """Let all interpreters explain one image before the first attack, so that one that fails does so at once.

    Interpreters that optimise their map for every image are left out: they take as long as a short attack.

    Args:
        classifier: the victim.
        interpreters: in the order of the evaluation; the first is left out, for its turn comes at once.
        batch: with at least one image.
    """
    for interpreter in interpreters[1:]:
        images, label = batch["images"][:1], batch["label"][:1]
        if not interpreter.init_state(classifier, images, label):
            interpreter.explain(classifier, images, label)
