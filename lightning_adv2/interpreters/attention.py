"""Attention of a vision transformer's class token to the patches, through all blocks."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Literal, get_args

import torch
from torch import Tensor

from lightning_adv2.functional.attribution import minmax
from lightning_adv2.interpreters.base import Interpreter, require_autograd, require_eager
from lightning_adv2.models import Classifier
from lightning_adv2.types import Interpretation, State

Rule = Literal["gradient", "rollout"]


def attention_rollout(attention: Sequence[Tensor]) -> Tensor:
    """The product over blocks of 0.5 A + 0.5 I, A the mean over heads (Abnar and Zuidema 2020, section 3).

    Args:
        attention: per block, first to last, ``(B, heads, T, T)`` in [0, 1], rows sum to 1.

    Returns:
        ``(B, T, T)`` in [0, 1]: the share of each input token (column) in each final token (row).
    """
    rollout = _identity(attention[0])
    for block in attention:
        rollout = 0.5 * (block.mean(dim=1) @ rollout + rollout)
    return rollout


def attention_relevance(attention: Sequence[Tensor], gradients: Sequence[Tensor]) -> Tensor:
    """R <- R + mean over heads of (dz/dA * A)^+ R, from R = I on (Chefer, Gur and Wolf 2021, eq. 1, 5 and 6).

    Args:
        attention: per block, first to last, ``(B, heads, T, T)`` in [0, 1].
        gradients: the class score's derivatives with respect to ``attention``, of the same shapes.

    Returns:
        ``(B, T, T)``, >= 0: the relevance of each input token (column) to each final token (row).

    Raises:
        ValueError: not as many gradients as blocks.
    """
    relevance = _identity(attention[0])
    for block, gradient in zip(attention, gradients, strict=True):
        weight = (gradient * block).clamp(min=0).mean(dim=1)
        relevance = relevance + weight @ relevance
    return relevance


class Attention(Interpreter):
    """A vision transformer's attention from the class token to the patches, min-max normalised, one value per patch.

    The gradient of the map with respect to the image is correct without a surrogate where the network is smooth
    (torchvision's has GELU).

    Args:
        rule: ``gradient`` weighs the attention by its gradient, for the class explained (Chefer, Gur and Wolf 2021);
            ``rollout`` is the attention alone, the same for every class (Abnar and Zuidema 2020).

    Raises:
        ValueError: an unknown rule.
    """

    name = "attention"

    def __init__(self, rule: Rule = "gradient") -> None:
        super().__init__()
        if rule not in get_args(Rule):
            raise ValueError(f"rule={rule!r}: choose from {', '.join(get_args(Rule))}")
        self.rule = rule

    def forward(self, classifier: Classifier, images: Tensor, class_idx: Tensor, state: State = ()) -> Interpretation:
        """Logits ``(B, K)`` and map ``(B, 1, h, w)`` in [0, 1], h x w the grid of patches.

        For the arguments see :meth:`Interpreter.forward`.

        Raises:
            TypeError: the classifier returns no attention, or is compiled while the map is differentiated.
            RuntimeError: under ``torch.inference_mode``.
        """
        forward_attention = getattr(classifier, "forward_attention", None)
        if forward_attention is None:
            raise TypeError(
                f"classifier: {type(classifier).__name__} has no forward_attention; Attention explains a vision "
                "transformer (ViTClassifier), take that or another interpreter"
            )
        if self.rule == "rollout":
            logits, attention = forward_attention(images)
            return Interpretation(logits, _patch_map(attention_rollout(attention)))
        require_autograd(self)
        differentiable = torch.is_grad_enabled() and images.requires_grad
        if differentiable:
            require_eager(self, classifier)
        with torch.enable_grad():
            leaf = images if differentiable else images.detach().requires_grad_()
            logits, attention = forward_attention(leaf)
            score = logits.gather(1, class_idx[:, None]).sum()
            gradients = torch.autograd.grad(score, attention, create_graph=differentiable)
        if not differentiable:
            logits, attention = logits.detach(), [block.detach() for block in attention]
        return Interpretation(logits, _patch_map(attention_relevance(attention, gradients)))


def _identity(like: Tensor) -> Tensor:
    """I, ``(B, T, T)``, for attention ``(B, heads, T, T)``."""
    return torch.eye(like.shape[-1], dtype=like.dtype, device=like.device).expand(len(like), -1, -1)


def _patch_map(tokens: Tensor) -> Tensor:
    """The class token's row of ``(B, T, T)`` without itself, as a map ``(B, 1, h, h)`` in [0, 1]."""
    side = math.isqrt(tokens.shape[-1] - 1)
    return minmax(tokens[:, 0, 1:].reshape(len(tokens), 1, side, side))
