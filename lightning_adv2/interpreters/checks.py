"""Checks of images, networks and their results before an explanation or an attack; each error names the argument."""

from __future__ import annotations

from math import isfinite

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from lightning_adv2.functional.classes import check_logits
from lightning_adv2.models import Classifier
from lightning_adv2.types import Interpretation

# Modules without a train mode of their own, which come in it when they are made.
_HARMLESS = (nn.ModuleList, nn.ModuleDict, nn.Sequential, nn.Identity)
# A value beyond [0, 1] by at most this much has been rounded; by more, it has been normalised.
ROUNDING = 1e-3
# The share of the largest logit by which an image's logits may depend on its neighbours: what bfloat16 rounds away.
_ALIKE = 5e-2


def check_module(name: str, module: object, kind: type[nn.Module]) -> None:
    """Raise a TypeError for anything but an instance of ``kind``, such as a class or a compiled network.

    Args:
        name: of the caller's argument, for the error.
        module: the object checked.
        kind: the class that is needed.

    Raises:
        TypeError: names the argument, its type and the remedy.
    """
    if isinstance(module, type):
        raise TypeError(f"{name}: got the class {module.__name__}; give an instance, such as {module.__name__}()")
    if not isinstance(module, kind):
        remedy = ""
        if "_orig_mod" in getattr(module, "_modules", {}):
            remedy = f"; give the network before torch.compile, {name}._orig_mod: attacks accelerate it by themselves"
        elif kind is Classifier:
            remedy = (
                "; take TorchvisionClassifier(name, weights=...) for a network of torchvision, or write a subclass of "
                "Classifier around yours (stages, forward_head and num_classes)"
            )
        raise TypeError(f"{name}: expected an instance of {kind.__name__}, got {type(module).__name__}{remedy}")


def check_modes(name: str, network: nn.Module, harmless: tuple[type[nn.Module], ...] = ()) -> None:
    """Raise a ValueError where a forward pass would change ``network``, or depend on chance or on the batch.

    Args:
        name: of the caller's argument, for the error.
        network: all of its parts must be in eval mode, and every BatchNorm must have statistics.
        harmless: types whose instances may be in train mode, where they have neither parameters nor buffers.

    Raises:
        ValueError: names the part.
    """
    for path, part in network.named_modules():
        where = path or type(part).__name__
        if isinstance(part, _BatchNorm) and part.running_mean is None:
            raise ValueError(
                f"{name}: {where} is a {type(part).__name__} without statistics, so that an image's logits depend on "
                "the other images of its batch; train it with track_running_stats=True, or take another normalisation"
            )
        if not part.training:
            continue
        stateless = not any(True for _ in part.parameters(recurse=False)) and not any(
            True for _ in part.buffers(recurse=False)
        )
        if not (stateless and type(part) in _HARMLESS) and not (stateless and isinstance(part, harmless)):
            raise ValueError(f"{name}: {where} is in train mode; call {name}.eval() first")


def check_images(images: object, tolerance: float = 0.0) -> None:
    """Raise an error for anything but floats ``(B, C, H, W)`` in [0, 1]; NaN and infinity pass.

    Args:
        images: the images explained or attacked.
        tolerance: how far a value may lie beyond [0, 1].

    Raises:
        TypeError: no tensor.
        ValueError: another shape, type or range; names the values and the remedy.
    """
    if not isinstance(images, Tensor):
        raise TypeError(f"images: expected a tensor (B, C, H, W), got {type(images).__name__}")
    if images.dim() != 4 or not images.is_floating_point():
        remedy = ""
        if images.dim() == 3:
            remedy = "; give a single image as images[None]"
        elif images.dtype == torch.uint8:
            remedy = "; give 8-bit images as images.float() / 255"
        raise ValueError(
            f"images: expected floats (B, C, H, W) in [0, 1], got {images.dtype} {tuple(images.shape)}{remedy}"
        )
    if not images.numel():
        return
    low, high = (float(end) for end in images.detach().aminmax())
    if not isfinite(low + high):  # an image that is not finite is counted as invalid, and hides the others' range
        seen = images.detach().where(images.isfinite(), 0.5)
        low, high = (float(end) for end in seen.aminmax())
    excess = max(-low, high - 1)
    if excess > tolerance:
        remedy = "divide 8-bit images by 255 and leave the normalisation to the classifier"
        if excess <= ROUNDING:
            remedy = f"{excess:.1g} beyond is rounding: give images.clamp(0, 1)"
        raise ValueError(f"images: values lie in [{low:.9g}, {high:.9g}], expected [0, 1]; {remedy}")


def check_classes(class_idx: Tensor, classifier: nn.Module, name: str = "class_idx") -> None:
    """Raise a ValueError for indices outside the classifier's classes; a classifier without ``num_classes`` passes.

    Args:
        class_idx: ``(B,)`` int64.
        classifier: the network explained or attacked.
        name: of the caller's argument, for the error.

    Raises:
        ValueError: names the range found and the range allowed.
    """
    count = getattr(classifier, "num_classes", None)
    if count is None or not len(class_idx):
        return
    low, high = int(class_idx.amin()), int(class_idx.amax())
    if low < 0 or high >= count:
        raise ValueError(
            f"{name}: values lie in [{low}, {high}], the classifier has classes 0 to {count - 1} (num_classes)"
        )


