"""RTS: a network that predicts the map in one pass."""

from __future__ import annotations

from functools import partial

from torch import Tensor

from lightning_adv2.interpreters.trainable import TrainableInterpreter
from lightning_adv2.models import Classifier, RTSNetwork


class RTS(TrainableInterpreter):
    """Real-time saliency: a network that predicts the map (Dabkowski and Gal 2017; paper section 3.4).

    Args:
        encoder: a trained classifier of the same task; None takes a copy of the classifier explained (:meth:`follow`).
        map_stride: image pixels per map pixel; published: 4 at 224 px. Take 2 for 32-px images.
        width: channels of the decoder's finest stage.
        confidence: evidence that the selector demands, in logits; the RTS authors show ImageNet maps at 6.
        weights: ``.safetensors`` of selector and decoder, and of the encoder where it was trained, written by
            :meth:`save`; None for an untrained network.
        train_encoder: whether the encoder is trained, too, as AID needs it.
        name: for tables and log keys; ``rts`` by default.

    Raises:
        FileNotFoundError: no such file of weights.
        ValueError: ``map_stride`` is none of the encoder's strides, or the weights do not fit.
    """

    name = "rts"
    network: RTSNetwork

    def __init__(
        self,
        encoder: Classifier | None = None,
        map_stride: int = 4,
        width: int = 32,
        confidence: float = 0.0,
        weights: str | None = None,
        train_encoder: bool = False,
        name: str | None = None,
    ) -> None:
        build = partial(RTSNetwork, map_stride=map_stride, width=width)
        super().__init__(build, encoder, weights, train_encoder, name)
        self.confidence = confidence

    def decode(self, scales: list[Tensor], class_idx: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        """The map, and ``presence``, the selector's logit of the class (Dabkowski and Gal 2017, section 4).

        Args:
            scales: ``[(B, D_i, h_i, w_i), ...]``, the encoder's ``forward_pyramid``.
            class_idx: ``(B,)`` in [0, K), the class explained.

        Returns:
            Map ``(B, 1, H / map_stride, W / map_stride)`` in [0, 1] and ``presence`` ``(B,)``.
        """
        attribution_map, presence = self.network.decode(scales, class_idx, self.confidence)
        return attribution_map, {"presence": presence}
