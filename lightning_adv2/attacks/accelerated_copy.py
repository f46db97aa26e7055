"""A faster copy of the victim that an attack takes its gradients through; the victim itself decides the result."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from copy import deepcopy
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from lightning_adv2.attacks.checks import check_victim
from lightning_adv2.interpreters import Interpreter
from lightning_adv2.models import Classifier, MapNetwork, Softplus, fold_batchnorm
from lightning_adv2.types import State

Wrapper = Callable[[Callable[..., Any]], Any]
# Largest difference of the copy's logits, as a share of the largest logit, and mean difference of its map's pixels.
TOLERANCE, MAP_TOLERANCE = 1e-4, 1e-2
# Largest difference of the gradients, as a share of the norm: rounding moves some ReLUs and maxima across kinks.
SLOPE_TOLERANCE = 0.1
# An iterative interpreter's first steps depend on its start, not on the image.
SETTLING = 4
TOLERANCE_BF16 = 5e-2


@dataclass(frozen=True)
class Acceleration:
    """The optimisations of the copy. In single precision the copy's logits agree to about 1e-6 of the largest logit.

    Attributes:
        fold_batchnorm: BatchNorm becomes part of the convolution before it.
        channels_last: images and weights lie in memory pixel by pixel.
        bfloat16: networks compute under autocast; losses, maps' normalisation and the perturbation do not. For GPUs: a
            CPU takes twice as long. Maps agree to a few per cent only.
        compile: ``torch.compile`` of the networks, which takes half a minute at the start. Disabled where an attack
            takes second derivatives (GRAD and its relatives, MASK).
    """

    fold_batchnorm: bool = True
    channels_last: bool = True
    bfloat16: bool = False
    compile: bool = False


@dataclass(frozen=True)
class AcceleratedCopy:
    """The networks that gradients are taken through.

    Attributes:
        classifier: frozen, in eval mode.
        interpreter: None where the attack ignores the map.
    """

    classifier: Classifier
    interpreter: Interpreter | None


def make_accelerated_copy(
    classifier: Classifier,
    interpreter: Interpreter | None,
    images: Tensor,
    acceleration: Acceleration | None = None,
) -> AcceleratedCopy:
    """A fast copy of the victim, compared with the victim, which stays unchanged.

    An interpreter whose encoder has the classifier's own weights gets the classifier as its encoder, so that both share
    one forward pass. Optimisations that change the outputs beyond the tolerances of this file are disabled with a
    warning; without any optimisation the result holds the victim itself.

    Args:
        classifier: in eval mode.
        interpreter: in eval mode; None to attack the classifier alone.
        images: ``(B, C, H, W)``; only their shape, type and device count.
        acceleration: None takes the defaults, which change nothing but the rounding.

    Raises:
        TypeError: ``classifier`` or ``interpreter`` is of another type.
        ValueError: the victim is in train mode.
    """
    check_victim(classifier, interpreter)
    how = acceleration or Acceleration()
    if interpreter is not None and not interpreter.differentiable:
        interpreter = None  # no gradient is taken of its map
    plain = AcceleratedCopy(classifier, interpreter)
    generator = torch.Generator().manual_seed(0)
    probe = torch.rand(1, *images.shape[1:], generator=generator).to(images)
    with _exactly(images.device):
        try:
            expected = _look(plain, probe)
        except RuntimeError:
            return plain  # the attack meets the same error and reports it
        for less, way in _ways(how):
            try:
                accelerated = _copy(plain, probe, way)
                tolerance = TOLERANCE_BF16 if way.bfloat16 else TOLERANCE
                difference = _difference(expected, _look(accelerated, probe), tolerance)
            except Exception as error:  # no compiler, a compiled second derivative, a network without a copy
                difference = f"{type(error).__name__}: {error}".strip().splitlines()[0]
            if not difference:
                return accelerated
            victim = classifier.name if interpreter is None else f"{classifier.name} with {interpreter.name}"
            warnings.warn(f"acceleration: {victim} is not {less}: {difference}", stacklevel=2)
    return plain


def _ways(how: Acceleration) -> Iterator[tuple[str, Acceleration]]:
    """Accelerations with fewer and fewer optimisations, each with the word for what is disabled if it fails."""
    if how.compile:
        yield "compiled", how
        how = replace(how, compile=False)
    if how.bfloat16:
        yield "computed in bfloat16", how
        how = replace(how, bfloat16=False)
    if how.channels_last and how.fold_batchnorm:
        yield "folded and laid out channels last", how
        yield "folded", replace(how, channels_last=False)
        how = replace(how, fold_batchnorm=False)
    if how != Acceleration(fold_batchnorm=False, channels_last=False):
        yield "copied", how


@contextmanager
def _exactly(device: torch.device) -> Iterator[None]:
    """Full precision, whatever the caller has set, so that the comparison is of the networks."""
    backend, precision = torch.backends.cudnn, torch.get_float32_matmul_precision()
    settings = backend.enabled, backend.benchmark, backend.benchmark_limit, backend.deterministic
    torch.set_float32_matmul_precision("highest")
    try:
        with torch.autocast(device.type, enabled=False), backend.flags(*settings, allow_tf32=False):
            yield
    finally:
        torch.set_float32_matmul_precision(precision)


def _copy(plain: AcceleratedCopy, probe: Tensor, how: Acceleration) -> AcceleratedCopy:
    """The victim's copy, folded, laid out and wrapped as the acceleration says."""
    accelerated = deepcopy(plain)  # both at once: an interpreter may know layers of the classifier
    classifier, interpreter = accelerated.classifier, accelerated.interpreter
    networks = list(interpreter.modules()) if interpreter is not None else []
    for network in networks:
        if isinstance(network, MapNetwork) and _equal(network.encoder, plain.classifier):
            network.encoder = classifier
    if how.fold_batchnorm:
        fold_batchnorm(classifier, lambda: classifier(probe))
        if interpreter is not None and any(True for _ in interpreter.parameters()):
            class_idx = torch.zeros(1, dtype=torch.int64, device=probe.device)
            state = interpreter.init_state(classifier, probe, class_idx)
            fold_batchnorm(interpreter, lambda: interpreter(classifier, probe, class_idx, state))
    for module in (classifier, interpreter):
        if module is not None:
            module.requires_grad_(False)
            if how.channels_last:
                module.to(memory_format=torch.channels_last)
    parts = [classifier, *(interpreter.modules() if interpreter is not None else ())]
    if how.channels_last:
        _wrap(parts, {Classifier: ["normalize"]}, _channels_last)
    # Not the head: it costs nothing, and Grad-CAM differentiates it twice.
    slow = {Classifier: ["forward_features", "forward_pyramid", "forward_attention"], MapNetwork: ["decode"]}
    if how.bfloat16:
        _wrap(parts, slow, _in_bfloat16)
    if how.compile:
        _wrap(parts, slow, torch.compile)
    return accelerated


