"""Networks that predict attribution maps from the features of a classifier that they own."""

from __future__ import annotations

from typing import Self

import torch
from torch import Tensor, nn

from lightning_adv2.models.classifier import Classifier


class MapNetwork(nn.Module):
    """The encoder that all networks for maps share, and the choice of the trained part.

    Args:
        encoder: a trained classifier, owned by the network and frozen until :meth:`train_encoder`.
    """

    def __init__(self, encoder: Classifier) -> None:
        super().__init__()
        self.encoder = encoder.requires_grad_(False).eval()
        self.own_encoder = False
        """Whether the encoder is another than it came, so that a file of weights must hold it."""

    def train_encoder(self) -> None:
        """Unfreeze the encoder, as AID needs it (paper section 6)."""
        self.encoder.requires_grad_(True)
        self.own_encoder = True

    def train(self, mode: bool = True) -> Self:
        """Set train mode for all parts except the encoder, whose BatchNorm keeps its statistics.

        Args:
            mode: False for eval mode.
        """
        super().train(mode)
        self.encoder.eval()
        return self

    def trainable_state(self) -> dict[str, Tensor]:
        """The tensors by name that a file of weights holds: all, without the encoder while it is unchanged."""
        return {n: v for n, v in self.state_dict().items() if self.own_encoder or not n.startswith("encoder.")}


def scales_from(encoder: Classifier, map_stride: int) -> tuple[int, list[int]]:
    """The scales of an encoder's pyramid from the map's resolution on; a map network does not read finer scales.

    Args:
        encoder: its ``forward_pyramid`` is called once.
        map_stride: image pixels per map pixel.

    Returns:
        The index of the scale with this stride, and the channels of this scale and all coarser scales.

    Raises:
        ValueError: no scale has this stride; names the strides of the encoder.
    """
    with torch.no_grad():
        probe = 64 if map_stride <= 4 else 16 * map_stride
        scales = encoder.forward_pyramid(encoder.mean.expand(1, -1, probe, probe))
    first = next((i for i, s in enumerate(scales) if probe // s.shape[-1] >= map_stride), len(scales) - 1)
    if probe // scales[first].shape[-1] != map_stride:
        offered = sorted({probe // s.shape[-1] for s in scales})
        raise ValueError(f"map_stride={map_stride}: the encoder offers strides {offered}; take one of them")
    return first, [scale.shape[1] for scale in scales[first:]]
