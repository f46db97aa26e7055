"""RTS: a network that predicts the map in one pass."""

from __future__ import annotations

from pathlib import Path

from torch import Tensor

from lightning_adv2.interpreters.base import Interpreter
from lightning_adv2.models import Classifier, RTSNetwork, load_weights, save_weights
from lightning_adv2.types import Interpretation, State


class RTS(Interpreter):
    """Real-time saliency (Dabkowski and Gal 2017; paper section 3.4).

    Args:
        encoder: a trained classifier of the same task, usually another instance of the one explained.
        map_stride: image pixels per map pixel; published: 4 at 224 px. 32-px images want 2.
        width: channels of the decoder's finest stage.
        confidence: evidence that the selector asks for; the RTS authors show ImageNet maps at 6.
        weights: ``.safetensors`` of selector and decoder, written by :meth:`save`; None for an untrained network.
    """

    name = "rts"

    def __init__(
        self,
        encoder: Classifier,
        map_stride: int = 4,
        width: int = 32,
        confidence: float = 0.0,
        weights: str | None = None,
    ) -> None:
        super().__init__()
        self.network = RTSNetwork(encoder, map_stride, width)
        self.confidence = confidence
        if weights is not None:
            self.load(weights)
        self.eval()

    def forward(
        self, classifier: Classifier, images: Tensor, target_class: Tensor, state: State = ()
    ) -> Interpretation:
        """Map ``(B, 1, H / map_stride, W / map_stride)``; ``aux["encoder_logits"]`` serves the encoder loss."""
        attribution_map, presence, encoder_logits = self.network(images, target_class, self.confidence)
        aux = {"encoder_logits": encoder_logits, "presence": presence}
        return Interpretation(classifier(images), attribution_map, aux)

    def load(self, path: str | Path) -> None:
        """Load selector and decoder from a file written by :meth:`save`.

        Raises:
            FileNotFoundError: no such file.
            ValueError: names the tensors that do not fit.
        """
        hint = "train one with 'lightning-adv2 fit --config configs/train/rts_*.yaml'"
        load_weights(self.network, path, missing_hint=hint, frozen_prefix="encoder.")

    def save(self, path: str | Path) -> Path:
        """Write selector and decoder (not the frozen encoder) as ``.safetensors``, all or nothing."""
        return save_weights(self.network.trainable_state(), path)
