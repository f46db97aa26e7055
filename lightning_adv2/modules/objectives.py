"""L_int: the loss that an interpreter's maps of benign images are trained with."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence

from torch import Generator, Tensor

from lightning_adv2.functional.losses import area, destruction, preservation, total_variation
from lightning_adv2.functional.masking import blend, uninformative
from lightning_adv2.models import Classifier


class InterpreterLoss(ABC):
    """A loss on the maps of benign images, in weighted terms (L_int, paper section 3.4 and appendix A2)."""

    @abstractmethod
    def __call__(
        self,
        classifier: Classifier,
        images: Tensor,
        label: Tensor,
        attribution_map: Tensor,
        generators: Sequence[Generator],
    ) -> dict[str, Tensor]:
        """The weighted terms by name, each ``(B,)``.

        Args:
            classifier: the network explained.
            images: ``(B, C, H, W)`` in [0, 1].
            label: ``(B,)`` in [0, K), the class explained.
            attribution_map: ``(B, 1, h, w)`` in [0, 1], with a graph to the trained parameters.
            generators: B CPU generators, for the loss's random numbers.

        Raises:
            ValueError: the loss does not apply to these images.
        """


class MaskLoss(InterpreterLoss):
    """RTS's: w_tv r_tv(m) + w_area r_av(m) - w_keep log f_c(phi(x; m)) + w_drop f_c(phi(x; 1 - m))^power (Eqn 15).

    Args:
        tv_weight: lambda_1.
        area_weight: lambda_2.
        area_power: exponent of the mean mask, in (0, 1].
        preserve_weight: weight of the preserver.
        destroy_weight: lambda_3.
        destroy_power: lambda_4, in (0, 1].
        blur_probability: share of the images that phi blends with their blurred copies, not with a random colour.
    """

    def __init__(
        self,
        tv_weight: float = 0.5,
        area_weight: float = 8.0,
        area_power: float = 0.3,
        preserve_weight: float = 0.3,
        destroy_weight: float = 1.0,
        destroy_power: float = 0.3,
        blur_probability: float = 0.5,
    ) -> None:
        self.tv_weight, self.area_weight, self.area_power = tv_weight, area_weight, area_power
        self.preserve_weight, self.destroy_weight, self.destroy_power = preserve_weight, destroy_weight, destroy_power
        self.blur_probability = blur_probability

    def __call__(
        self,
        classifier: Classifier,
        images: Tensor,
        label: Tensor,
        attribution_map: Tensor,
        generators: Sequence[Generator],
    ) -> dict[str, Tensor]:
        """``tv``, ``area``, ``preserve`` and ``destroy``, weighted, each ``(B,)`` (Eqn 15).

        For the arguments see :meth:`InterpreterLoss.__call__`.

        Raises:
            ValueError: ``area_power`` out of range, or images with a side of a single pixel.
        """
        background = uninformative(images, generators, self.blur_probability)
        kept = classifier(blend(images, background, attribution_map))
        left = classifier(blend(images, background, 1 - attribution_map))
        return {
            "tv": self.tv_weight * total_variation(attribution_map),
            "area": self.area_weight * area(attribution_map, self.area_power),
            "preserve": self.preserve_weight * preservation(kept, label),
            "destroy": self.destroy_weight * destruction(left, label, self.destroy_power),
        }
