"""The contract of every classifier, and torchvision's CNNs behind it."""

from __future__ import annotations

import warnings
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Sequence

import torch
import torch.nn.functional as F
import torchvision
from torch import Tensor, nn

from lightning_adv2.models.weights import load_weights, put_weights, read_weights, without_prefix

IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


class Classifier(nn.Module, ABC):
    """An image classifier f with its normalisation inside, split into a chain of stages and a head.

    Args:
        mean: per-channel mean that the weights expect, for images in [0, 1].
        std: per-channel standard deviation, likewise.

    Attributes:
        name: for tables; by default the class's name in lower case.
        num_classes: K, set by the subclass.
        mean: ``(1, C, 1, 1)``.
        std: ``(1, C, 1, 1)``.
    """

    name: str
    num_classes: int
    mean: Tensor
    std: Tensor

    def __init__(self, mean: Sequence[float] = IMAGENET_MEAN, std: Sequence[float] = IMAGENET_STD) -> None:
        super().__init__()
        self.name = type(self).__name__.lower()
        # Not persistent: published weight files know nothing of them.
        self.register_buffer("mean", torch.tensor(mean).view(1, -1, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(std).view(1, -1, 1, 1), persistent=False)

    def forward(self, images: Tensor) -> Tensor:
        """Logits f(x) before the softmax (paper section 3.1).

        Args:
            images: ``(B, C, H, W)`` in [0, 1].

        Returns:
            ``(B, K)``.
        """
        return self.forward_head(self.forward_features(images))

    def forward_features(self, images: Tensor) -> Tensor:
        """The last convolution's feature maps, CAM's a_k (paper section 3.3).

        Args:
            images: ``(B, C, H, W)`` in [0, 1].

        Returns:
            ``(B, D, h, w)``.
        """
        x = self.normalize(images)
        for stage in self.stages():
            x = stage(x)
        return x

    def forward_pyramid(self, images: Tensor) -> list[Tensor]:
        """The last features at each resolution, finest first: the scales that RTS reads (Dabkowski and Gal 2017).

        Args:
            images: ``(B, C, H, W)`` in [0, 1].

        Returns:
            ``[(B, D_i, h_i, w_i), ...]``; the last entry equals :meth:`forward_features`.
        """
        scales: list[Tensor] = []
        x = normalized = self.normalize(images)
        for stage in self.stages():
            y = stage(x)
            if y.shape[-2:] != x.shape[-2:] and x is not normalized:
                scales.append(x)
            x = y
        return [*scales, x]

    @abstractmethod
    def stages(self) -> Iterable[Callable[[Tensor], Tensor]]:
        """The feature extractor as a chain: normalised images ``(B, C, H, W)`` -> ... -> features ``(B, D, h, w)``."""

    @abstractmethod
    def forward_head(self, features: Tensor) -> Tensor:
        """Logits from the last features.

        Args:
            features: ``(B, D, h, w)``, from :meth:`forward_features`.

        Returns:
            ``(B, K)``.
        """

    def class_weight(self) -> Tensor:
        """The weights w of a head that is one linear layer behind global average pooling; CAM needs them (section 3.3).

        Returns:
            ``(K, D)``.

        Raises:
            TypeError: the head is of another form.
        """
        raise TypeError(
            f"{type(self).__name__}: CAM needs a head of global average pooling and one linear layer; "
            "take such a classifier (ResNet, DenseNet, SqueezeNet, ...) or another interpreter"
        )

    def normalize(self, images: Tensor) -> Tensor:
        """The images minus the network's mean, divided by its standard deviation, per channel.

        Args:
            images: ``(B, C, H, W)`` in [0, 1].

        Returns:
            ``(B, C, H, W)``, in standard deviations.
        """
        return (images - self.mean) / self.std


class TorchvisionClassifier(Classifier):
    """Any torchvision CNN whose features come before its head in one chain.

    Args:
        name: torchvision's name, such as ``resnet50``, ``densenet169``, ``squeezenet1_0``, ``vgg16``.
        weights: a torchvision weights enum member (``IMAGENET1K_V1``, ``DEFAULT``), the path of a local
            ``.safetensors`` or ``.pth`` file, with torchvision's tensor names or as ``ClassifierModule`` writes it, or
            None for random weights.
        num_classes: K.
        mean: per-channel mean that the weights expect, for images in [0, 1]; by default that of torchvision's
            transforms for a published enum member, ImageNet's elsewhere.
        std: likewise the standard deviation.
        new_head: leave the last layer random, whatever its size in ``weights``: to fine-tune them for other classes.

    Raises:
        ValueError: unknown ``name``, weights that do not fit, ``new_head`` without weights, or a network that is not
            such a chain.
        FileNotFoundError: ``weights`` is no enum member and no file.
    """

    def __init__(
        self,
        name: str,
        weights: str | None = None,
        num_classes: int = 1000,
        mean: Sequence[float] | None = None,
        std: Sequence[float] | None = None,
        new_head: bool = False,
    ) -> None:
        if new_head and weights is None:
            raise ValueError("new_head=True: without weights all layers are random; give weights, or leave it out")
        known = torchvision.models.list_models(module=torchvision.models)
        if name not in known:
            raise ValueError(f"name={name!r} is no torchvision classifier; known: {', '.join(known)}")
        members = torchvision.models.get_model_weights(name).__members__
        enum_name = weights.rsplit(".", 1)[-1] if weights else None
        published = weights is not None and enum_name in members
        if published and num_classes != 1000 and not new_head:
            raise ValueError(
                f"num_classes={num_classes}: the weights {weights} of {name} have 1000 classes; to fine-tune them for "
                "others set new_head"
            )
        if published and members[enum_name].meta.get("categories") is None:
            raise ValueError(
                f"weights={weights!r}: published for the features of {name} alone, the rest is NaN; take another of "
                f"{', '.join(members)}"
            )
        expected = members[enum_name].transforms() if published else None
        super().__init__(
            mean if mean is not None else getattr(expected, "mean", IMAGENET_MEAN),
            std if std is not None else getattr(expected, "std", IMAGENET_STD),
        )
        if published and not new_head:
            network = torchvision.models.get_model(name, weights=members[enum_name])
        else:
            network = torchvision.models.get_model(name, weights=None, num_classes=num_classes)
        if published and new_head:
            tensors = torchvision.models.get_model(name, weights=members[enum_name]).state_dict()
            head = _last_layer(network)
            put_weights(network, {n: v for n, v in tensors.items() if not n.startswith(head)})
        for module in list(network.modules()):
            if getattr(module, "inplace", False):
                module.inplace = False  # an activation that overwrites its input breaks double backward
            for key, child in module.named_children():
                if isinstance(child, nn.Hardsigmoid):
                    setattr(module, key, HardSigmoid())
        self.name, self.num_classes = name, num_classes
        self.features, self.head = _split(name, network)
        if weights is not None and not published:
            hint = f"give a file, or one of the enum members {', '.join(members)}"
            tensors = read_weights(weights, missing_hint=hint)
            ours = any(tensor.startswith("head.") for tensor in without_prefix(tensors, self.state_dict()))
            target = self if ours else network  # two names for the same tensors
            load_weights(target, weights, missing_hint=hint, without=_last_layer(target) if new_head else None)
            if new_head:
                _warn_of_unused_head(weights, without_prefix(tensors, target.state_dict()), target)
        self.eval()

    def stages(self) -> Iterable[Callable[[Tensor], Tensor]]:
        """The network's own modules: normalised images ``(B, C, H, W)`` -> ... -> features ``(B, D, h, w)``."""
        return self.features

    def forward_head(self, features: Tensor) -> Tensor:
        """Logits ``(B, K)`` from the last features ``(B, D, h, w)``."""
        output: Tensor = self.head(features)
        return output

    def class_weight(self) -> Tensor:
        """The final layer's weights ``(K, D)``, CAM's w (paper section 3.3).

        Raises:
            TypeError: the head is no single linear layer (or 1x1 convolution) behind global average pooling.
        """
        layers = [m for m in self.head.modules() if not list(m.children()) and not isinstance(m, nn.Dropout)]
        weighted = [m for m in layers if list(m.parameters(recurse=False))]
        pooled = any(isinstance(m, nn.AdaptiveAvgPool2d) and m.output_size in (1, (1, 1)) for m in layers)
        if pooled and len(weighted) == 1 and isinstance(weighted[0], nn.Linear | nn.Conv2d):
            return weighted[0].weight.flatten(1)
        return super().class_weight()


class HardSigmoid(nn.Module):
    """relu6(z + 3) / 6 (MobileNetV3, Howard et al. 2019), with the second derivative that ``nn.Hardsigmoid`` lacks."""

    def forward(self, z: Tensor) -> Tensor:
        """Elementwise: ``z`` of any shape -> the same shape, in [0, 1]."""
        return F.relu6(z + 3) / 6


def _warn_of_unused_head(weights: str, tensors: dict[str, Tensor], network: nn.Module) -> None:
    head = {n: v for n, v in network.state_dict().items() if n.startswith(_last_layer(network))}
    if all(n in tensors and tensors[n].shape == v.shape for n, v in head.items()):
        warnings.warn(
            f"new_head=True: the last layer is random, though that of weights={weights!r} would fit; right for a "
            "training on other classes of the same number, else set new_head to false",
            stacklevel=3,
        )


def _last_layer(network: nn.Module) -> str:
    """The prefix of the last layer's tensors."""
    layers: list[str] = [n for n, module in network.named_modules() if list(module.parameters(recurse=False))]
    return f"{layers[-1]}."


def _split(name: str, network: nn.Module) -> tuple[nn.Sequential, nn.Sequential]:
    """Features and head of a torchvision network, without its own ``forward``."""
    children = dict(network.named_children())
    pool = nn.AdaptiveAvgPool2d(1)
    if {"layer1", "fc"} <= children.keys():  # ResNet, ResNeXt, Wide ResNet
        fc = children.pop("fc")
        children.pop("avgpool", None)
        return nn.Sequential(*children.values()), nn.Sequential(pool, nn.Flatten(1), fc)
    if {"conv1", "stage2", "conv5", "fc"} <= children.keys():  # ShuffleNet
        fc = children.pop("fc")
        return nn.Sequential(*children.values()), nn.Sequential(pool, nn.Flatten(1), fc)
    if {"stem", "trunk_output", "fc"} <= children.keys():  # RegNet
        stages = [children["stem"], *children["trunk_output"].children()]
        return nn.Sequential(*stages), nn.Sequential(pool, nn.Flatten(1), children["fc"])
    if {"layers", "classifier"} == children.keys():  # MNASNet
        return nn.Sequential(*children["layers"].children()), nn.Sequential(pool, nn.Flatten(1), children["classifier"])
    if {"features", "classifier"} <= children.keys() and isinstance(children["features"], nn.Sequential):
        features, classifier = list(children["features"]), children["classifier"]
        if name.startswith("densenet"):
            features.append(nn.ReLU())  # functional in torchvision's forward
        if name.startswith("squeezenet"):
            return nn.Sequential(*features), nn.Sequential(classifier, nn.Flatten(1))
        middle = [children.get("avgpool", pool)]
        if not name.startswith("convnext"):  # its classifier begins with a LayerNorm over (D, 1, 1) and flattens itself
            middle.append(nn.Flatten(1))
        return nn.Sequential(*features), nn.Sequential(*middle, classifier)
    raise ValueError(
        f"name={name!r}: its features and head are not one chain; take a ResNet, DenseNet, SqueezeNet, VGG, AlexNet, "
        "MobileNet, EfficientNet, ShuffleNet, RegNet, MNASNet or ConvNeXt, or write a Classifier for it"
    )