def check_answer(classifier: nn.Module, images: Tensor) -> None:
    """Classify two images, and raise an error that names the fault of the result.

    Args:
        classifier: the network explained or attacked.
        images: ``(B, C, H, W)``; the first two are classified.

    Raises:
        TypeError: the classifier returns no tensor.
        ValueError: the logits are not ``(B, K)`` with K = ``num_classes`` >= 2, or depend on the other images, or the
            images are of another type, device or number of channels than the classifier takes.
    """
    if not len(images):
        return
    pair = images[:2].detach()
    with torch.no_grad():
        try:
            logits = classifier(pair)
        except Exception as error:
            if reason := _misfit(classifier, images):
                raise ValueError(reason) from error
            raise
        check_width(logits, classifier, len(pair))
        alone = classifier(pair[:1]) if len(pair) > 1 else logits
        differs = float((alone - logits[:1]).abs().max()) > _ALIKE * float(logits.abs().max())
        # A network that answers at random is flagged, not refused.
        depends = differs and torch.equal(alone, classifier(pair[:1]))
    if depends:
        raise ValueError(
            "classifier: an image's logits depend on the other images of its batch; look for statistics over the batch "
            "(F.batch_norm with training=True, a mean over dimension 0)"
        )


def check_width(logits: object, classifier: nn.Module, count: int) -> None:
    """Raise an error where a classifier's logits are not ``(count, num_classes)`` with two or more classes.

    Args:
        logits: the classifier's result.
        classifier: the network, whose ``num_classes`` is compared where it has one.
        count: number of images, B.

    Raises:
        TypeError: no tensor.
        ValueError: another shape.
    """
    if not isinstance(logits, Tensor):
        raise TypeError(
            f"classifier: {type(classifier).__name__} returns a {type(logits).__name__}; its forward must return the "
            "logits (B, K) and nothing else"
        )
    check_logits(logits)
    classes = getattr(classifier, "num_classes", logits.shape[1])
    if len(logits) != count or logits.shape[1] != classes:
        raise ValueError(
            f"classifier: its logits are {tuple(logits.shape)} for {count} images, but its num_classes is {classes}; "
            "set num_classes to the number of logits"
        )


def check_interpretation(name: str, result: object, classifier: nn.Module, count: int) -> Interpretation:
    """The result of an interpreter's ``forward``, unchanged.

    Args:
        name: the interpreter's class, for the error.
        result: of ``forward``.
        classifier: the network explained.
        count: number of images, B.

    Raises:
        TypeError: no :class:`~lightning_adv2.types.Interpretation` of tensors.
        ValueError: the logits are not ``(B, K)``, or the map is not ``(B, 1, h, w)``.
    """
    if not isinstance(result, Interpretation):
        raise TypeError(
            f"interpreter: {name}.forward returns a {type(result).__name__}; return an "
            "Interpretation(logits, attribution_map)"
        )
    check_width(result.logits, classifier, count)
    shown = result.attribution_map
    if not isinstance(shown, Tensor) or not shown.is_floating_point():
        kind = shown.dtype if isinstance(shown, Tensor) else type(shown).__name__
        raise TypeError(f"interpreter: the attribution_map of {name} is {kind}; return floats ({count}, 1, h, w)")
    if shown.dim() != 4 or shown.shape[:2] != (count, 1):
        raise ValueError(
            f"interpreter: the attribution_map of {name} is {tuple(shown.shape)}; return ({count}, 1, h, w)"
        )
    return result


def check_range(name: str, attribution_map: Tensor) -> None:
    """Raise a ValueError for a map with values outside [0, 1]; NaN and infinity pass, and are counted as invalid.

    Args:
        name: the interpreter's class, for the error.
        attribution_map: ``(B, 1, h, w)``.

    Raises:
        ValueError: names the range found and the remedy.
    """
    if bool((((attribution_map < 0) | (attribution_map > 1)) & attribution_map.isfinite()).any()):
        low, high = (float(end) for end in attribution_map.where(attribution_map.isfinite(), 0.5).aminmax())
        raise ValueError(
            f"interpreter: the attribution_map of {name} lies in [{low:.9g}, {high:.9g}], expected [0, 1]; "
            "scale it by functional.attribution.minmax"
        )


def _misfit(classifier: nn.Module, images: Tensor) -> str:
    """Why a classifier fails on images; empty where it does not show."""
    weight = next((p for p in classifier.parameters() if p.is_floating_point()), None)
    if weight is not None and weight.dtype != images.dtype:
        return (
            f"images: {images.dtype}, but the classifier's weights are {weight.dtype}; convert the images, or the "
            f"classifier by classifier.to({images.dtype})"
        )
    if weight is not None and weight.device != images.device:
        return f"images: on {images.device}, but the classifier is on {weight.device}; bring both to one device"
    mean = getattr(classifier, "mean", None)
    channels = mean.shape[1] if isinstance(mean, Tensor) and mean.dim() == 4 else images.shape[1]
    if images.shape[1] not in (1, channels):
        turned = " by images.permute(0, 3, 1, 2)" if images.shape[3] == channels else ""
        return f"images: {tuple(images.shape)}, but the classifier takes (B, {channels}, H, W); reorder them{turned}"
    return ""