def _equal(first: nn.Module, second: nn.Module) -> bool:
    """Whether two networks are the same function: the same architecture and the same values."""
    own, other = first.state_dict(), second.state_dict()
    own, other = own | dict(first.named_buffers()), other | dict(second.named_buffers())  # normalisation is in no file
    return str(first) == str(second) and own.keys() == other.keys() and all(torch.equal(own[n], other[n]) for n in own)


def _wrap(parts: Sequence[nn.Module], names: dict[type[nn.Module], list[str]], wrapper: Wrapper) -> None:
    """Wrap methods of networks of some types; a network that is part of two is wrapped once."""
    for part in dict.fromkeys(parts):
        for name in (name for kind, own in names.items() if isinstance(part, kind) for name in own):
            if hasattr(part, name):
                setattr(part, name, wrapper(getattr(part, name)))


def _channels_last(method: Callable[[Tensor], Tensor]) -> Callable[[Tensor], Tensor]:
    """The method with a channels-last result; the attack's own tensors keep their layout."""

    def run(images: Tensor) -> Tensor:
        return method(images).contiguous(memory_format=torch.channels_last)

    return run


def _in_bfloat16(method: Callable[..., Any]) -> Callable[..., Any]:
    """The method under autocast, its results cast to the type of its first tensor."""

    def run(*arguments: Any) -> Any:
        first = arguments[0][0] if isinstance(arguments[0], list) else arguments[0]
        with torch.autocast(first.device.type, torch.bfloat16):
            return _cast(method(*arguments), first.dtype)

    return run


