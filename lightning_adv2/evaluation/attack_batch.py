"""Attack one batch and keep what happened; needs no Trainer."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, fields, replace
from functools import partial
from typing import Any

import torch
from torch import Generator, Tensor

from lightning_adv2.attacks import (
    AcceleratedCopy,
    Attack,
    AttackInputs,
    AttackRecipe,
    AttackResult,
    PixelDelta,
    run_attack,
)
from lightning_adv2.attacks.diagnosis import flags, network_flags
from lightning_adv2.attacks.targets import BenignMap, Target, TargetRequest
from lightning_adv2.evaluation.evaluated_images import EvaluatedImages, evaluate_images, evaluated_record
from lightning_adv2.functional.agreement import perturbation_norm
from lightning_adv2.functional.projection import quantize
from lightning_adv2.functional.random import draw_target_class, image_generators, per_image
from lightning_adv2.functional.validity import is_finite, unfit_images, unfit_maps
from lightning_adv2.interpreters import Interpreter
from lightning_adv2.models import Classifier
from lightning_adv2.results.records import AttackRecord, BatchRecord, record_key, to_uint8
from lightning_adv2.types import Batch

Progress = Callable[[Attack, int], None]


@dataclass
class Timed:
    """An attack's result for all images that the classifier gets right, and the seconds that it took.

    ``flags`` say why its figures may not be robustness.
    """

    result: AttackResult
    seconds: float
    flags: list[str]


@dataclass
class Shared:
    """What several interpreters of one batch need done only once.

    Attributes:
        attacks: what attacks that ignore the map did, by their keys.
        accelerated: what attacks that ignore the map take their gradients through.
        network: what :func:`~lightning_adv2.attacks.diagnosis.network_flags` says of all images that are right.
    """

    attacks: dict[str, Timed] = field(default_factory=dict)
    network: dict[str, Tensor] = field(default_factory=dict)
    accelerated: AcceleratedCopy | None = None


def attack_batch(
    classifier: Classifier,
    interpreter: Interpreter,
    batch: Batch,
    attacks: Sequence[AttackRecipe],
    *,
    batch_index: int,
    seed: int = 0,
    target: Target | None = None,
    on_step: Progress | None = None,
    shared: Shared | None = None,
    place: int = 0,
    accelerated: AcceleratedCopy | None = None,
) -> BatchRecord:
    """Run the controls and every attack on the images of a batch that the classifier gets right.

    The controls make the numbers readable: ``noise`` is uniform noise within the first pixel attack's epsilon (0.031
    without one), on a grey image the same in all channels unless that attack has ``keep_grey=False``; ``target_class``
    is the *benign* image explained for the target class, so it shows how far the map moves by the question alone. For
    the same reason every image, benign and attacked, is explained for the true and for the target class: between two
    maps for one class the question is the same, and what differs is the attack's.

    Args:
        classifier: the victim, in eval mode.
        interpreter: the victim's interpreter, in eval mode.
        batch: as the dataloaders yield it; without ``target_class`` one is drawn per image.
        attacks: in the order of the table; each is fitted to the interpreter.
        batch_index: names the record.
        seed: for target classes, target maps, noise and whatever an attack draws.
        target: makes the target maps; None takes the benign ones.
        on_step: called with the attack and the number of its steps done.
        shared: what was done for another interpreter of this very batch; what it lacks is done and added.
        place: the interpreter's place among several, for the record.
        accelerated: what attacks on the map take their gradients through; see
            :func:`~lightning_adv2.attacks.make_accelerated_copy`.
    """
    target, shared = target or BenignMap(), Shared() if shared is None else shared
    with torch.no_grad():
        logits = classifier(batch["images"])
    # NaN never counts as robust: what cannot be classified or explained, or has no target, is not attacked but named.
    unfit, correct = unfit_images(batch["images"], logits), (logits.argmax(1) == batch["label"]).tolist()
    invalid = {name: reason for name, reason in zip(batch["image_id"], unfit, strict=True) if reason}
    right = [i for i, reason in enumerate(unfit) if correct[i] and not reason]
    names = [batch["image_id"][i] for i in right]
    images, label = batch["images"][right], batch["label"][right]
    if "target_class" in batch:
        target_class = batch["target_class"][right]
    else:
        target_class = draw_target_class(label, classifier.num_classes, image_generators(seed, names, "target_class"))
    benign_map = target_map = interpreter.explain(classifier, batch["images"], batch["label"]).attribution_map[right]
    if right:
        others = [batch.get("other_images"), batch.get("other_label")]
        generators = image_generators(seed, names, "target_map")
        request = TargetRequest(
            classifier, interpreter, images, label, target_class, benign_map, names, generators,
            *(None if other is None else other[right] for other in others),
        )  # fmt: skip
        target_map = target(request)
    unfit = unfit_maps(benign_map, target_map)
    invalid |= {name: reason for name, reason in zip(names, unfit, strict=True) if reason}
    keep = [k for k, reason in enumerate(unfit) if not reason]
    ids = [names[k] for k in keep]
    record = BatchRecord(
        batch_index=batch_index,
        image_id=ids,
        label=label[keep].cpu(),
        target_class=target_class[keep].cpu(),
        images=to_uint8(images[keep]),
        benign_map=benign_map[keep].float().cpu(),
        benign_map_target_class=benign_map[keep].float().cpu(),  # below, where there is an image
        target_map=target_map[keep].float().cpu(),
        already_wrong=[name for i, name in enumerate(batch["image_id"]) if not correct[i] and name not in invalid],
        invalid=invalid,
        skipped=dict(batch.get("skipped", {})),
        attacks=[],
        interpreter=interpreter.name,
        place=place,
        target=target.name,
    )
    if not ids:
        return record
    inputs = AttackInputs(classifier, interpreter, images[keep], target_class[keep], target_map[keep], [])
    bound = [attack.against(interpreter) for attack in attacks]
    look = partial(evaluate_images, inputs, label[keep])
    shared.network = shared.network or network_flags(classifier, images, target_class)
    run = partial(_run, on_step=on_step)
    record.attacks += _controls(inputs, look, benign_map[keep], bound, image_generators(seed, ids, "noise"))
    record.benign_map_target_class = record.attacks[1].adv_map  # that control is just this
    for attack in bound:
        if attack.needs_map:
            network = {name: concerned[keep] for name, concerned in shared.network.items()}
            timed = run(attack, replace(inputs, generators=image_generators(seed, ids, "attack")), network, accelerated)
            result = timed.result
        else:
            if (key := record_key(attack.name, attack.schedule)) not in shared.attacks:
                # On all that are right, so that it does not matter which of them an interpreter can explain.
                generators = image_generators(seed, names, "attack")
                alone = AttackInputs(classifier, None, images, target_class, None, generators)
                shared.attacks[key] = run(attack, alone, shared.network, shared.accelerated)
            timed = shared.attacks[key]
            result = _rows(timed.result, keep)
        # An attack that aims at the map hands over what its images show for the target class.
        aimed = result.attribution_map if result.attribution_map.numel() else None
        evaluated = look(result.adv_images, target_class_map=aimed)
        kept = evaluated_record(
            attack.name, attack.schedule, timed.seconds, result.adv_images, evaluated, result.norm,
            role="joint" if attack.needs_map else "class", threat_model=attack.perturbation.threat_model,
        )  # fmt: skip
        kept.steps, kept.unit, kept.flags = attack.steps, attack.perturbation.unit, timed.flags
        kept.epsilon = getattr(attack.perturbation, "epsilon", None)
        kept.valid &= result.valid.cpu()
        kept.steps_taken = result.steps_taken.cpu()
        kept.trace = {name: curve.float().cpu() for name, curve in result.trace.items()}
        record.attacks.append(kept)
    for kept in record.attacks:  # without it there is nothing to compare the target class's map with
        kept.valid &= is_finite(record.benign_map_target_class)
    return record


def _controls(
    inputs: AttackInputs,
    look: Callable[..., EvaluatedImages],
    benign_map: Tensor,
    attacks: Sequence[Attack],
    generators: Sequence[Generator],
) -> list[AttackRecord]:
    start = time.perf_counter()
    images, shape = inputs.images, inputs.images.shape[1:]
    pixels = next((a.perturbation for a in attacks if isinstance(a.perturbation, PixelDelta)), PixelDelta())
    epsilon = pixels.epsilon
    noise = pixels.first_channel(
        images, per_image(lambda g: 2 * torch.rand(shape, generator=g) - 1, generators, images)
    )
    noisy = quantize((images + epsilon * noise).clamp(0, 1), images, epsilon)
    evaluated, norm = look(noisy), perturbation_norm(noisy, images)
    first = evaluated_record("noise", "control", time.perf_counter() - start, noisy, evaluated, norm)
    first.epsilon = epsilon
    start = time.perf_counter()
    evaluated = look(images, true_class_map=benign_map, explained=inputs.target_class)
    second = evaluated_record(
        "target_class", "control", time.perf_counter() - start, images, evaluated, torch.zeros_like(norm),
        threat_model="none",
    )  # fmt: skip
    second.epsilon = 0.0  # the benign images themselves
    return [first, second]


def _run(
    attack: Attack,
    inputs: AttackInputs,
    network: dict[str, Tensor],
    accelerated: AcceleratedCopy | None,
    *,
    on_step: Progress | None,
) -> Timed:
    start = time.perf_counter()
    result = run_attack(
        attack,
        inputs.classifier,
        inputs.interpreter,
        inputs.images,
        inputs.target_class,
        inputs.target_map,
        generators=inputs.generators,
        accelerated=accelerated,
        on_step=None if on_step is None else partial(on_step, attack),
    )
    result.adv_images.cpu()  # waits for the device, so the time is taken after it
    seconds = time.perf_counter() - start
    looked_at = inputs.classifier, inputs.interpreter, inputs.images, inputs.target_class, inputs.target_map
    return Timed(result, seconds, flags(attack, *looked_at, result, network))


def _rows(result: AttackResult, keep: list[int]) -> AttackResult:
    """The result for some of the images."""
    values = {f.name: getattr(result, f.name) for f in fields(result)}
    chosen: dict[str, Any] = {name: value[keep] for name, value in values.items() if isinstance(value, Tensor)}
    return replace(result, **chosen, trace={name: curve[:, keep] for name, curve in result.trace.items()})
