"""The best iterate of each image among those that an attack saw."""

from __future__ import annotations

import torch
from torch import Tensor

from lightning_adv2.attacks.objective import AttackInputs
from lightning_adv2.functional.agreement import map_iou, map_l1
from lightning_adv2.functional.classes import of_class
from lightning_adv2.functional.losses import map_mse
from lightning_adv2.types import Interpretation


class Best:
    """The best iterate of each image: confident ones first, by map loss; then successful ones; then the most likely.

    The paper's scripts keep the smallest l_int among the iterates with f_ct > 0.8.

    Args:
        inputs: of B images; the benign images are kept until an iterate is offered.
        parameter: ``(B, ...)``, that of the benign images.
        min_confidence: an iterate counts as confident from this target probability on, in [0, 1).
        by_map: False for an attack that ignores the map: the greater confidence decides, not the map loss.

    Attributes:
        adv_images: ``(B, C, H, W)``, the best iterates.
        parameter: ``(B, ...)``, the perturbation's.
        rank: ``(B,)``; see :func:`rank`.
        success: ``(B,)`` bool.
        confidence: ``(B,)`` in [0, 1].
        score: ``(B,)``, l_int, in [0, 1].
        attribution_map: ``(B, 1, h, w)`` in [0, 1].
        trace: for each iterate with a map ``confidence``, ``success``, ``l1`` and ``iou``, each ``(B,)``.
    """

    def __init__(
        self,
        inputs: AttackInputs,
        parameter: Tensor,
        min_confidence: float,
        *,
        by_map: bool = True,
    ) -> None:
        images, target_map = inputs.images, inputs.target_map
        self.target_class, self.target_map = inputs.target_class, target_map
        self.min_confidence, self.by_map = min_confidence, by_map
        count = len(images)
        self.adv_images, self.parameter = images, parameter.detach()
        self.rank = images.new_full((count,), float("inf"))
        self.success = torch.zeros(count, dtype=torch.bool, device=images.device)
        self.confidence = images.new_zeros(count)
        self.score = images.new_zeros(count)
        self.attribution_map = images.new_zeros(target_map.shape if target_map is not None else (count, 1, 0, 0))
        self.trace: list[dict[str, Tensor]] = []

    def offer(
        self, adv_images: Tensor, parameter: Tensor, interpretation: Interpretation, rows: Tensor | None = None
    ) -> None:
        """Keep an iterate for each image for which it ranks better; of equals the earlier one stays.

        Args:
            adv_images: ``(b, C, H, W)``, the iterate.
            parameter: ``(b, ...)``, the perturbation's.
            interpretation: of the iterate; its map is empty where the attack has none.
            rows: ``(b,)`` int64, the images' indices in the batch; None for all, b = B.
        """
        attribution_map = interpretation.attribution_map
        outcome = evaluate_logits(interpretation.logits, _at(self.target_class, rows))
        new = {"adv_images": adv_images, "parameter": parameter.detach(), **outcome}
        if self.target_map is not None and attribution_map.shape[-1]:
            target_map = _at(self.target_map, rows)
            new |= {"score": map_mse(attribution_map, target_map), "attribution_map": attribution_map}
            l1, iou = map_l1(attribution_map, target_map), map_iou(attribution_map, target_map)
            self._record(rows, confidence=new["confidence"], success=new["success"], l1=l1, iou=iou)
        else:
            new["score"] = torch.zeros_like(new["confidence"])
        loss = new["score"] if self.by_map else None
        new["rank"] = rank(new["success"], new["confidence"], self.min_confidence, loss)
        better = new["rank"] < _at(self.rank, rows)
        for name, value in new.items():
            old = getattr(self, name)
            kept = torch.where(better.view(-1, *[1] * (value.dim() - 1)), value, _at(old, rows))
            setattr(self, name, kept if rows is None else old.index_copy(0, rows, kept))

    def _record(self, rows: Tensor | None, **seen: Tensor) -> None:
        """One row of the trace; images that are no longer moved repeat their last values."""
        if rows is not None and self.trace:
            seen = {name: self.trace[-1][name].index_copy(0, rows, value) for name, value in seen.items()}
        self.trace.append(seen)


def evaluate_logits(logits: Tensor, target_class: Tensor) -> dict[str, Tensor]:
    """Success and confidence of an iterate (the paper's measures ASR and MC, section 4).

    Args:
        logits: ``(B, K)``.
        target_class: ``(B,)`` in [0, K).

    Returns:
        ``success`` ``(B,)`` bool and ``confidence`` ``(B,)`` in [0, 1].
    """
    confidence = of_class(logits.softmax(1), target_class)
    return {"success": logits.argmax(1) == target_class, "confidence": confidence}


def rank(success: Tensor, confidence: Tensor, min_confidence: float, loss: Tensor | None = None) -> Tensor:
    """The rank of an iterate, less is better: in [0, 1] where it is confident, then by ``loss``.

    Args:
        success: ``(B,)`` bool.
        confidence: ``(B,)`` in [0, 1].
        min_confidence: in [0, 1).
        loss: ``(B,)`` in [0, 1]; None takes 1 - ``confidence``.

    Returns:
        ``(B,)``: the loss for confident iterates, 2 + loss for successful ones, 5 - confidence for failed ones, and 9
        where confidence or loss is not finite.
    """
    confident = success & (confidence >= min_confidence)
    loss = 1 - confidence if loss is None else loss
    # All lie in [0, 1], so the three tiers do not overlap.
    ranks = torch.where(confident, loss, torch.where(success, 2 + loss, 5 - confidence))
    return torch.where(confidence.isfinite() & loss.isfinite(), ranks, 9.0)


def _at(values: Tensor, rows: Tensor | None) -> Tensor:
    return values if rows is None else values[rows]
