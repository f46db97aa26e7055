"""torchvision's vision transformers as classifiers that show their attention."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

import torch
import torch.nn.functional as F
import torchvision
from torch import Tensor, nn

from lightning_adv2.models.classifier import IMAGENET_MEAN, IMAGENET_STD, Classifier
from lightning_adv2.models.weights import load_weights


class ViTClassifier(Classifier):
    """A vision transformer of torchvision (Dosovitskiy et al. 2021) that returns its attention.

    The attention is computed explicitly, and every call takes the same path, differentiable any number of times.
    torchvision's own ``forward`` uses fused kernels, which have no double backward and return no weights.

    Args:
        name: torchvision's name: ``vit_b_16``, ``vit_b_32``, ``vit_l_16``, ``vit_l_32``, ``vit_h_14``.
        weights: a torchvision weights enum member (``IMAGENET1K_V1``, ``DEFAULT``), the path of a local
            ``.safetensors`` or ``.pth`` file, or None for random weights.
        num_classes: K.
        mean: per-channel mean that the weights expect, for images in [0, 1].
        std: per-channel standard deviation, likewise.
        network: a ``torchvision.models.VisionTransformer`` of other sizes, used without a copy; ``name`` is then only a
            name, and ``num_classes`` must be the network's.

    Raises:
        ValueError: unknown ``name``, or weights or classes that do not fit.
        TypeError: ``network`` is no ``VisionTransformer``.
        FileNotFoundError: ``weights`` is no enum member and no file.
    """

    network: torchvision.models.VisionTransformer

    def __init__(
        self,
        name: str = "vit_b_16",
        weights: str | None = None,
        num_classes: int = 1000,
        mean: Sequence[float] = IMAGENET_MEAN,
        std: Sequence[float] = IMAGENET_STD,
        network: nn.Module | None = None,
    ) -> None:
        super().__init__(mean, std)
        hint = "check the path"
        if network is None:
            known = [n for n in torchvision.models.list_models(module=torchvision.models) if n.startswith("vit_")]
            if name not in known:
                raise ValueError(f"name={name!r} is no vision transformer of torchvision; known: {', '.join(known)}")
            members = torchvision.models.get_model_weights(name).__members__
            hint = f"give a file, or one of the enum members {', '.join(members)}"
            enum_name = weights.rsplit(".", 1)[-1] if weights else None
            if enum_name in members:
                if num_classes != 1000:
                    raise ValueError(f"num_classes={num_classes}: the weights {weights} of {name} have 1000 classes")
                network, weights = torchvision.models.get_model(name, weights=members[enum_name]), None
            else:
                network = torchvision.models.get_model(name, weights=None, num_classes=num_classes)
        elif not isinstance(network, torchvision.models.VisionTransformer):
            raise TypeError(f"network is a {type(network).__name__}, expected a torchvision.models.VisionTransformer")
        elif network.num_classes != num_classes:
            raise ValueError(f"num_classes={num_classes}: the network has {network.num_classes} classes")
        if weights is not None:
            load_weights(network, weights, missing_hint=hint)
        self.name, self.num_classes = name, num_classes
        self.network = network
        self.eval()

    def forward(self, images: Tensor) -> Tensor:
        """Logits f(x).

        Args:
            images: ``(B, C, H, W)`` in [0, 1], of the network's own size in pixels.

        Returns:
            ``(B, K)``.

        Raises:
            ValueError: images of another size.
        """
        return self.forward_attention(images)[0]

    def forward_attention(self, images: Tensor) -> tuple[Tensor, list[Tensor]]:
        """The logits, and every block's attention weights (Dosovitskiy et al. 2021, appendix A).

        Args:
            images: ``(B, C, H, W)`` in [0, 1], of the network's own size in pixels.

        Returns:
            Logits ``(B, K)``; per block, first to last, ``(B, heads, T, T)``, whose rows (the querying token) sum to 1
            over columns (the attended token). Token 0 is the class token, the others are the patches row by row. The
            logits depend on these very tensors, so that they can be differentiated with respect to them.

        Raises:
            ValueError: images of another size.
        """
        tokens, attention = self._encode(images)
        logits: Tensor = self.network.heads(tokens[:, 0])
        return logits, attention

    def forward_features(self, images: Tensor) -> Tensor:
        """The final patch tokens as feature maps, without the class token.

        Args:
            images: ``(B, C, H, W)`` in [0, 1], of the network's own size in pixels.

        Returns:
            ``(B, D, h, w)``, h x w the grid of patches.

        Raises:
            ValueError: images of another size.
        """
        tokens, _ = self._encode(images)
        side = self.network.image_size // self.network.patch_size
        return tokens[:, 1:].transpose(1, 2).reshape(len(images), -1, side, side)

    def stages(self) -> Iterable[Callable[[Tensor], Tensor]]:
        """Raise a TypeError: a vision transformer is no chain of feature maps.

        Raises:
            TypeError: always; names other classifiers and interpreters.
        """
        raise TypeError(
            f"{type(self).__name__}: a vision transformer is no chain of feature maps; take a convolutional "
            "classifier (ResNet, DenseNet, ...), or Attention or Gradient as interpreter"
        )

    def forward_head(self, features: Tensor) -> Tensor:
        """Raise a TypeError: the logits come from the class token, not from patch tokens ``(B, D, h, w)``.

        Args:
            features: ``(B, D, h, w)``, unused.

        Raises:
            TypeError: always; names other classifiers and interpreters.
        """
        raise TypeError(
            f"{type(self).__name__}: the logits come from the class token, not from the patch features, so that CAM "
            "and Grad-CAM do not apply; take Attention or Gradient as interpreter, or a convolutional classifier"
        )

    def _encode(self, images: Tensor) -> tuple[Tensor, list[Tensor]]:
        """All final tokens ``(B, T, D)`` and every block's attention."""
        network, side = self.network, self.network.image_size
        if images.shape[-2:] != (side, side):
            raise ValueError(
                f"images: {tuple(images.shape[-2:])} pixels, {self.name} takes {side} x {side}; resize them in the data"
            )
        patches = network.conv_proj(self.normalize(images)).flatten(2).transpose(1, 2)
        tokens = torch.cat([network.class_token.expand(len(images), -1, -1), patches], dim=1)
        tokens = network.encoder.dropout(tokens + network.encoder.pos_embedding)
        attention = []
        for block in network.encoder.layers:
            mixed, weights = _attend(block.self_attention, block.ln_1(tokens))
            tokens = tokens + block.dropout(mixed)
            tokens = tokens + block.mlp(block.ln_2(tokens))
            attention.append(weights)
        final: Tensor = network.encoder.ln(tokens)
        return final, attention


def _attend(layer: nn.MultiheadAttention, tokens: Tensor) -> tuple[Tensor, Tensor]:
    """Self-attention ``(B, T, D) -> (B, T, D)``, and its weights ``(B, heads, T, T)``.

    The weights that the layer itself returns are a copy beside the path to its output: nothing can be differentiated
    with respect to them.
    """
    projected = F.linear(tokens, layer.in_proj_weight, layer.in_proj_bias).chunk(3, dim=-1)
    by_head = (*tokens.shape[:2], layer.num_heads, layer.head_dim)
    query, key, value = (part.reshape(by_head).transpose(1, 2) for part in projected)
    weights = (query @ key.transpose(-2, -1) * layer.head_dim**-0.5).softmax(dim=-1)
    mixed = (F.dropout(weights, layer.dropout, layer.training) @ value).transpose(1, 2).flatten(2)
    output: Tensor = layer.out_proj(mixed)
    return output, weights
