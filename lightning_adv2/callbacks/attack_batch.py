"""Attack one batch and keep what happened; needs no Trainer."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from functools import partial

import torch
from torch import Tensor

from lightning_adv2.attacks import Attack, PixelDelta, run_attack
from lightning_adv2.functional.projection import quantize
from lightning_adv2.functional.random import draw_target_class, image_generators, per_image
from lightning_adv2.interpreters import Interpreter
from lightning_adv2.models import Classifier
from lightning_adv2.report.records import AttackRecord, BatchRecord, to_uint8
from lightning_adv2.types import Batch

Progress = Callable[[Attack, int], None]


def attack_batch(
    classifier: Classifier,
    interpreter: Interpreter,
    batch: Batch,
    attacks: Sequence[Attack],
    *,
    batch_index: int,
    seed: int = 0,
    on_step: Progress | None = None,
) -> BatchRecord:
    """Run the controls and every attack on the images of a batch that the classifier gets right.

    The controls make the numbers readable: ``noise`` is uniform noise of the attack's size; ``target_class`` is the
    *benign* image explained for the target class, so it shows how far the map moves by the question alone.

    Args:
        classifier: the victim, in eval mode.
        interpreter: the victim's interpreter, in eval mode.
        batch: as the dataloaders yield it; without ``target_class`` one is drawn per image.
        attacks: in the order of the table.
        batch_index: names the record.
        seed: for target classes, noise and whatever an attack draws.
        on_step: called with the attack and the number of its steps done.
    """
    with torch.no_grad():
        logits = classifier(batch["images"])
    benign_map = interpreter.explain(classifier, batch["images"], batch["label"]).attribution_map
    # NaN never counts as robust: what cannot be explained is not attacked, and said so.
    finite = logits.isfinite().all(1) & benign_map.flatten(1).isfinite().all(1)
    correct = logits.argmax(1) == batch["label"]
    keep = (correct & finite).nonzero()[:, 0].tolist()
    ids = [batch["image_id"][i] for i in keep]
    images, label = batch["images"][keep], batch["label"][keep]
    if "target_class" in batch:
        target_class = batch["target_class"][keep]
    else:
        target_class = draw_target_class(label, classifier.num_classes, image_generators(seed, ids, "target_class"))
    benign_map = benign_map[keep]
    record = BatchRecord(
        batch_index=batch_index,
        image_id=ids,
        label=label.cpu(),
        target_class=target_class.cpu(),
        images=to_uint8(images),
        benign_map=benign_map.float().cpu(),
        target_map=benign_map.float().cpu(),
        already_wrong=_named(batch["image_id"], finite & ~correct),
        invalid=_named(batch["image_id"], ~finite),
        attacks=[],
    )
    if not ids:
        return record

    def judge(adv_images: Tensor, explained: Tensor | None = None) -> tuple[Tensor, Tensor, Tensor]:
        """Map (for the predicted class unless another is asked for), predicted class, target probability."""
        with torch.no_grad():
            logits = classifier(adv_images)
        predicted = logits.argmax(1)
        shown = interpreter.explain(classifier, adv_images, predicted if explained is None else explained)
        confidence = logits.softmax(1).gather(1, target_class[:, None])[:, 0]
        return shown.attribution_map, predicted, confidence

    def keep_record(
        name: str, schedule: str, steps: int, start: float, adv_images: Tensor, judged: tuple[Tensor, Tensor, Tensor]
    ) -> AttackRecord:
        adv_map, predicted, confidence = judged
        valid = adv_map.flatten(1).isfinite().all(1) & confidence.isfinite()
        # .cpu() waits for the device, so the time is taken after it.
        kept = to_uint8(adv_images), adv_map.float().cpu(), predicted.cpu(), confidence.float().cpu(), valid.cpu()
        attack_record = AttackRecord(name, schedule, steps, time.perf_counter() - start, *kept)
        record.attacks.append(attack_record)
        return attack_record

    start = time.perf_counter()
    epsilon = next((a.perturbation.epsilon for a in attacks if isinstance(a.perturbation, PixelDelta)), 0.031)
    shape = images.shape[1:]
    noise = per_image(lambda g: 2 * torch.rand(shape, generator=g) - 1, image_generators(seed, ids, "noise"), images)
    noisy = quantize((images + epsilon * noise).clamp(0, 1), images, epsilon)
    keep_record("noise", "control", 0, start, noisy, judge(noisy))
    start = time.perf_counter()
    keep_record("target_class", "control", 0, start, images, judge(images, target_class))

    for attack in attacks:
        start = time.perf_counter()
        result = run_attack(
            attack,
            classifier,
            interpreter if attack.needs_map else None,
            images,
            target_class,
            benign_map if attack.needs_map else None,
            generators=image_generators(seed, ids, "attack"),
            on_step=None if on_step is None else partial(on_step, attack),
        )
        kept = keep_record(
            attack.name, attack.schedule, attack.steps, start, result.adv_images, judge(result.adv_images)
        )
        kept.valid &= result.valid.cpu()
        kept.trace = {name: curve.float().cpu() for name, curve in result.trace.items()}
    return record


def _named(image_id: Sequence[str], chosen: Tensor) -> list[str]:
    return [name for name, is_chosen in zip(image_id, chosen.tolist(), strict=True) if is_chosen]
