"""Residual classifiers for small images: the CIFAR ResNets and the demo's network."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

import torch.nn.functional as F
from torch import Tensor, nn

from lightning_adv2.models.classifier import IMAGENET_MEAN, IMAGENET_STD, Classifier
from lightning_adv2.models.weights import load_weights


class _Block(nn.Module):
    """Two 3x3 convolutions and a parameter-free shortcut (He et al. 2015, option A)."""

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, outputs, 3, stride, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(outputs)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(outputs)
        self.stride, self.extra = stride, outputs - inputs

    def forward(self, x: Tensor) -> Tensor:
        y = F.relu(self.bn1(self.conv1(x)))
        y = self.bn2(self.conv2(y))
        if self.extra or self.stride > 1:
            x = x[:, :, :: self.stride, :: self.stride]
            x = F.pad(x, (0, 0, 0, 0, self.extra // 2, self.extra - self.extra // 2))
        return F.relu(x + y)


class ResidualClassifier(Classifier):
    """A ResNet for small images: 3x3 stem, stages at 1, 1/2, 1/4, ... of the stem's resolution, linear head.

    The blocks are those of He et al. 2015, section 4.2, with parameter-free shortcuts (option A).

    Args:
        num_classes: K.
        blocks: residual blocks per stage.
        widths: channels per stage.
        stem_stride: stride of the first convolution, in pixels.
        weights: ``.safetensors``/``.pth`` file with this class's tensor names, or None for random weights.
        mean: per-channel mean that the weights expect, for images in [0, 1].
        std: per-channel standard deviation, likewise.

    Raises:
        FileNotFoundError: no such file of weights.
        ValueError: weights that do not fit.
    """

    _missing_hint = "check the path"

    def __init__(
        self,
        num_classes: int = 10,
        blocks: int = 1,
        widths: Sequence[int] = (16, 32, 64),
        stem_stride: int = 1,
        weights: str | None = None,
        mean: Sequence[float] = IMAGENET_MEAN,
        std: Sequence[float] = IMAGENET_STD,
    ) -> None:
        super().__init__(mean, std)
        self.num_classes, self.name = num_classes, f"resnet{2 * blocks * len(widths) + 2}"
        self.conv1 = nn.Conv2d(3, widths[0], 3, stem_stride, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(widths[0])
        inputs = widths[0]
        for number, width in enumerate(widths, start=1):
            stage = [
                _Block(inputs if b == 0 else width, width, 2 if number > 1 and b == 0 else 1) for b in range(blocks)
            ]
            self.add_module(f"layer{number}", nn.Sequential(*stage))
            inputs = width
        self.linear = nn.Linear(inputs, num_classes)
        self._stages = len(widths)
        if weights is not None:
            load_weights(self, weights, missing_hint=self._missing_hint)
        self.eval()

    def stages(self) -> Iterable[Callable[[Tensor], Tensor]]:
        """The stem, then the stages: normalised images ``(B, 3, H, W)`` -> ... -> features ``(B, D, h, w)``."""
        return [self._stem, *(self.get_submodule(f"layer{n}") for n in range(1, self._stages + 1))]

    def _stem(self, x: Tensor) -> Tensor:
        return F.relu(self.bn1(self.conv1(x)))

    def forward_head(self, features: Tensor) -> Tensor:
        """Logits ``(B, K)`` from the last features ``(B, D, h, w)``: global average pooling and one linear layer."""
        logits: Tensor = self.linear(features.mean((2, 3)))
        return logits

    def class_weight(self) -> Tensor:
        """The final layer's weights ``(K, D)``, CAM's w (paper section 3.3)."""
        return self.linear.weight


class CifarResNet(ResidualClassifier):
    """The CIFAR ResNet of He et al. 2015, section 4.2, depth 6n + 2.

    Loads the published files of akamaster/pytorch_resnet_cifar10, which ``lightning-adv2 fetch cifar10`` downloads.

    Args:
        depth: 20, 32, 44, 56, ...
        num_classes: K.
        weights: ``.safetensors``/``.pth`` file, or None for random weights.

    Raises:
        FileNotFoundError: no such file of weights.
        ValueError: ``depth`` is not 6n + 2, or the weights do not fit.
    """

    _missing_hint = "check the path; 'lightning-adv2 fetch cifar10' brings the published ones of depth 20 and 56"

    def __init__(self, depth: int = 20, num_classes: int = 10, weights: str | None = None) -> None:
        if depth < 8 or (depth - 2) % 6:
            raise ValueError(f"depth={depth}: a CIFAR ResNet has 6n + 2 layers; take 20, 32, 44 or 56")
        super().__init__(num_classes=num_classes, blocks=(depth - 2) // 6, weights=weights)
