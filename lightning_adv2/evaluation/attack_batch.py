"""Attack one batch and keep what happened; needs no Trainer."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, fields, replace
from functools import partial
from typing import Any, TypeAlias

import torch
from torch import Tensor

from lightning_adv2.attacks import (
    AcceleratedCopy,
    Attack,
    AttackInputs,
    AttackRecipe,
    AttackResult,
    checked_inputs,
    optimise,
)
from lightning_adv2.attacks.diagnosis import flags, network_flags
from lightning_adv2.attacks.targets import BenignMap, Target, TargetRequest
from lightning_adv2.evaluation.controls import control_records
from lightning_adv2.evaluation.evaluated_images import EvaluatedImages, evaluate_images
from lightning_adv2.functional.random import draw_target_class, image_generators
from lightning_adv2.functional.validity import is_finite, unfit_images, unfit_maps
from lightning_adv2.interpreters import Interpreter
from lightning_adv2.models import Classifier
from lightning_adv2.results.records import AttackRecord, BatchRecord, record_key, to_uint8
from lightning_adv2.types import Batch

Progress: TypeAlias = Callable[[Attack, int], None]
"""Called with an attack and the number of its steps done."""

Copies: TypeAlias = Callable[[Interpreter | None], AcceleratedCopy]
"""Makes the victim's accelerated copy for the attacks on an interpreter, or on the classifier alone."""


@dataclass
class TimedResult:
    """An attack's result, its wall-clock seconds, and the flags that say why its figures may not be robustness."""

    result: AttackResult
    seconds: float
    flags: list[str]

    def rows(self, keep: list[int]) -> TimedResult:
        """The result of some of the images; seconds and flags stay those of all."""
        values = {f.name: getattr(self.result, f.name) for f in fields(self.result)}
        chosen: dict[str, Any] = {name: value[keep] for name, value in values.items() if isinstance(value, Tensor)}
        trace = {name: curve[:, keep] for name, curve in self.result.trace.items()}
        return replace(self, result=replace(self.result, **chosen, trace=trace))


@dataclass
class Shared:
    """An evaluation's settings for one batch, and the results that all interpreters of the batch share.

    Attributes:
        batch_index: the batch's index in the manifest; names the record.
        seed: for target classes, target maps, noise and all random numbers of the attacks.
        target: makes the target maps.
        copies: makes the copies of the victim that attacks take their gradients through; None takes the victim itself.
        attacks: results of the attacks that ignore the map, by their keys, for all images that the classifier gets
            right.
        network: :func:`~lightning_adv2.attacks.diagnosis.network_flags` of the same images.
    """

    batch_index: int = 0
    seed: int = 0
    target: Target = field(default_factory=BenignMap)
    copies: Copies | None = None
    attacks: dict[str, TimedResult] = field(default_factory=dict)
    network: dict[str, Tensor] = field(default_factory=dict)

    def copy_for(self, interpreter: Interpreter | None) -> AcceleratedCopy | None:
        """The copy for the attacks on an interpreter, or on the classifier alone; None for the victim itself."""
        return None if self.copies is None else self.copies(interpreter)

    def for_part(self) -> Shared:
        """The same settings, without results, for a part of the batch."""
        return replace(self, attacks={}, network={})


