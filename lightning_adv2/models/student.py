"""The student's network, which imitates another interpreter's maps: encoder, class-wise affine, two convolutions."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lightning_adv2.models.classifier import Classifier
from lightning_adv2.models.map_network import MapNetwork, scales_from


class StudentNetwork(MapNetwork):
    """Predicts the attribution map of an image and a class in one pass, without decoder stages or a selector.

    The encoder's scales are reduced to equal width, resized to the map's size and summed. A scale and a shift per class
    and channel (FiLM, Perez et al. 2018) condition the features on the class. Mean, maximum and minimum over the image
    reach every position, because maps that are normalised per image depend on all positions. There is no BatchNorm:
    train and eval mode agree.

    Args:
        encoder: a trained classifier; its features are read at the map's scale and all coarser scales.
        map_stride: image pixels per map pixel.
        width: channels between encoder and map.

    Raises:
        ValueError: ``map_stride`` is none of the encoder's strides.
    """

    def __init__(self, encoder: Classifier, map_stride: int = 4, width: int = 32) -> None:
        super().__init__(encoder)
        self.map_stride = map_stride
        self.first, channels = scales_from(encoder, map_stride)
        self.reduce = nn.ModuleList(nn.Conv2d(count, width, 1) for count in channels)
        self.film = nn.Embedding(encoder.num_classes, 2 * width)
        nn.init.normal_(self.film.weight, std=0.5)
        self.context = nn.Linear(3 * width, width)
        self.mix = nn.Conv2d(width, width, 3, padding=1)
        self.output = nn.Conv2d(width, 1, 1)

    def forward(self, images: Tensor, class_idx: Tensor) -> tuple[Tensor, Tensor]:
        """The map and the encoder's own decision.

        Args:
            images: ``(B, C, H, W)`` in [0, 1].
            class_idx: ``(B,)`` in [0, K), the class explained.

        Returns:
            Map ``(B, 1, H / map_stride, W / map_stride)`` in [0, 1] and the encoder's class logits ``(B, K)``.
        """
        scales = self.encoder.forward_pyramid(images)
        return self.decode(scales, class_idx), self.encoder.forward_head(scales[-1])

    def decode(self, scales: list[Tensor], class_idx: Tensor) -> Tensor:
        """The map from the encoder's features, so that several classes cost one encoding.

        Args:
            scales: ``[(B, D_i, h_i, w_i), ...]``, the encoder's ``forward_pyramid``.
            class_idx: ``(B,)`` in [0, K), the class explained.

        Returns:
            ``(B, 1, h, w)`` in [0, 1].
        """
        used = scales[self.first :]
        size = used[0].shape[-2:]
        reduced = [reduce(scale) for reduce, scale in zip(self.reduce, used, strict=True)]
        resized = [F.interpolate(x, size=size, mode="bilinear", align_corners=False) for x in reduced]
        scale, shift = self.film(class_idx)[:, :, None, None].chunk(2, dim=1)
        asked = (1 + scale) * torch.stack(resized).sum(0) + shift
        context = self.context(torch.cat([asked.mean((2, 3)), asked.amax((2, 3)), asked.amin((2, 3))], dim=1))
        mixed = F.relu(self.mix(asked) + context[:, :, None, None])
        attribution_map: Tensor = self.output(mixed).sigmoid()
        return attribution_map
