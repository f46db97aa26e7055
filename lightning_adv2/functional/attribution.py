"""Attribution maps as differentiable functions of the image, one equation each."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from lightning_adv2.functional.classes import class_indices, of_class


def minmax(values: Tensor) -> Tensor:
    """Each image's map scaled linearly to [0, 1], as in the paper; a constant map becomes 0, with zero gradient.

    Args:
        values: ``(B, 1, h, w)``, any range.

    Returns:
        ``(B, 1, h, w)`` in [0, 1]; NaN stays NaN.
    """
    low = values.amin(dim=(1, 2, 3), keepdim=True)
    span = values.amax(dim=(1, 2, 3), keepdim=True) - low
    varied = span != 0  # NaN is "varied": it must stay visible
    # Dividing by 1 where the span is 0 keeps the gradient finite; the outer choice makes it zero there.
    return torch.where(varied, (values - low) / torch.where(varied, span, 1.0), 0.0)


def input_gradient(logits: Tensor, images: Tensor, class_idx: Tensor, *, create_graph: bool) -> Tensor:
    """Derivative of each image's class score with respect to the image (GRAD, paper section 3.2).

    Args:
        logits: ``(B, K)``, computed from ``images``.
        images: ``(B, C, H, W)``, requires grad.
        class_idx: ``(B,)`` in [0, K), the class explained.
        create_graph: keep the graph, so that the result can itself be differentiated.

    Returns:
        ``(B, C, H, W)``, in logits per pixel range; NaN for an image whose logits are not finite.

    Raises:
        RuntimeError: the logits do not depend on ``images``.
        ValueError: ``class_idx`` holds no class indices; see :func:`~lightning_adv2.functional.classes.class_indices`.
    """
    score = of_class(logits, class_idx).sum()
    gradient = torch.autograd.grad(score, images, create_graph=create_graph)[0]
    # ReLU's derivative at NaN is 0, so a broken image would get a harmless map; NaN must stay visible.
    finite = logits.detach().isfinite().all(1).view(-1, *[1] * (images.dim() - 1))
    return torch.where(finite, gradient, torch.nan)


def mean_gradient(
    classify: Callable[[Tensor], Tensor],
    points: Iterable[tuple[float, Tensor]],
    class_idx: Tensor,
    *,
    create_graph: bool,
) -> Tensor:
    """Weighted sum of the class score's derivatives at several points, one point after the other.

    Integrated Gradients and SmoothGrad are sums of this kind (paper section 3.2). Without ``create_graph`` one point's
    graph is in memory at a time; with it, all points' graphs are.

    Args:
        classify: images ``(B, C, H, W)`` -> logits ``(B, K)``.
        points: at least one pair of a weight and images ``(B, C, H, W)``; each pair is drawn when its turn comes.
        class_idx: ``(B,)`` in [0, K), the class explained.
        create_graph: keep the graph to the points (at least one of which then requires grad).

    Returns:
        ``(B, C, H, W)``, in logits per pixel range.

    Raises:
        ValueError: no points.
    """
    total: Tensor | None = None
    with torch.enable_grad():
        for weight, point in points:
            # Not differentiated, a point starts its own graph, which goes when the next point comes.
            at = point if create_graph else point.detach().requires_grad_()
            term = weight * input_gradient(classify(at), at, class_idx, create_graph=create_graph)
            total = term if total is None else total + term
    if total is None:
        raise ValueError("points is empty: a mean gradient needs at least one point")
    return total


def integrated_gradients(
    classify: Callable[[Tensor], Tensor],
    images: Tensor,
    class_idx: Tensor,
    *,
    steps: int,
    baseline: float | Tensor = 0.0,
    create_graph: bool = False,
) -> Tensor:
    """(x - x') times the mean gradient along the straight line from x' to x (Sundararajan et al. 2017, eq. 1).

    The integral is taken by Gauss-Legendre quadrature. The values of an image sum to f_c(x) - f_c(x') up to the error
    of the quadrature (completeness).

    Args:
        classify: images ``(B, C, H, W)`` -> logits ``(B, K)``.
        images: ``(B, C, H, W)``, x; requires grad where ``create_graph`` is set.
        class_idx: ``(B,)`` in [0, K), the class explained.
        steps: number of quadrature points, at least 1.
        baseline: x', one value for all pixels or a tensor ``(B, C, H, W)``.
        create_graph: keep the graph, so that the result can itself be differentiated.

    Returns:
        ``(B, C, H, W)``, signed, in logits.

    Raises:
        ValueError: ``steps`` below 1.
    """
    if steps < 1:
        raise ValueError(f"steps={steps}: give at least 1 quadrature point; 8 suffice for a map")
    nodes, weights = np.polynomial.legendre.leggauss(steps)  # on [-1, 1], where the weights sum to 2
    rule = zip(((1 + nodes) / 2).tolist(), (weights / 2).tolist(), strict=True)
    difference = images - baseline
    points = ((weight, baseline + alpha * difference) for alpha, weight in rule)
    return difference * mean_gradient(classify, points, class_idx, create_graph=create_graph)


def smooth_gradient(
    classify: Callable[[Tensor], Tensor],
    images: Tensor,
    class_idx: Tensor,
    noise: Sequence[Tensor],
    *,
    create_graph: bool = False,
) -> Tensor:
    """Mean gradient over noisy copies of the image (SmoothGrad, Smilkov et al. 2017).

    Args:
        classify: images ``(B, C, H, W)`` -> logits ``(B, K)``.
        images: ``(B, C, H, W)``; requires grad where ``create_graph`` is set.
        class_idx: ``(B,)`` in [0, K), the class explained.
        noise: the noise of each copy, ``(C, H, W)`` or ``(B, C, H, W)``, in units of the pixel range.
        create_graph: keep the graph, so that the result can itself be differentiated.

    Returns:
        ``(B, C, H, W)``, signed, in logits per pixel range.

    Raises:
        ValueError: no noise.
    """
    if not len(noise):
        raise ValueError("noise=[]: give the noise of at least one copy")
    points = ((1 / len(noise), images + n) for n in noise)
    return mean_gradient(classify, points, class_idx, create_graph=create_graph)


def gradient_map(gradient: Tensor, pool: int = 1) -> Tensor:
    """|gradient|, the maximum over channels, mean-pooled and not normalised (paper section 3.2).

    Where ``pool`` does not divide a side, all cells are a little shorter than ``pool`` along that side and cover the
    image evenly: the enlarged map keeps its position.

    Args:
        gradient: ``(B, C, H, W)``.
        pool: side of the square over which the map is averaged, in pixels; the authors take 4 at 224 px and 2 at 32 px.

    Returns:
        ``(B, 1, ceil(H / pool), ceil(W / pool))``, non-negative.
    """
    saliency = gradient.abs().amax(dim=1, keepdim=True)
    if pool == 1:
        return saliency
    height, width = saliency.shape[-2:]
    if height % pool == 0 and width % pool == 0:
        return F.avg_pool2d(saliency, pool)
    down, across = (_cell_means(side, -(-side // pool), saliency) for side in (height, width))
    return down @ saliency @ across.T


def _cell_means(side: int, cells: int, like: Tensor) -> Tensor:
    """``(cells, side)``: the share of each pixel in the mean of each of ``cells`` equal stretches of ``side`` pixels.

    Unlike adaptive pooling, which counts pixels on a boundary fully for both sides, and has no deterministic gradient
    on a GPU.
    """
    edges = torch.arange(cells + 1, dtype=torch.float64) * side / cells
    pixels = torch.arange(side, dtype=torch.float64)
    overlap = torch.minimum(edges[1:, None], pixels + 1) - torch.maximum(edges[:-1, None], pixels)
    return (overlap.clamp(min=0) * cells / side).to(like)


def class_activation(features: Tensor, class_weight: Tensor, class_idx: Tensor) -> Tensor:
    """CAM: sum over k of w[c, k] a[k], not normalised (paper section 3.3; Zhou et al. 2016).

    Args:
        features: ``(B, D, h, w)``, the last convolution's feature maps a.
        class_weight: ``(K, D)``, the final linear layer's weights w.
        class_idx: ``(B,)`` in [0, K), the class explained.

    Returns:
        ``(B, 1, h, w)``, any range.

    Raises:
        ValueError: ``class_idx`` holds no class indices; see :func:`~lightning_adv2.functional.classes.class_indices`.
    """
    index = class_indices(class_idx, len(features), class_weight.device)
    return torch.einsum("bdhw,bd->bhw", features, class_weight[index]).unsqueeze(1)


def grad_cam(features: Tensor, gradient: Tensor) -> Tensor:
    """ReLU(sum over k of alpha[k] a[k]), alpha the spatial mean of the gradient (Selvaraju et al. 2017, eq. 1 and 2).

    Args:
        features: ``(B, D, h, w)``, the last convolution's feature maps a.
        gradient: ``(B, D, h, w)``, the class score's derivative with respect to ``features``.

    Returns:
        ``(B, 1, h, w)``, non-negative; not normalised.
    """
    weight = gradient.mean(dim=(2, 3), keepdim=True)
    # Not a ReLU call: a surrogate for the network's ReLUs would divert it.
    return (weight * features).sum(dim=1, keepdim=True).clamp(min=0)
