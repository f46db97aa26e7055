"""Attribution maps as differentiable functions of the image, one equation each."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


def minmax(values: Tensor) -> Tensor:
    """Scale each image's map linearly to [0, 1]; a constant map becomes all zero, with zero gradient.

    Args:
        values: ``(B, 1, h, w)``, any range.

    Returns:
        ``(B, 1, h, w)`` in [0, 1].
    """
    low = values.amin(dim=(1, 2, 3), keepdim=True)
    span = values.amax(dim=(1, 2, 3), keepdim=True) - low
    varied = span != 0  # NaN is "varied": it must stay visible
    # Dividing by 1 where the span is 0 keeps the gradient finite; the outer choice makes it zero there.
    return torch.where(varied, (values - low) / torch.where(varied, span, 1.0), 0.0)


def input_gradient(logits: Tensor, images: Tensor, target_class: Tensor, *, create_graph: bool) -> Tensor:
    """The derivative of each image's own class score with respect to that image (GRAD, paper section 3.2).

    Args:
        logits: ``(B, K)``, computed from ``images``.
        images: ``(B, C, H, W)``, requires grad.
        target_class: ``(B,)``, the class explained.
        create_graph: keep the graph, so that the result can itself be differentiated.

    Returns:
        ``(B, C, H, W)``.
    """
    score = logits.gather(1, target_class[:, None]).sum()
    return torch.autograd.grad(score, images, create_graph=create_graph)[0]


def gradient_map(gradient: Tensor, pool: int = 1) -> Tensor:
    """|gradient|, the maximum over channels, mean-pooled; not normalised.

    Args:
        gradient: ``(B, C, H, W)``.
        pool: side of the square over which the map is averaged, in pixels.

    Returns:
        ``(B, 1, H // pool, W // pool)``, non-negative.
    """
    saliency = gradient.abs().amax(dim=1, keepdim=True)
    return F.avg_pool2d(saliency, pool) if pool > 1 else saliency


def class_activation(features: Tensor, class_weight: Tensor, target_class: Tensor) -> Tensor:
    """CAM: sum over k of w[c, k] a[k] (paper section 3.3); not normalised.

    Args:
        features: ``(B, D, h, w)``, the last convolution's feature maps a.
        class_weight: ``(K, D)``, the final linear layer's weights w.
        target_class: ``(B,)``, the class explained.

    Returns:
        ``(B, 1, h, w)``, any range.
    """
    return torch.einsum("bdhw,bd->bhw", features, class_weight[target_class]).unsqueeze(1)
