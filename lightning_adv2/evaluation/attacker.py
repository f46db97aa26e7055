"""What an evaluation keeps from batch to batch while it attacks: copies of the victim, and how many images fit."""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor

from lightning_adv2.attacks import AcceleratedCopy, Acceleration, make_accelerated_copy
from lightning_adv2.evaluation.attack_batch import Shared
from lightning_adv2.evaluation.memory import halving
from lightning_adv2.interpreters import Interpreter
from lightning_adv2.models import Classifier
from lightning_adv2.results.records import BatchRecord
from lightning_adv2.types import Batch


class Attacker:
    """For one victim, as long as its weights stay as they are.

    Args:
        acceleration: of the copies.
    """

    def __init__(self, acceleration: Acceleration) -> None:
        self._acceleration = acceleration
        self._copies: dict[str, AcceleratedCopy] = {}
        self._fitting: dict[str, int] = {}

    def forget_weights(self) -> None:
        """The victim may have changed; what fits into the memory has not."""
        self._copies = {}

    def accelerated(self, classifier: Classifier, interpreter: Interpreter | None, images: Tensor) -> AcceleratedCopy:
        """The copy for the attacks on an interpreter, or on the classifier alone (None), made at the first call.

        Args:
            classifier: the victim, in eval mode.
            interpreter: in eval mode; None for attacks that ignore the map.
            images: ``(B, C, H, W)``; only their shape, type and device count.
        """
        name = "" if interpreter is None else interpreter.name
        if name not in self._copies:
            self._copies[name] = make_accelerated_copy(classifier, interpreter, images, self._acceleration)
        return self._copies[name]

    def attack(self, run: Callable[..., BatchRecord], batch: Batch, interpreter: str, shared: Shared) -> BatchRecord:
        """The record of a batch, attacked in parts where the memory is too small for the whole.

        Args:
            run: :func:`~lightning_adv2.evaluation.attack_batch.attack_batch` of a batch and ``shared``.
            batch: of B images.
            interpreter: the interpreter's name, by which the number of images that fit is remembered.
            shared: the settings, and the results for other interpreters of the whole batch.

        Raises:
            RuntimeError: a single image does not fit.
        """

        def attack(part: Batch) -> BatchRecord:
            return run(part, shared=shared if part is batch else shared.for_part())

        record = halving(attack, batch, self._fitting.get(interpreter))
        if record.pieces > 1 and interpreter not in self._fitting:
            self._fitting[interpreter] = most = -(-len(batch["images"]) // record.pieces)
            print(f"{interpreter}: out of memory with {len(batch['images'])} images at once; goes on with parts of "
                  f"about {most}", flush=True)  # fmt: skip
        return record
