"""How good an interpreter's maps are on benign images, before anything is said about its robustness."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import cast

import torch
from torch import Tensor, nn

from lightning_adv2.functional.agreement import map_iou
from lightning_adv2.functional.faithfulness import deletion_insertion, preserved_destroyed
from lightning_adv2.functional.masking import resize_map, uninformative
from lightning_adv2.functional.random import image_generators, per_image
from lightning_adv2.metrics.attack import ImageMean


class MapQuality(nn.Module):
    """Means over images of what a map keeps, removes, orders and finds.

    ``area`` mean of the map; ``preserved``, ``destroyed`` f_c under phi(x; m) and phi(x; 1 - m); ``shuffled`` f_c under
    another image's map (a map that says nothing preserves as much); ``deletion``, ``insertion`` and the same for a
    random map; ``localisation_iou`` with the object's mask, where there is one.

    Args:
        order: also compute deletion and insertion, which cost 68 forward passes.
        seed: for the backgrounds and the random map, drawn per image.
    """

    def __init__(self, order: bool = False, seed: int = 0) -> None:
        super().__init__()
        self.order, self.seed = order, seed
        names = ["area", "preserved", "destroyed", "shuffled", "localisation_iou"]
        if order:
            names += ["deletion", "insertion", "random_deletion", "random_insertion"]
        self.means = nn.ModuleDict({name: ImageMean() for name in names})

    @torch.no_grad()
    def update(
        self,
        classifier: Callable[[Tensor], Tensor],
        images: Tensor,
        label: Tensor,
        image_id: list[str],
        attribution_map: Tensor,
        mask: Tensor | None = None,
    ) -> None:
        """Add a batch: images ``(B, C, H, W)``, label ``(B,)``, map ``(B, 1, h, w)``, mask ``(B, 1, H, W)`` bool."""
        if not len(images):
            return
        background = uninformative(images, image_generators(self.seed, image_id, "quality"))
        kept, removed = preserved_destroyed(classifier, images, background, attribution_map, label)
        values = {"area": attribution_map.flatten(1).mean(1), "preserved": kept, "destroyed": removed}
        if len(images) > 1:  # a single image has no other's map
            other = attribution_map.roll(1, dims=0)
            values["shuffled"] = preserved_destroyed(classifier, images, background, other, label)[0]
        if self.order:
            size = attribution_map.shape[1:]
            generators = image_generators(self.seed, image_id, "random_map")
            chance = per_image(lambda g: torch.rand(size, generator=g), generators, images)
            for prefix, ordering in (("", attribution_map), ("random_", chance)):
                deletion, insertion = deletion_insertion(classifier, images, background, ordering, label)
                values |= {f"{prefix}deletion": deletion, f"{prefix}insertion": insertion}
        if mask is not None:
            has_object = mask.flatten(1).any(1)
            found = resize_map(attribution_map, mask.shape[-2:])[has_object]
            values["localisation_iou"] = map_iou(found, mask[has_object].to(found.dtype))
        for name, metric in self._metrics().items():
            metric.update(values.get(name, images.new_zeros(0)))

    def compute(self) -> dict[str, float]:
        """The means of all that was seen, over all processes."""
        means = {name: float(metric.compute()) for name, metric in self._metrics().items()}
        return {name: mean for name, mean in means.items() if not math.isnan(mean)}  # NaN: nothing seen, no masks, say

    def reset(self) -> None:
        """Forget all images."""
        for metric in self._metrics().values():
            metric.reset()

    def _metrics(self) -> dict[str, ImageMean]:
        return cast("dict[str, ImageMean]", dict(self.means.items()))
