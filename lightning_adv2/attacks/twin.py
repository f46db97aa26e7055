"""A faster copy of the victim that an attack takes its gradients through; the victim itself has the last word."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from copy import deepcopy
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from lightning_adv2.interpreters import Interpreter
from lightning_adv2.models import Classifier, MapNetwork, fold_batchnorm

Wrapper = Callable[[Callable[..., Any]], Any]
# How far the copy's logits may be from the victim's, as a share of the largest, and how far the maps' means.
TOLERANCE = 1e-4
TOLERANCE_BF16 = 5e-2


@dataclass(frozen=True)
class Acceleration:
    """What the copy does otherwise than the victim. In single precision its logits agree to about 1e-6 of the largest.

    Attributes:
        fold_batchnorm: BatchNorm becomes part of the convolution before it.
        channels_last: images and weights lie in memory pixel by pixel.
        bfloat16: networks compute under autocast; losses, maps' normalisation and the perturbation do not. For GPUs: a
            CPU takes twice as long. Maps agree to a few per cent only.
        compile: ``torch.compile`` of the networks; half a minute at the start. Where an attack takes second derivatives
            (GRAD and its relatives, MASK) the copy stays as it is.
    """

    fold_batchnorm: bool = True
    channels_last: bool = True
    bfloat16: bool = False
    compile: bool = False


@dataclass(frozen=True)
class Twin:
    """What gradients are taken through.

    Attributes:
        classifier: frozen.
        interpreter: None where the attack ignores the map.
        memory_format: in which images suit it.
    """

    classifier: Classifier
    interpreter: Interpreter | None
    memory_format: torch.memory_format = torch.contiguous_format


def make_twin(
    classifier: Classifier,
    interpreter: Interpreter | None,
    images: Tensor,
    acceleration: Acceleration | None = None,
) -> Twin:
    """Copy the victim and make the copy fast; it is compared with the victim, which is left as it is.

    An interpreter whose encoder has the classifier's own weights gets the classifier as its encoder, so that both share
    one forward pass. A copy that does not agree with the victim is given up with a warning.

    Args:
        classifier: in eval mode.
        interpreter: in eval mode; None to attack the classifier alone.
        images: ``(B, C, H, W)``; only their shape, type and device count.
        acceleration: None takes the usual, which changes nothing but the rounding.
    """
    how = acceleration or Acceleration()
    if interpreter is not None and not interpreter.differentiable:
        interpreter = None  # its map is not attacked
    plain = Twin(classifier, interpreter)
    generator = torch.Generator().manual_seed(0)
    probe = torch.rand(1, *images.shape[1:], generator=generator).to(images)
    ways: list[tuple[str, list[Wrapper]]] = [("copied", [_in_bfloat16] if how.bfloat16 else [])]
    if how.compile:
        ways.insert(0, ("compiled", [*ways[0][1], torch.compile]))
    tolerance = TOLERANCE_BF16 if how.bfloat16 else TOLERANCE
    # In a training of mixed precision too: what is compared is the network.
    with torch.autocast(images.device.type, enabled=False):
        try:
            expected = _look(plain, probe)
        except RuntimeError:
            return plain  # the attack will say what is wrong with it
        for name, wrappers in ways:
            try:
                twin = _copy(plain, probe, how)
                for wrapper in wrappers:
                    _wrap(twin, wrapper)
                difference = _difference(expected, _look(twin, probe), tolerance)
            except RuntimeError as error:  # compiled: second derivatives, or there is no compiler
                difference = str(error).strip().splitlines()[0]
            if not difference:
                return twin
            victim = classifier.name if interpreter is None else f"{classifier.name} with {interpreter.name}"
            warnings.warn(f"acceleration: {victim} is not {name}: {difference}", stacklevel=2)
    return plain


def _copy(plain: Twin, probe: Tensor, how: Acceleration) -> Twin:
    """The victim's copy, folded and laid out."""
    classifier, interpreter = deepcopy(plain.classifier), deepcopy(plain.interpreter)
    layout = torch.channels_last if how.channels_last else torch.contiguous_format
    for network in interpreter.modules() if interpreter is not None else ():
        if isinstance(network, MapNetwork) and _equal(network.encoder, plain.classifier):
            network.encoder = classifier
    if how.fold_batchnorm:
        fold_batchnorm(classifier, lambda: classifier(probe))
        if interpreter is not None and any(True for _ in interpreter.parameters()):
            target_class = torch.zeros(1, dtype=torch.int64, device=probe.device)
            state = interpreter.init_state(classifier, probe, target_class)
            fold_batchnorm(interpreter, lambda: interpreter(classifier, probe, target_class, state))
    for module in (classifier, interpreter):
        if module is not None:
            module.requires_grad_(False)
            module.to(memory_format=layout)
    return Twin(classifier, interpreter, layout)


