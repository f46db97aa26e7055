"""The quality of an interpreter's maps on benign images, a gate before any statement about its robustness."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import cast

import torch
from torch import Tensor, nn

from lightning_adv2.functional.agreement import map_iou, map_l1
from lightning_adv2.functional.faithfulness import deletion_insertion, preserved_destroyed
from lightning_adv2.functional.masking import resize_map, uninformative
from lightning_adv2.functional.random import image_generators, per_image
from lightning_adv2.functional.validity import is_finite
from lightning_adv2.metrics.attack import ImageMean

BETTER_HIGH = ("preserved", "gap", "insertion", "localisation_iou")
BETTER_LOW = ("deletion", "destroyed")
LEAST_AREA, MOST_AREA = 0.02, 0.8
"""Mean of a benign map, or share of it that is at least 0.5, below and above which there is little to compare."""


def says_little(area: float) -> str:
    """The reason why maps of this mean value show no region, or an empty string.

    Args:
        area: mean of the maps, in [0, 1].
    """
    if area < LEAST_AREA:
        return f"nearly empty (area {area:.3f}, below {LEAST_AREA:g})"
    if area > MOST_AREA:
        return f"nearly full (area {area:.3f}, above {MOST_AREA:g})"
    return ""


class MapQuality(nn.Module):
    """Means over images of what a map keeps, removes, orders and finds (deletion and insertion of RISE; Eqn 15).

    ``area`` mean of the map; ``preserved``, ``destroyed`` f_c under phi(x; m) and phi(x; 1 - m); ``shuffled`` f_c under
    another image's map (a map without information preserves as much); ``gap`` is ``preserved - shuffled``, the
    specificity of the maps, over the images that have another image in their batch; ``deletion``, ``insertion`` and the
    same for a random map; ``localisation_iou`` with the object's mask, where there is one. All lie in [0, 1] (``gap``
    in [-1, 1]). Images with NaN or infinity are in none of these means; ``invalid`` is their share, where there are
    any.

    Args:
        order: also compute deletion and insertion, which cost 68 forward passes.
        seed: of the backgrounds and the random map, drawn per image.
    """

    def __init__(self, order: bool = False, seed: int = 0) -> None:
        super().__init__()
        self.order, self.seed = order, seed
        names = ["area", "preserved", "destroyed", "shuffled", "gap", "localisation_iou", "invalid"]
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
        """Add a batch.

        Args:
            classifier: images -> logits ``(B, K)``.
            images: ``(B, C, H, W)`` in [0, 1].
            label: ``(B,)`` in [0, K), the class explained.
            image_id: B identifiers.
            attribution_map: ``(B, 1, h, w)`` in [0, 1].
            mask: ``(B, 1, H, W)`` bool, the object's pixels, or None.
        """
        fine = is_finite(images) & is_finite(attribution_map)
        if not fine.all():
            # Before anything else: an image also stands next to another one's map.
            self._metrics()["invalid"].update((~fine)[~fine])
            keep = fine.nonzero()[:, 0]
            images, label, attribution_map = images[keep], label[keep], attribution_map[keep]
            image_id, mask = [image_id[i] for i in keep.tolist()], None if mask is None else mask[keep]
        if not len(images):
            return
        background = uninformative(images, image_generators(self.seed, image_id, "quality"))
        kept, removed = preserved_destroyed(classifier, images, background, attribution_map, label)
        values = {"area": attribution_map.flatten(1).mean(1), "preserved": kept, "destroyed": removed}
        if len(images) > 1:  # a single image has no other's map
            other = attribution_map.roll(1, dims=0)
            values["shuffled"] = preserved_destroyed(classifier, images, background, other, label)[0]
            values["gap"] = kept - values["shuffled"]
        if self.order:
            size = attribution_map.shape[1:]
            generators = image_generators(self.seed, image_id, "random_map")
            chance = per_image(lambda g: torch.rand(size, generator=g), generators, images)
            for prefix, ordering in (("", attribution_map), ("random_", chance)):
                deletion, insertion = deletion_insertion(classifier, images, background, ordering, label)
                values |= {f"{prefix}deletion": deletion, f"{prefix}insertion": insertion}
        fine = torch.stack([value.isfinite() for value in values.values()]).all(0)
        values = {name: value[fine] for name, value in values.items()} | {"invalid": ~fine}
        if mask is not None:
            has_object = mask.flatten(1).any(1) & fine
            found = resize_map(attribution_map, mask.shape[-2:])[has_object]
            values["localisation_iou"] = map_iou(found, mask[has_object].to(found.dtype))
        for name, metric in self._metrics().items():
            metric.update(values.get(name, images.new_zeros(0)))

    def compute(self) -> dict[str, float]:
        """The means over all images and processes by name; a measure without images is left out."""
        means = {name: float(metric.compute()) for name, metric in self._metrics().items()}
        # NaN: nothing seen, no masks, say.
        return {n: mean for n, mean in means.items() if not math.isnan(mean) and (mean or n != "invalid")}

    def reset(self) -> None:
        """Forget all images."""
        for metric in self._metrics().values():
            metric.reset()

    def _metrics(self) -> dict[str, ImageMean]:
        return cast("dict[str, ImageMean]", dict(self.means.items()))


class MapAgreement(nn.Module):
    """Mean ``agreement_l1`` and ``agreement_iou`` of two interpreters' maps of the same images (paper section 4).

    Images for which either map is not finite are left out, and of the IoU those for which both maps are empty.
    """

    def __init__(self) -> None:
        super().__init__()
        self.l1, self.iou = ImageMean(), ImageMean()

    def update(self, shown: Tensor, reference: Tensor) -> None:
        """Add a batch.

        Args:
            shown: ``(B, 1, h, w)`` in [0, 1]; resized to the reference.
            reference: ``(B, 1, H, W)`` in [0, 1].
        """
        shown = resize_map(shown, reference.shape[-2:])
        fine = is_finite(shown) & is_finite(reference)
        self.l1.update(map_l1(shown, reference)[fine])
        iou = map_iou(shown, reference)[fine]
        self.iou.update(iou[~iou.isnan()])

    def compute(self) -> dict[str, float]:
        """The means over all images and processes, in [0, 1]; empty where there was nothing to compare."""
        means = {"agreement_l1": float(self.l1.compute()), "agreement_iou": float(self.iou.compute())}
        return {name: mean for name, mean in means.items() if not math.isnan(mean)}


def relative_losses(
    means: Mapping[str, float], reference: Mapping[str, float], floor: float = 0.05
) -> dict[str, float]:
    """The loss of each measure against a reference, relative to the reference's value.

    Args:
        means: of :class:`MapQuality`.
        reference: the same of the maps to compare with.
        floor: the least value that a loss is relative to, so that a value near 0 does not inflate it.

    Returns:
        The measures of ``BETTER_HIGH`` and ``BETTER_LOW`` that the reference has: 0.1 is a tenth worse, below 0 is
        better, and 1 where ``means`` lacks the measure. ``invalid``, where more maps are invalid: the difference of the
        shares.
    """
    losses = {}
    for name in (*BETTER_HIGH, *BETTER_LOW):
        if name in reference:
            sign = -1 if name in BETTER_LOW else 1
            scale = max(abs(reference[name]), floor)
            losses[name] = sign * (reference[name] - means[name]) / scale if name in means else 1.0
    invalid = means.get("invalid", 0.0) - reference.get("invalid", 0.0)
    return losses | ({"invalid": invalid} if invalid > 0 else {})
