"""Checks of an attack's victim and inputs before it starts."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from inspect import signature

import torch
from torch import Generator, Tensor, nn

from lightning_adv2.attacks.attack import Attack
from lightning_adv2.attacks.objective import AttackInputs
from lightning_adv2.functional.classes import class_indices
from lightning_adv2.functional.random import image_generators
from lightning_adv2.interpreters import Interpreter
from lightning_adv2.interpreters.checks import check_answer, check_classes, check_images, check_modes, check_module
from lightning_adv2.models import Classifier
from lightning_adv2.types import Classes


def check_victim(classifier: Classifier, interpreter: Interpreter | None) -> None:
    """Raise an error for a victim that cannot be attacked.

    Args:
        classifier: must be a :class:`Classifier`, or another module with ``num_classes``.
        interpreter: must be an :class:`Interpreter`, or None.

    Raises:
        TypeError: another type, or a class in an instance's place.
        ValueError: a part is in train mode, where a forward pass would change it or depend on chance, or is a BatchNorm
            without statistics.
    """
    # Another module that knows its classes will do for interpreters that ask no more of it.
    check_module("classifier", classifier, nn.Module if hasattr(classifier, "num_classes") else Classifier)
    check_modes("classifier", classifier)
    if interpreter is not None:
        check_module("interpreter", interpreter, Interpreter)
        check_modes("interpreter", interpreter, harmless=(Interpreter,))


def check_gradient(attack: Attack, interpreter: Interpreter) -> None:
    """Raise a ValueError where an attack follows the gradient of a map that has no correct gradient.

    Args:
        attack: fitted to the interpreter.
        interpreter: the victim's interpreter.

    Raises:
        ValueError: names the interpreter and the remedy.
    """
    if attack.needs_map_gradient and not interpreter.differentiable:
        raise ValueError(
            f"interpreter: the gradient of {type(interpreter).__name__}'s map is not right, so that a failed "
            f"{attack.name!r} would look like robustness; attack another interpreter's map, or the classifier alone, "
            "and evaluate this one on the result: not among the module's interpreters, but in "
            "TransferEvaluation(judges=[...]); or attack it without gradients, by steps with needs_gradient = False"
        )


def preset_attack(preset: Callable[..., object], interpreter: Interpreter, *arguments: object) -> Attack:
    """The attack that a registered function makes for an interpreter.

    Args:
        preset: the function, from ``adv2_attack.dispatch``.
        interpreter: the victim's interpreter.
        arguments: schedule, steps, threat model and name.

    Raises:
        TypeError: the function does not take these arguments, or returns no :class:`Attack`; names the function.
    """
    told = f"{preset.__module__}.{preset.__qualname__}, the attack registered for {type(interpreter).__name__},"
    wanted = "it must take (interpreter, schedule, steps, threat_model, name) and return an Attack"
    try:
        signature(preset).bind(interpreter, *arguments)
    except TypeError as error:
        raise TypeError(f"{told} takes {signature(preset)}: {error}; {wanted}") from error
    attack = preset(interpreter, *arguments)
    if not isinstance(attack, Attack):
        raise TypeError(f"{told} returned {attack!r}; {wanted}")
    return attack


def checked_inputs(
    classifier: Classifier,
    interpreter: Interpreter | None,
    images: Tensor,
    target_class: Classes,
    target_map: Tensor | None = None,
    generators: Sequence[Generator] | None = None,
) -> AttackInputs:
    """The inputs of an attack, checked and without a graph.

    Args:
        classifier: the victim; must be in eval mode.
        interpreter: the victim's interpreter, in eval mode; None where the attack ignores the map.
        images: ``(B, C, H, W)`` in [0, 1], float32 or float64.
        target_class: ``(B,)`` whole numbers in [0, K), or one for all images.
        target_map: ``(B, 1, h, w)`` in [0, 1]; None where the attack ignores the map.
        generators: B CPU generators; None seeds one per image by 0 and the image's index in the batch.

    Returns:
        The inputs, the target classes as ``(B,)`` int64.

    Raises:
        TypeError: an argument is of another type, or the classifier returns no tensor; names the argument.
        ValueError: shapes, ranges or modes do not fit; names the argument.
        RuntimeError: under ``torch.inference_mode``.
    """
    check_victim(classifier, interpreter)
    if torch.is_inference_mode_enabled() or (isinstance(images, Tensor) and images.is_inference()):
        raise RuntimeError(
            "an attack needs gradients, but torch.inference_mode is on; use torch.no_grad instead "
            "(in Lightning: Trainer(inference_mode=False))"
        )
    check_images(images)
    if images.dtype not in (torch.float32, torch.float64):
        raise ValueError(
            f"images: {images.dtype} cannot hold a perturbation of {1 / 255:.4f} exactly; attack in float32 "
            "(in Lightning: Trainer(precision='32-true'))"
        )
    if not bool(images.isfinite().all()):
        raise ValueError("images: values are NaN or infinite, expected [0, 1]; leave such images out")
    classes = class_indices(target_class, len(images), images.device, "target_class")
    check_classes(classes, classifier, "target_class")
    if target_map is not None:
        if target_map.dim() != 4 or target_map.shape[:2] != (len(images), 1):
            raise ValueError(f"target_map: expected ({len(images)}, 1, h, w), got {tuple(target_map.shape)}")
        if len(images) and not (target_map.amin() >= 0 and target_map.amax() <= 1):
            raise ValueError("target_map: expected values in [0, 1] without NaN, as the interpreter's own maps have")
        target_map = target_map.detach()
    check_answer(classifier, images)
    if generators is None:
        generators = image_generators(0, [str(i) for i in range(len(images))], "attack")
    return AttackInputs(classifier, interpreter, images.detach(), classes, target_map, generators)


def check_aim(attack: Attack, inputs: AttackInputs) -> None:
    """Raise a ValueError where an attack on the map lacks the interpreter, its gradient, or a target map.

    Args:
        attack: fitted to the interpreter.
        inputs: of any number of images.

    Raises:
        ValueError: names what is missing.
    """
    if not attack.needs_map:
        return
    if inputs.interpreter is None or inputs.target_map is None:
        raise ValueError(f"attack {attack.name!r} aims at the map: give an interpreter and a target_map")
    check_gradient(attack, inputs.interpreter)