def _cast(values: Any, dtype: torch.dtype) -> Any:
    if isinstance(values, (list, tuple)):
        return type(values)(_cast(value, dtype) for value in values)
    return values.to(dtype)


def settled_state(interpreter: Interpreter, classifier: Classifier, images: Tensor, class_idx: Tensor) -> State:
    """The state from which an iterative interpreter's next step depends on the image and not on its start (4 steps).

    Args:
        interpreter: in eval mode.
        classifier: the network explained, in eval mode.
        images: ``(B, C, H, W)`` in [0, 1].
        class_idx: ``(B,)`` in [0, K), the class explained.

    Returns:
        Every leaf with B first; ``()`` for interpreters that are not iterative.
    """
    with torch.no_grad():
        state = interpreter.init_state(classifier, images.detach(), class_idx)
        for _ in range(0 if isinstance(state, tuple) and not state else SETTLING):
            state = interpreter.advance(classifier, images.detach(), class_idx, state)
    return state


@dataclass(frozen=True)
class _View:
    """A victim's outputs and gradients at one image, without a graph."""

    logits: Tensor
    encoder_logits: Tensor
    attribution_map: Tensor
    class_slope: Tensor
    map_slope: Tensor


def _look(one: AcceleratedCopy, probe: Tensor) -> _View:
    """Logits and map of an image, and the gradient of each with respect to the image.

    A map without a slope is computed again through a smooth ReLU, as in the attack on it. The slope of an iterative
    interpreter's map is left out: Adam's quotients multiply rounding errors beyond any tolerance.
    """
    view = _look_through(one, probe, nullcontext())
    if one.interpreter is None or bool(view.map_slope.any()):
        return view
    return replace(view, map_slope=_look_through(one, probe, Softplus()).map_slope)


def _look_through(one: AcceleratedCopy, probe: Tensor, mode: AbstractContextManager[object]) -> _View:
    class_idx = torch.zeros(1, dtype=torch.int64, device=probe.device)
    with torch.enable_grad(), mode:
        leaf = probe.clone().requires_grad_()
        if one.interpreter is None:
            logits, attribution_map, aux, state = one.classifier(leaf), leaf[:, :1] * 0, {}, ()
        else:
            state = settled_state(one.interpreter, one.classifier, leaf, class_idx)
            shown = one.interpreter(one.classifier, leaf, class_idx, state)
            logits, attribution_map, aux = shown.logits, shown.attribution_map, shown.aux
        compared = attribution_map if isinstance(state, tuple) and not state else attribution_map.detach()
        slopes = [_slope(seen, leaf) for seen in (logits, compared)]
    seen = (logits, aux.get("encoder_logits", logits), attribution_map)
    return _View(*(value.detach() for value in seen), *slopes)


def _slope(value: Tensor, leaf: Tensor) -> Tensor:
    """The gradient of a weighted sum; the plain sum may be constant, as the extremes of a min-max map are."""
    if not value.requires_grad:
        return torch.zeros_like(leaf)
    weight = torch.rand(value.shape, generator=torch.Generator().manual_seed(1)).to(value)
    (gradient,) = torch.autograd.grad((value * weight).sum(), leaf, retain_graph=True, allow_unused=True)
    return torch.zeros_like(leaf) if gradient is None else gradient


def _difference(expected: _View, found: _View, tolerance: float) -> str:
    """The first difference between copy and victim beyond its tolerance, or an empty string."""
    for label, first, second in (
        ("logits", expected.logits, found.logits),
        ("the encoder's logits", expected.encoder_logits, found.encoder_logits),
    ):
        worst = float((first - second).abs().max() / first.abs().max().clamp(min=1))
        if not worst <= tolerance:
            return f"{label} by {worst:.1e} of the largest"
    mean = float((expected.attribution_map - found.attribution_map).abs().mean())
    if not mean <= max(tolerance, MAP_TOLERANCE):
        return f"maps by {mean:.1e} on average"
    for label, first, second in (
        ("the logits' gradient", expected.class_slope, found.class_slope),
        ("the map's gradient", expected.map_slope, found.map_slope),
    ):
        norm = float(first.norm())
        share = float((first - second).norm()) / norm if norm else float(second.norm())
        if not share <= max(tolerance * 10, SLOPE_TOLERANCE):
            return f"{label} by {share:.1e} of its norm"
    return ""
