"""Signs that an attack failed for another reason than the victim's robustness, from a few forward and backward passes.

After Carlini et al. 2019, "On evaluating adversarial robustness", and Pintor et al. 2022, "Indicators of attack
failure". The absence of a flag proves nothing; a flag says that the attack's figures must not be read as robustness
before its cause is known.
"""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass

import torch
from torch import Tensor

from lightning_adv2.attacks.accelerated_copy import settled_state
from lightning_adv2.attacks.attack import Attack
from lightning_adv2.attacks.engine import AttackResult
from lightning_adv2.attacks.objective import AttackInputs
from lightning_adv2.functional.random import image_generators
from lightning_adv2.models import Classifier

# Relative to an image's logits (or to a map's range), what counts as rounding; single precision leaves about 1e-6.
NOISE = 1e-4
# At the smallest step the margin of trained networks moves by 0.7 to 1.1 times what its gradient says (ResNet-20, -50
# and -56, SqueezeNet); at the largest by as little as a hundredth, because a step of 8/255 crosses thousands of kinks.
PROBES = (0.1 / 255, 1 / 255, 8 / 255)
AGREEMENT = 3.0


@dataclass(frozen=True)
class Flag:
    """A reason to distrust a failed attack.

    Attributes:
        name: short, for tables: ``random_network``, ``softmax_outputs``, ``masked_gradient``, ``random_map``,
            ``constant_map``, ``no_map_gradient`` or ``unused_budget``.
        message: the finding and the remedy.
        images: indices in the batch of the images concerned.
        count: B.
    """

    name: str
    message: str
    images: tuple[int, ...]
    count: int

    def __str__(self) -> str:
        return f"{self.name}: {self.message} ({len(self.images)} of {self.count} images)"


def flags(
    attack: Attack, inputs: AttackInputs, result: AttackResult, network: dict[str, Tensor] | None = None
) -> list[str]:
    """The texts of the flags that :func:`diagnose` raises, for a record.

    Args:
        attack: the attack that was run.
        inputs: its inputs, of B images.
        result: its result.
        network: the value of :func:`network_flags` for these images, ``(B,)`` bool by name; None computes it.

    Raises:
        RuntimeError: under ``torch.inference_mode``.
    """
    return [str(flag) for flag in diagnose(attack, inputs, result, network)]


def diagnose(
    attack: Attack, inputs: AttackInputs, result: AttackResult, network: dict[str, Tensor] | None = None
) -> list[Flag]:
    """The flags of a failed attack: no usable gradient, loss or step (Carlini et al. 2019; Pintor et al. 2022).

    Costs five forward passes of the classifier and one backward pass, which ``network`` saves; where the attack aims at
    the map, two forward passes of the interpreter and one backward pass more. The victim and the global random numbers
    stay as they are. ``torch.no_grad`` may be active. An image's flags do not depend on the other images.

    Args:
        attack: the attack that was run.
        inputs: its inputs, of B images; the generators are not used.
        result: its result.
        network: the value of :func:`network_flags` for these images, ``(B,)`` bool by name, where several attacks share
            it; None computes it.

    Returns:
        The flags raised; none for a sound victim.

    Raises:
        RuntimeError: under ``torch.inference_mode``.
    """
    if torch.is_inference_mode_enabled():
        raise RuntimeError(
            "a diagnosis needs gradients, but torch.inference_mode is on; use torch.no_grad instead "
            "(in Lightning: Trainer(inference_mode=False))"
        )
    images, adv_images = inputs.images.detach(), result.adv_images.detach()
    if not len(images):
        return []
    found = dict(network or network_flags(inputs))
    if not attack.needs_gradient:
        del found["masked_gradient"]
    if attack.needs_map:
        found |= _map_flags(attack, inputs, result)
    epsilon = getattr(attack.perturbation, "epsilon", None)
    if epsilon is not None:  # a flow has no radius that it could use
        moved = (adv_images - images).abs().flatten(1).amax(1)
        found["unused_budget"] = ~result.success & result.valid & (moved < 0.5 * epsilon)
    return [
        Flag(name, MESSAGES[name], tuple(concerned.nonzero()[:, 0].tolist()), len(images))
        for name, concerned in found.items()
        if concerned.any()
    ]


def network_flags(inputs: AttackInputs) -> dict[str, Tensor]:
    """The flags of the classifier at the benign images, whatever the attack (Carlini et al. 2019).

    Args:
        inputs: of B images; interpreter and target map are not used.

    Returns:
        ``(B,)`` bool by the flag's name: the images concerned.
    """
    classifier, images = inputs.classifier, inputs.images.detach()
    with torch.no_grad():
        again = classifier(images)
    logits, masked = _masked_gradient(classifier, images, inputs.target_class)
    random = _differ(logits, again)
    return {
        "random_network": random,
        "softmax_outputs": _are_probabilities(logits),
        # Differences between the calls of a random network say nothing about its gradient.
        "masked_gradient": masked & ~random,
    }


MESSAGES = {
    "random_network": "two forward passes of the same images differ; fix the network's random numbers, or attack the "
    "mean over many draws",
    "softmax_outputs": "the classifier's logits are probabilities, on which the cross entropy saturates; return what "
    "comes before the softmax",
    "masked_gradient": "the gradient of the classifier is zero, not finite, or unlike the finite differences; look for "
    "rounding, thresholds or detached tensors inside, and attack through a smooth stand-in for them",
    "random_map": "two explanations of the same images differ; fix the interpreter's random numbers",
    "constant_map": "the target map, or the map of the adversarial image, has one value everywhere, so that there is "
    "nothing to match; leave such images out of the map's figures, or repair the interpreter",
    "no_map_gradient": "the gradient of the map is zero or not finite, so that the attack on it had no direction; give "
    "the step a surrogate for the ReLU (Softplus), or look for rounding inside the interpreter",
    "unused_budget": "failed images have moved by less than half of epsilon; take larger or more steps",
}


