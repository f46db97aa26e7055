"""The memory that an attack's step needs for each image."""

from __future__ import annotations

from collections import Counter
from typing import Any

import torch
from torch import Tensor
from torch.autograd.graph import saved_tensors_hooks

from lightning_adv2.attacks.accelerated_copy import AcceleratedCopy
from lightning_adv2.attacks.attack import Attack
from lightning_adv2.attacks.objective import AttackInputs
from lightning_adv2.functional.random import image_generators


class GraphMeter:
    """Counts the bytes that autograd keeps for backward passes while it is open, the same on any device.

    Args:
        apart: addresses of memory that does not count, such as weights.

    Attributes:
        peak: the most bytes at one time; tensors that share their memory count once.
    """

    def __init__(self, apart: set[int] | None = None) -> None:
        self.peak = self._now = 0
        self._apart, self._holders = apart or set(), Counter[int]()

    def open(self) -> saved_tensors_hooks:
        """The context manager in which bytes are counted."""
        return saved_tensors_hooks(self._keep, lambda held: held.tensor)

    def _keep(self, tensor: Tensor) -> Any:
        storage = tensor.untyped_storage()
        address, size = storage.data_ptr(), storage.nbytes()
        if address not in self._apart:
            if not self._holders[address]:
                self._now += size
                self.peak = max(self.peak, self._now)
            self._holders[address] += 1
        return _Held(tensor, self, address, size)

    def let_go(self, address: int, size: int) -> None:
        """Note that a saved tensor is no longer needed.

        Args:
            address: of the tensor's memory.
            size: of the memory, in bytes.
        """
        if address not in self._apart:
            self._holders[address] -= 1
            if not self._holders[address]:
                self._now -= size


class _Held:
    """A saved tensor that tells the meter when its graph is freed."""

    def __init__(self, tensor: Tensor, meter: GraphMeter, address: int, size: int) -> None:
        self.tensor, self._meter, self._place, self._size = tensor, meter, address, size

    def __del__(self) -> None:
        self._meter.let_go(self._place, self._size)


def step_bytes(attack: Attack, accelerated: AcceleratedCopy, image: Tensor) -> int:
    """The most bytes that one image's graph takes in a step of the attack, by the first step of each stage.

    The attack's own few copies of the image, and the temporary memory of single layers, come on top.

    Args:
        attack: fitted to the interpreter.
        accelerated: the networks that gradients are taken through.
        image: ``(C, H, W)`` in [0, 1], on the networks' device.
    """
    images = image[None]
    target_class = torch.zeros(1, dtype=torch.int64, device=image.device)
    target_map = None
    if attack.needs_map and accelerated.interpreter is not None:
        state = accelerated.interpreter.init_state(accelerated.classifier, images, target_class)
        with torch.no_grad():  # an iterative interpreter goes one step: only the map's size counts
            target_map = accelerated.interpreter(
                accelerated.classifier, images, target_class, state
            ).attribution_map.detach()
    networks = [accelerated.classifier, *([] if accelerated.interpreter is None else [accelerated.interpreter])]
    weights = {p.untyped_storage().data_ptr() for network in networks for p in network.parameters()}
    most = 0
    for stage in {stage.step: stage for stage in attack.stages}.values():
        generators = image_generators(0, ["0"], "attack")
        inputs = AttackInputs(
            accelerated.classifier, accelerated.interpreter, images, target_class, target_map, generators
        )
        parameter = attack.perturbation.init(images, generators)
        meter, step = GraphMeter(weights), stage.step.at_its_peak()
        with meter.open():
            step(inputs, attack.perturbation, parameter, step.init(inputs, parameter), 0.0)
        most = max(most, meter.peak)
    return most
