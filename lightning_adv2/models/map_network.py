"""A network that predicts attribution maps from the features of a classifier that it owns."""

from __future__ import annotations

from typing import Self

import torch
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


def scales_from(encoder: Classifier, map_stride: int) -> tuple[int, list[int]]:
    """Where in an encoder's pyramid the map's own resolution lies; finer scales are of no use to a network for it.

    Args:
        encoder: its ``forward_pyramid`` is looked at.
        map_stride: image pixels per map pixel.

    Returns:
        the number of the scale with this stride, and the channels of this and all coarser ones.

    Raises:
        ValueError: there is none; names the strides that there are.
    """
    with torch.no_grad():
        probe = 64 if map_stride <= 4 else 16 * map_stride
        scales = encoder.forward_pyramid(encoder.mean.expand(1, -1, probe, probe))
    first = next((i for i, s in enumerate(scales) if probe // s.shape[-1] >= map_stride), len(scales) - 1)
    if probe // scales[first].shape[-1] != map_stride:
        offered = sorted({probe // s.shape[-1] for s in scales})
        raise ValueError(f"map_stride={map_stride}: the encoder offers strides {offered}; take one of them")
    return first, [scale.shape[1] for scale in scales[first:]]
