"""What an attack refuses before it starts."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from lightning_adv2.interpreters import Interpreter
from lightning_adv2.models import Classifier


def check_victim(classifier: Classifier, interpreter: Interpreter | None) -> None:
    """Raise a ValueError where a forward pass would change the victim, BatchNorm statistics in train mode say."""
    for name, module in (("classifier", classifier), ("interpreter", interpreter)):
        for path, part in module.named_modules() if module is not None else ():
            # Only parts with weights or statistics of their own can change; a bare CAM may be in any mode.
            own = any(True for _ in part.parameters(recurse=False)) or any(True for _ in part.buffers(recurse=False))
            if part.training and (own or isinstance(part, nn.modules.dropout._DropoutNd)):
                raise ValueError(f"{name}: {path or type(part).__name__} is in train mode; call {name}.eval() first")


def check_gradient(name: str, interpreter: Interpreter) -> None:
    """Raise a ValueError for an interpreter whose map must not be attacked."""
    if not interpreter.differentiable:
        raise ValueError(
            f"interpreter: the gradient of {type(interpreter).__name__}'s map is not right, so that a failed {name!r} "
            "would look like robustness; attack another interpreter's map, or the classifier alone, and evaluate "
            "this one on the result"
        )


def check_inputs(
    name: str,
    needs_map: bool,
    classifier: Classifier,
    interpreter: Interpreter | None,
    images: Tensor,
    target_class: Tensor,
    target_map: Tensor | None,
) -> None:
    """Raise a ValueError that names the argument, or a RuntimeError under ``torch.inference_mode``."""
    if torch.is_inference_mode_enabled() or images.is_inference():
        raise RuntimeError(
            "an attack needs gradients, but torch.inference_mode is on; use torch.no_grad instead "
            "(in Lightning: Trainer(inference_mode=False))"
        )
    if images.dim() != 4 or not images.is_floating_point():
        raise ValueError(f"images: expected floats (B, C, H, W) in [0, 1], got {images.dtype} {tuple(images.shape)}")
    if images.dtype not in (torch.float32, torch.float64):
        raise ValueError(
            f"images: {images.dtype} cannot hold a perturbation of {1 / 255:.4f} exactly; attack in float32 "
            "(in Lightning: Trainer(precision='32-true'))"
        )
    if target_class.shape != images.shape[:1] or target_class.is_floating_point():
        raise ValueError(
            f"target_class: expected {len(images)} whole numbers, got {target_class.dtype} {tuple(target_class.shape)}"
        )
    if len(images) and not (images.amin() >= 0 and images.amax() <= 1):
        low, high = float(images.amin()), float(images.amax())
        raise ValueError(
            f"images: values lie in [{low:.3g}, {high:.3g}], expected [0, 1] without NaN; "
            "divide 8-bit images by 255 and leave the normalisation to the classifier"
        )
    if needs_map and (interpreter is None or target_map is None):
        raise ValueError(f"attack {name!r} aims at the map: give an interpreter and a target_map")
    if needs_map and interpreter is not None:
        check_gradient(name, interpreter)
    if len(images) and not (target_class.amin() >= 0 and target_class.amax() < classifier.num_classes):
        raise ValueError(
            f"target_class: values lie in [{int(target_class.amin())}, {int(target_class.amax())}], "
            f"the classifier has classes 0 to {classifier.num_classes - 1}"
        )
    if target_map is not None:
        if target_map.dim() != 4 or target_map.shape[:2] != (len(images), 1):
            raise ValueError(f"target_map: expected ({len(images)}, 1, h, w), got {tuple(target_map.shape)}")
        if len(images) and not (target_map.amin() >= 0 and target_map.amax() <= 1):
            raise ValueError("target_map: expected values in [0, 1] without NaN, as the interpreter's own maps have")
