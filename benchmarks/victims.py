"""The networks and images that are timed: real ones where they are at hand, random ones elsewhere."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from lightning_adv2.interpreters import RTS
from lightning_adv2.models import CifarResNet, Classifier, TorchvisionClassifier


@dataclass
class Victim:
    """A classifier, images that it knows, and two RTS: one whose encoder is the classifier, one whose encoder is not.

    Attributes:
        name: for tables.
        images: ``(B, 3, H, W)`` on 8-bit levels.
        target_class: ``(B,)``.
    """

    name: str
    classifier: Classifier
    images: Tensor
    target_class: Tensor
    rts: RTS
    rts_own_encoder: RTS


def cifar(data: Path, batch: int, device: torch.device) -> Victim:
    """ResNet-20 at 32 px."""
    file = data / "cifar10" / "resnet20.safetensors"
    weights = str(file) if file.exists() else None

    def network() -> CifarResNet:
        return CifarResNet(20, weights=weights)

    return _victim(f"ResNet-20, 32 px, batch {batch}", network(), network(), CifarResNet(20), 2, 32, batch, device)


def imagenet(batch: int, device: torch.device, data: Path, side: int = 224) -> Victim:
    """ResNet-50 at 224 px."""
    file = data / "imagenet1k-samples" / "resnet50.safetensors"

    def network() -> TorchvisionClassifier:
        return TorchvisionClassifier("resnet50", weights=str(file) if file.exists() else None)

    other = TorchvisionClassifier("resnet50")
    return _victim(f"ResNet-50, {side} px, batch {batch}", network(), network(), other, 4, side, batch, device)


def _victim(
    name: str, classifier: Classifier, same: Classifier, other: Classifier, stride: int, side: int, batch: int,
    device: torch.device,
) -> Victim:  # fmt: skip
    generator = torch.Generator().manual_seed(0)
    # Smooth at random: natural images have most of their energy there, too.
    coarse = torch.rand(batch, 3, side // 8, side // 8, generator=generator)
    images = torch.nn.functional.interpolate(coarse, size=(side, side), mode="bicubic").clamp(0, 1)
    images = ((images * 255).round() / 255).to(device)
    torch.manual_seed(0)
    networks = [RTS(same, stride), RTS(other, stride)]
    for network in (classifier, *networks):
        network.requires_grad_(False).to(device).eval()
    target_class = torch.zeros(batch, dtype=torch.int64, device=device)
    return Victim(name, classifier, images, target_class, *networks)
