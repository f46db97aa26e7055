"""What classifier and interpreter say of attacked images, as a record keeps it."""

from __future__ import annotations

from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor

from lightning_adv2.attacks import AttackInputs
from lightning_adv2.functional.validity import is_finite


class EvaluatedImages(NamedTuple):
    """What is said of n images; see :class:`~lightning_adv2.results.records.AttackRecord` for the names.

    Maps are ``(n, 1, h, w)``, all else ``(n,)``, all on the device of the images.
    """

    adv_map: Tensor
    adv_map_true_class: Tensor
    adv_map_target_class: Tensor
    adv_predicted: Tensor
    confidence: Tensor

    def record_fields(self) -> dict[str, Any]:
        """The record's fields by name, on the CPU, with ``valid``: ``(n,)``, nothing is NaN or infinite."""
        maps = self.adv_map, self.adv_map_true_class, self.adv_map_target_class
        valid = torch.stack([is_finite(one) for one in maps]).all(0) & self.confidence.isfinite()
        values = {name: value.float() for name, value in self._asdict().items() if name != "adv_predicted"}
        values |= {"adv_predicted": self.adv_predicted, "valid": valid}
        return {name: value.cpu() for name, value in values.items()}


def evaluate_images(
    inputs: AttackInputs,
    label: Tensor,
    adv_images: Tensor,
    *,
    true_class_map: Tensor | None = None,
    target_class_map: Tensor | None = None,
    explained: Tensor | None = None,
) -> EvaluatedImages:
    """Explain images for the label, for the target class, and for the class that is predicted.

    Nothing is explained twice, for that would double the time of an interpreter that iterates: the class predicted is
    nearly always one of the other two.

    Args:
        inputs: the victim, its interpreter and the target classes.
        label: ``(n,)``.
        adv_images: ``(n, C, H, W)`` in [0, 1].
        true_class_map: what the images show for the label, where that is known.
        target_class_map: what they show for the target class, where that is known.
        explained: ``(n,)``, a class to explain in place of the predicted one.
    """
    assert inputs.interpreter is not None  # the caller set it
    explain = partial(inputs.interpreter.explain, inputs.classifier)
    if true_class_map is None:  # the logits come with it
        shown = explain(adv_images, label)
        logits, true_class_map = shown.logits, shown.attribution_map
    else:
        with torch.no_grad():
            logits = inputs.classifier(adv_images)
    predicted, target_class = logits.argmax(1), inputs.target_class
    confidence = logits.softmax(1).gather(1, target_class[:, None])[:, 0]
    confidence = torch.where(is_finite(logits), confidence, torch.nan)  # minus infinity alone leaves it at 0
    if target_class_map is None:
        target_class_map = explain(adv_images, target_class).attribution_map
    asked = predicted if explained is None else explained
    adv_map = torch.where((asked == target_class).view(-1, 1, 1, 1), target_class_map, true_class_map)
    third = (asked != target_class) & (asked != label)
    if third.any():
        adv_map[third] = explain(adv_images[third], asked[third]).attribution_map
    return EvaluatedImages(adv_map, true_class_map, target_class_map, predicted, confidence)
