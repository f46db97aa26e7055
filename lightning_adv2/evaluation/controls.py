"""The controls of an evaluation: images that no attack made, beside which an attack's figures can be read."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from lightning_adv2.attacks import Attack, AttackInputs, PixelDelta
from lightning_adv2.evaluation.evaluated_images import EvaluatedImages
from lightning_adv2.functional.agreement import perturbation_norm
from lightning_adv2.functional.projection import quantize
from lightning_adv2.functional.random import per_image
from lightning_adv2.results.records import AttackRecord, to_uint8


def control_records(
    inputs: AttackInputs,
    evaluate: Callable[..., EvaluatedImages],
    benign_map: Tensor,
    attacks: Sequence[Attack],
) -> list[AttackRecord]:
    """The records of the two controls, ``noise`` and ``target_class``.

    ``noise`` is uniform noise within the epsilon of the first pixel attack (0.031 without a pixel attack), the same in
    all channels of a grey image unless that attack has ``keep_grey=False``. ``target_class`` is the benign image
    explained for the target class: how far the map moves because another class is asked for.

    Args:
        inputs: the n images, with the generators of the noise.
        evaluate: :func:`~lightning_adv2.evaluation.evaluated_images.evaluate_images` of these inputs.
        benign_map: ``(n, 1, h, w)`` in [0, 1], of the benign images for their true class.
        attacks: those of the evaluation.
    """
    images, shape = inputs.images, inputs.images.shape[1:]
    pixels = next((a.perturbation for a in attacks if isinstance(a.perturbation, PixelDelta)), PixelDelta())

    def record(
        name: str, threat_model: str, epsilon: float, start: float, adv_images: Tensor, evaluated: EvaluatedImages
    ) -> AttackRecord:
        return AttackRecord(
            name, "control", 0, time.perf_counter() - start, role="control", threat_model=threat_model, epsilon=epsilon,
            adv_images=to_uint8(adv_images), size=perturbation_norm(adv_images, images).float().cpu(),
            steps_taken=torch.zeros(len(images), dtype=torch.int64), **evaluated.record_fields(),
        )  # fmt: skip

    start = time.perf_counter()
    drawn = per_image(lambda g: 2 * torch.rand(shape, generator=g) - 1, inputs.generators, images)
    noise = pixels.epsilon * pixels.first_channel(images, drawn)
    noisy = quantize((images + noise).clamp(0, 1), images, pixels.epsilon)
    first = record("noise", pixels.threat_model, pixels.epsilon, start, noisy, evaluate(noisy))
    start = time.perf_counter()
    asked = evaluate(images, true_class_map=benign_map, explained=inputs.target_class)
    return [first, record("target_class", "none", 0.0, start, images, asked)]
