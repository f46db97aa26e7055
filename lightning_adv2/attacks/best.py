"""Which of the iterates that an attack saw is kept."""

from __future__ import annotations

import torch
from torch import Tensor

from lightning_adv2.functional.agreement import map_iou, map_l1
from lightning_adv2.functional.losses import map_mse


class Best:
    """The best iterate of each image: confident ones first, by map loss; then successful ones; then the most likely.

    Args:
        min_confidence: an iterate counts as confident from this target probability on.
        images: ``(B, C, H, W)``, kept while nothing was offered.
        parameter: ``(B, ...)``, the same.
        target_class: ``(B,)``.
        target_map: ``(B, 1, h, w)``, or None.
        by_map: False for an attack that ignores the map: in place of the map loss the greater confidence decides.
    """

    def __init__(
        self,
        min_confidence: float,
        images: Tensor,
        parameter: Tensor,
        target_class: Tensor,
        target_map: Tensor | None,
        *,
        by_map: bool = True,
    ) -> None:
        self.min_confidence, self.target_class, self.target_map = min_confidence, target_class, target_map
        self.by_map = by_map
        count = len(images)
        self.adv_images, self.parameter = images, parameter.detach()
        self.rank = images.new_full((count,), float("inf"))
        self.success = torch.zeros(count, dtype=torch.bool, device=images.device)
        self.confidence = images.new_zeros(count)
        self.score = images.new_zeros(count)
        self.attribution_map = images.new_zeros(target_map.shape if target_map is not None else (count, 1, 0, 0))
        self.trace: list[dict[str, Tensor]] = []

    def offer(self, adv_images: Tensor, parameter: Tensor, logits: Tensor, attribution_map: Tensor | None) -> None:
        """Keep it where it is better; an earlier one stays where both are as good."""
        confidence = logits.softmax(1).gather(1, self.target_class[:, None])[:, 0]
        success = logits.argmax(1) == self.target_class
        if attribution_map is not None and self.target_map is not None:
            score = map_mse(attribution_map, self.target_map)
            l1, iou = map_l1(attribution_map, self.target_map), map_iou(attribution_map, self.target_map)
            self.trace.append({"confidence": confidence, "success": success, "l1": l1, "iou": iou})
        else:
            score = torch.zeros_like(confidence)
        confident = success & (confidence >= self.min_confidence)
        # Both lie in [0, 1], so the three tiers do not overlap; NaN ranks behind everything.
        loss = score if self.by_map else 1 - confidence
        rank = torch.where(confident, loss, torch.where(success, 2 + loss, 5 - confidence))
        rank = torch.where(confidence.isfinite() & score.isfinite(), rank, 9.0)
        better = rank < self.rank
        wide = better.view(-1, 1, 1, 1)
        self.rank = torch.where(better, rank, self.rank)
        self.adv_images = torch.where(wide, adv_images, self.adv_images)
        self.parameter = torch.where(wide, parameter.detach(), self.parameter)
        self.success = torch.where(better, success, self.success)
        self.confidence = torch.where(better, confidence, self.confidence)
        self.score = torch.where(better, score, self.score)
        if attribution_map is not None and self.target_map is not None:
            self.attribution_map = torch.where(wide, attribution_map, self.attribution_map)
