"""The RTS network (Dabkowski and Gal, NeurIPS 2017): encoder, class selector, U-Net decoder."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lightning_adv2.models.classifier import Classifier
from lightning_adv2.models.map_network import MapNetwork, scales_from


class _Upsample(nn.Module):
    """Enlarge the coarse features to the finer scale's size, join the encoder's features there, and mix."""

    def __init__(self, coarse: int, passed: int, outputs: int) -> None:
        super().__init__()
        self.reduce = nn.Conv2d(passed, outputs, 1)
        self.mix = nn.Sequential(
            nn.Conv2d(coarse + outputs, outputs, 3, padding=1, bias=False),
            nn.BatchNorm2d(outputs),
            nn.ReLU(),
            nn.Conv2d(outputs, outputs, 3, padding=1, bias=False),
            nn.BatchNorm2d(outputs),
            nn.ReLU(),
        )

    def forward(self, coarse: Tensor, passed: Tensor) -> Tensor:
        enlarged = F.interpolate(coarse, size=passed.shape[-2:], mode="bilinear", align_corners=False)
        mixed: Tensor = self.mix(torch.cat([enlarged, self.reduce(passed)], dim=1))
        return mixed


class RTSNetwork(MapNetwork):
    """Predicts the attribution map of an image and a class in one pass (Dabkowski and Gal 2017, section 4).

    Args:
        encoder: a trained classifier; its features are read at every scale.
        map_stride: image pixels per map pixel (4 for 224-px images, as published).
        width: channels of the decoder's finest stage; coarser stages have up to 4 times as many.

    Raises:
        ValueError: ``map_stride`` is none of the encoder's strides.
    """

    def __init__(self, encoder: Classifier, map_stride: int = 4, width: int = 32) -> None:
        super().__init__(encoder)
        self.map_stride = map_stride
        self.first, channels = scales_from(encoder, map_stride)
        self.embedding = nn.Embedding(encoder.num_classes, channels[-1])
        nn.init.normal_(self.embedding.weight, std=0.1 / channels[-1] ** 0.5)
        widths = [min(width * 2**i, 4 * width) for i in range(len(channels))]
        self.reduce = nn.Conv2d(channels[-1], widths[-1], 1)
        self.upsample = nn.ModuleList(
            _Upsample(widths[i + 1], channels[i], widths[i]) for i in reversed(range(len(channels) - 1))
        )
        self.output = nn.Conv2d(widths[0], 2, 1)

    def forward(self, images: Tensor, class_idx: Tensor, confidence: float = 0.0) -> tuple[Tensor, Tensor, Tensor]:
        """The map, and the further results that the losses need (m = |a| / (|a| + |b|), Dabkowski and Gal 2017).

        Args:
            images: ``(B, C, H, W)`` in [0, 1].
            class_idx: ``(B,)`` in [0, K), the class explained.
            confidence: evidence that the selector demands, in logits; the authors show maps at 6 and train at 0.

        Returns:
            Map ``(B, 1, H / map_stride, W / map_stride)`` in [0, 1], presence logit of the class ``(B,)``, and the
            encoder's own class logits ``(B, K)``.
        """
        scales = self.encoder.forward_pyramid(images)
        attribution_map, presence = self.decode(scales, class_idx, confidence)
        return attribution_map, presence, self.encoder.forward_head(scales[-1])

    def decode(self, scales: list[Tensor], class_idx: Tensor, confidence: float = 0.0) -> tuple[Tensor, Tensor]:
        """Map and presence logit from the encoder's features, so that several classes cost one encoding.

        Args:
            scales: ``[(B, D_i, h_i, w_i), ...]``, the encoder's ``forward_pyramid``.
            class_idx: ``(B,)`` in [0, K), the class explained.
            confidence: evidence that the selector demands, in logits.

        Returns:
            Map ``(B, 1, h, w)`` in [0, 1] and presence logit ``(B,)``.
        """
        top = scales[-1]
        evidence = torch.einsum("bdhw,bd->bhw", top, self.embedding(class_idx)).unsqueeze(1)
        x: Tensor = self.reduce(top * torch.sigmoid(evidence - confidence))
        for block, passed in zip(self.upsample, reversed(scales[self.first : -1]), strict=True):
            x = block(x, passed)
        return self._mask(self.output(x)), self._presence(evidence)

    def presence(self, images: Tensor, class_idx: Tensor) -> Tensor:
        """The selector alone: the logit of the class's presence in the image (the RTS paper's training phase 1).

        Args:
            images: ``(B, C, H, W)`` in [0, 1].
            class_idx: ``(B,)`` in [0, K).

        Returns:
            ``(B,)``.
        """
        top = self.encoder.forward_features(images)
        return self._presence(torch.einsum("bdhw,bd->bhw", top, self.embedding(class_idx)).unsqueeze(1))

    @staticmethod
    def _presence(evidence: Tensor) -> Tensor:
        cells = evidence.shape[-2] * evidence.shape[-1]
        return evidence.flatten(1).logsumexp(1) - math.log(cells)

    @staticmethod
    def _mask(outputs: Tensor) -> Tensor:
        a, b = outputs.abs().unbind(1)
        tiny = 1e-6  # 0/0 becomes 1/2 with a finite gradient
        return ((a + tiny) / (a + b + 2 * tiny)).unsqueeze(1)