def attack_batch(
    classifier: Classifier,
    interpreter: Interpreter,
    batch: Batch,
    attacks: Sequence[AttackRecipe],
    shared: Shared | None = None,
    on_step: Progress | None = None,
) -> BatchRecord:
    """The record of a batch: the controls and every attack, on the images that the classifier gets right.

    Every image, benign and attacked, is explained for the true class and for the target class: two maps for one class
    differ by the attack alone. See :func:`~lightning_adv2.evaluation.controls.control_records` for the controls.

    Args:
        classifier: the victim, in eval mode.
        interpreter: the victim's interpreter, in eval mode.
        batch: as the dataloaders yield it; without ``target_class`` one is drawn per image.
        attacks: in the order of the table; each is fitted to the interpreter.
        shared: the settings, and the results for other interpreters of this batch; missing results are added. None
            takes the defaults.
        on_step: called with the attack and the number of its steps done.

    Returns:
        The record of n <= B images, with ``place`` 0. Images that cannot be classified or explained, or have no finite
        target map, are left out and named in ``invalid``.

    Raises:
        TypeError: the classifier, or the interpreter, is of another type or returns another type.
        ValueError: shapes, ranges or modes do not fit; names the argument.
        RuntimeError: under ``torch.inference_mode``, or out of memory.
    """
    shared = Shared() if shared is None else shared
    with torch.no_grad():
        logits = classifier(batch["images"])
    unfit, correct = unfit_images(batch["images"], logits), (logits.argmax(1) == batch["label"]).tolist()
    invalid = {name: reason for name, reason in zip(batch["image_id"], unfit, strict=True) if reason}
    rows = [i for i, reason in enumerate(unfit) if correct[i] and not reason]
    names, label = [batch["image_id"][i] for i in rows], batch["label"][rows]
    right = AttackInputs(classifier, None, batch["images"][rows], _target_class(classifier, batch, rows, shared.seed))
    benign_map = interpreter.explain(classifier, batch["images"], batch["label"]).attribution_map[rows]
    target_map = benign_map
    if rows:
        others, other_label = batch.get("other_images"), batch.get("other_label")
        target_map = shared.target(
            TargetRequest(
                classifier, interpreter, right.images, label, right.target_class, benign_map, names,
                image_generators(shared.seed, names, "target_map"),
                other_images=None if others is None else others[rows],
                other_label=None if other_label is None else other_label[rows],
            )
        )  # fmt: skip
    unfit = unfit_maps(benign_map, target_map)
    invalid |= {name: reason for name, reason in zip(names, unfit, strict=True) if reason}
    keep = [k for k, reason in enumerate(unfit) if not reason]
    ids, label, benign_map, target_map = [names[k] for k in keep], label[keep], benign_map[keep], target_map[keep]
    record = BatchRecord(
        batch_index=shared.batch_index,
        image_id=ids,
        label=label.cpu(),
        target_class=right.target_class[keep].cpu(),
        images=to_uint8(right.images[keep]),
        benign_map=benign_map.float().cpu(),
        benign_map_target_class=torch.empty(benign_map.shape),
        target_map=target_map.float().cpu(),
        already_wrong=[name for i, name in enumerate(batch["image_id"]) if not correct[i] and name not in invalid],
        invalid=invalid,
        skipped=dict(batch.get("skipped", {})),
        attacks=[],
        interpreter=interpreter.name,
        target=shared.target.name,
    )
    if not ids:
        return record
    inputs = checked_inputs(classifier, interpreter, right.images[keep], right.target_class[keep], target_map)
    shared.network = shared.network or network_flags(right)
    evaluate = partial(evaluate_images, inputs, label)
    fitted = [attack.against(interpreter) for attack in attacks]
    noise = image_generators(shared.seed, ids, "noise")
    record.attacks += control_records(replace(inputs, generators=noise), evaluate, benign_map, fitted)
    for attack in fitted:
        if attack.needs_map:
            timed = _attack_map(attack, inputs, ids, keep, shared, on_step)
        else:
            timed = _attack_class(attack, right, names, shared, on_step).rows(keep)
        # An attack that aims at the map hands over the maps of its images for the target class.
        aimed = timed.result.attribution_map if timed.result.attribution_map.numel() else None
        record.attacks.append(_attack_record(attack, timed, evaluate(timed.result.adv_images, target_class_map=aimed)))
    record.benign_map_target_class = record.attacks[1].adv_map  # the control of that name
    for kept in record.attacks:  # maps for the target class are compared with the benign one
        kept.valid &= is_finite(record.benign_map_target_class)
    return record


def _target_class(classifier: Classifier, batch: Batch, rows: Sequence[int], seed: int) -> Tensor:
    """The target classes of some images of a batch, ``(n,)``: the batch's own, or drawn from each image's generator."""
    if "target_class" in batch:
        return batch["target_class"][rows]
    generators = image_generators(seed, [batch["image_id"][i] for i in rows], "target_class")
    return draw_target_class(batch["label"][rows], classifier.num_classes, generators)


def _attack_map(
    attack: Attack, inputs: AttackInputs, ids: list[str], keep: list[int], shared: Shared, on_step: Progress | None
) -> TimedResult:
    """The result of an attack that aims at the map, on the images ``keep`` of those that the classifier gets right."""
    inputs = replace(inputs, generators=image_generators(shared.seed, ids, "attack"))
    network = {name: concerned[keep] for name, concerned in shared.network.items()}
    return _timed(attack, inputs, network, shared.copy_for(inputs.interpreter), on_step)


def _attack_class(
    attack: Attack, right: AttackInputs, names: list[str], shared: Shared, on_step: Progress | None
) -> TimedResult:
    """The result of an attack that ignores the map, on all images that the classifier gets right; run once a batch.

    Which of these images an interpreter can explain so makes no difference to it.
    """
    key = record_key(attack.name, attack.schedule)
    if key not in shared.attacks:
        inputs = replace(right, generators=image_generators(shared.seed, names, "attack"))
        shared.attacks[key] = _timed(attack, inputs, shared.network, shared.copy_for(None), on_step)
    return shared.attacks[key]


def _timed(
    attack: Attack,
    inputs: AttackInputs,
    network: dict[str, Tensor],
    accelerated: AcceleratedCopy | None,
    on_step: Progress | None,
) -> TimedResult:
    start = time.perf_counter()
    told = None if on_step is None else partial(on_step, attack)
    result = optimise(attack, inputs, accelerated=accelerated, on_step=told)
    result.adv_images.cpu()  # waits for the device, so the time is taken after it
    seconds = time.perf_counter() - start
    return TimedResult(result, seconds, flags(attack, inputs, result, network))


def _attack_record(attack: Attack, timed: TimedResult, evaluated: EvaluatedImages) -> AttackRecord:
    result, perturbation = timed.result, attack.perturbation
    record = AttackRecord(
        attack.name, attack.schedule, attack.steps, timed.seconds,
        role="joint" if attack.needs_map else "class", threat_model=perturbation.threat_model,
        adv_images=to_uint8(result.adv_images), size=result.norm.float().cpu(), unit=perturbation.unit,
        steps_taken=result.steps_taken.cpu(), flags=timed.flags, epsilon=getattr(perturbation, "epsilon", None),
        trace={name: curve.float().cpu() for name, curve in result.trace.items()}, **evaluated.record_fields(),
    )  # fmt: skip
    record.valid &= result.valid.cpu()
    return record
