"""A network that predicts attribution maps from the features of a classifier that it owns."""

from __future__ import annotations

from typing import Self

from torch import Tensor, nn

from lightning_adv2.models.classifier import Classifier


class MapNetwork(nn.Module):
    """The encoder that such networks share, and what of them is trained.

    Args:
        encoder: a trained classifier, owned by the network and frozen until :meth:`train_encoder`.
    """

    def __init__(self, encoder: Classifier) -> None:
        super().__init__()
        self.encoder = encoder.requires_grad_(False).eval()
        self.own_encoder = False
        """Whether the encoder is another than it came, so that a file of weights must hold it."""

    def train_encoder(self) -> None:
        """Let the encoder be trained, too."""
        self.encoder.requires_grad_(True)
        self.own_encoder = True

    def train(self, mode: bool = True) -> Self:
        """Set train mode for all but the encoder, whose BatchNorm keeps the statistics that it came with."""
        super().train(mode)
        self.encoder.eval()
        return self

    def trainable_state(self) -> dict[str, Tensor]:
        """What a file of weights holds: all, but for an encoder that is as it came."""
        return {n: v for n, v in self.state_dict().items() if self.own_encoder or not n.startswith("encoder.")}