def _equal(first: nn.Module, second: nn.Module) -> bool:
    """Whether two networks are the same function: the same architecture and the same values."""
    own, other = first.state_dict(), second.state_dict()
    own, other = own | dict(first.named_buffers()), other | dict(second.named_buffers())  # normalisation is in no file
    return str(first) == str(second) and own.keys() == other.keys() and all(torch.equal(own[n], other[n]) for n in own)


def _wrap(twin: Twin, wrapper: Wrapper) -> None:
    """Put a wrapper around what takes the time: features, and networks for maps."""
    networks = twin.interpreter.modules() if twin.interpreter is not None else ()
    for module in {twin.classifier, *networks}:
        names = []
        if isinstance(module, Classifier):
            # Not the head: it costs nothing, and Grad-CAM differentiates it twice.
            names = ["forward_features", "forward_pyramid"]
        elif isinstance(module, MapNetwork):
            names = ["decode"]
        for name in names:
            setattr(module, name, wrapper(getattr(module, name)))


def _in_bfloat16(method: Callable[..., Any]) -> Callable[..., Any]:
    """The method under autocast; what it returns is in the type of its first tensor again."""

    def run(*arguments: Any) -> Any:
        first = arguments[0][0] if isinstance(arguments[0], list) else arguments[0]
        with torch.autocast(first.device.type, torch.bfloat16):
            return _cast(method(*arguments), first.dtype)

    return run


def _cast(values: Any, dtype: torch.dtype) -> Any:
    if isinstance(values, (list, tuple)):
        return type(values)(_cast(value, dtype) for value in values)
    return values.to(dtype)


def _look(one: Twin, probe: Tensor) -> tuple[Tensor, Tensor]:
    """Logits and map of an image, whose gradient was taken as an attack takes it; an iterative one goes one step."""
    target_class = torch.zeros(1, dtype=torch.int64, device=probe.device)
    with torch.enable_grad():
        leaf = probe.to(memory_format=one.memory_format).detach().requires_grad_()
        if one.interpreter is None:
            logits, attribution_map = one.classifier(leaf), leaf[:, :1] * 0
        else:
            state = one.interpreter.init_state(one.classifier, leaf.detach(), target_class)
            shown = one.interpreter(one.classifier, leaf, target_class, state)
            logits, attribution_map = shown.logits, shown.attribution_map
        torch.autograd.grad(logits.sum() + attribution_map.sum(), leaf)
    return logits.detach(), attribution_map.detach()


def _difference(expected: tuple[Tensor, Tensor], found: tuple[Tensor, Tensor], tolerance: float) -> str:
    """In which way the copy does not agree with the victim; empty where it does."""
    worst = float((expected[0] - found[0]).abs().max() / expected[0].abs().max().clamp(min=1))
    if not worst <= tolerance:
        return f"logits by {worst:.1e} of the largest"
    mean = float((expected[1] - found[1]).abs().mean())
    return "" if mean <= max(tolerance, 1e-2) else f"maps by {mean:.1e} on average"