def _differ(first: Tensor, second: Tensor) -> Tensor:
    """Whether two answers for an image differ by more than rounding, ``(B,)``; NaN equals NaN."""
    first, second = first.flatten(1).nan_to_num(), second.flatten(1).nan_to_num()
    span = first.amax(1) - first.amin(1)
    return (first - second).abs().amax(1) > NOISE * span


def _are_probabilities(logits: Tensor) -> Tensor:
    inside: Tensor = ((logits >= 0) & (logits <= 1)).all(1)
    return inside & ((logits.sum(1) - 1).abs() < 1e-3)


def _slope(value: Tensor, leaf: Tensor) -> Tensor:
    """The derivative of each image's value; zero where there is no path to it."""
    if not value.requires_grad:
        return torch.zeros_like(leaf)
    (gradient,) = torch.autograd.grad(value.sum(), leaf, allow_unused=True)
    return torch.zeros_like(leaf) if gradient is None else gradient


def _masked_gradient(classifier: Classifier, images: Tensor, target_class: Tensor) -> tuple[Tensor, Tensor]:
    """The logits, and whether the gradient fails to say where the target class gains on its strongest rival, ``(B,)``.

    The margin is taken, because it does not saturate, and along the gradient's sign, where it changes most; along a
    random direction where the gradient is zero. One probe that agrees is enough: a coarse quantisation with a
    straight-through gradient is right at large steps only.
    """

    def margin(seen: Tensor) -> Tensor:
        return (seen.gather(1, target_class[:, None]) - seen.gather(1, rival[:, None]))[:, 0]

    leaf = images.clone().requires_grad_()
    with torch.enable_grad():
        logits = classifier(leaf)
        rival = logits.detach().scatter(1, target_class[:, None], -torch.inf).argmax(1)
        start = margin(logits)
        gradient = _slope(start, leaf)
    start, logits = start.detach(), logits.detach()
    finite = gradient.flatten(1).isfinite().all(1)
    flat = (gradient == 0).flatten(1).all(1)
    (generator,) = image_generators(0, [""], "diagnosis")
    anywhere = (2 * torch.randint(0, 2, images.shape[1:], generator=generator) - 1).to(images)
    direction = torch.where(flat.view(-1, 1, 1, 1), anywhere, gradient.sign())
    tolerance = NOISE * logits.abs().amax(1)
    heard = torch.zeros_like(finite)
    agreed = torch.zeros_like(finite)
    for size in PROBES:
        step = (images + size * direction).clamp(0, 1) - images
        with torch.no_grad():
            change = margin(classifier(images + step)) - start
        expected = (gradient * step).flatten(1).sum(1)
        audible = (expected.abs() > tolerance) | (change.abs() > tolerance)
        heard |= audible
        low, high = expected / AGREEMENT - tolerance, expected * AGREEMENT + tolerance
        agreed |= audible & (low <= change) & (change <= high)
    # An image that the network cannot judge at all is invalid, not masked.
    return logits, (~finite | (heard & ~agreed)) & logits.isfinite().all(1)


def _map_flags(attack: Attack, inputs: AttackInputs, result: AttackResult) -> dict[str, Tensor]:
    """The flags of the map at the adversarial images, computed as in the attack's joint step, ``(B,)`` bool by name.

    Not at the benign ones: the map of a class that is not in the image may be empty there (Grad-CAM) without harm.
    """
    # Of those that aim at the map the last, if possible of those that follow its gradient.
    aiming = [stage.step for stage in attack.stages if stage.step.needs_map]
    step = ([step for step in aiming if step.needs_gradient] or aiming)[-1]
    mode: AbstractContextManager[object] = getattr(step, "surrogate", None) or nullcontext()
    interpreter, target_map, adv_images = inputs.interpreter, inputs.target_map, result.adv_images.detach()
    assert interpreter is not None
    assert target_map is not None  # the attack needed both

    def explain(x: Tensor) -> Tensor:
        asked = inputs.target_class
        state = settled_state(interpreter, inputs.classifier, x, asked)
        shown: Tensor = interpreter(inputs.classifier, x, asked, state).attribution_map
        return shown

    leaf = adv_images.clone().requires_grad_(step.needs_gradient)
    with torch.set_grad_enabled(step.needs_gradient), mode:
        first = explain(leaf)
        # Uneven, because a map's mean may well be constant; random, because the distance to the target may be zero.
        (generator,) = image_generators(0, [""], "diagnosis")
        weight = torch.rand(first.shape[1:], generator=generator).to(first)
        slope = _slope((first * weight).flatten(1).sum(1), leaf)
    with torch.no_grad(), mode:
        second = explain(adv_images)
    first = first.detach()
    reported = result.attribution_map if result.attribution_map.numel() else first
    found = {
        "random_map": _differ(first, second),
        "constant_map": _is_constant(target_map) | _is_constant(reported),
    }
    if step.needs_gradient:
        stuck = ~slope.flatten(1).isfinite().all(1) | (slope == 0).flatten(1).all(1)
        # The gradient is taken where the map is; an image without a finite one is invalid.
        found["no_map_gradient"] = stuck & first.flatten(1).isfinite().all(1)
    return found


def _is_constant(maps: Tensor) -> Tensor:
    return maps.flatten(1).amax(1) == maps.flatten(1).amin(1)
