"""GRAD: the gradient of the class score with respect to the image."""

from __future__ import annotations

import torch
from torch import Tensor

from lightning_adv2.functional.attribution import gradient_map, input_gradient, minmax
from lightning_adv2.interpreters.base import Interpreter, require_autograd
from lightning_adv2.models import Classifier
from lightning_adv2.types import Interpretation, State


class Gradient(Interpreter):
    """m = |d f_c / d x|, the maximum over channels, mean-pooled, min-max normalised (paper section 3.2).

    Args:
        pool: side of the averaged square in pixels; None takes the authors' 4 from 64 px on and 2 below.
    """

    name = "grad"

    def __init__(self, pool: int | None = None) -> None:
        super().__init__()
        if pool is not None and pool < 1:
            raise ValueError(f"pool={pool}: must be at least 1 (1 keeps every pixel), or None")
        self.pool = pool

    def forward(
        self, classifier: Classifier, images: Tensor, target_class: Tensor, state: State = ()
    ) -> Interpretation:
        """Map ``(B, 1, H / pool, W / pool)``; see :meth:`Interpreter.forward`."""
        require_autograd(self)
        differentiable = torch.is_grad_enabled() and images.requires_grad
        pool = self.pool or (4 if min(images.shape[-2:]) >= 64 else 2)
        with torch.enable_grad():
            leaf = images if differentiable else images.detach().requires_grad_()
            logits = classifier(leaf)
            gradient = input_gradient(logits, leaf, target_class, create_graph=differentiable)
        # ReLU's derivative at NaN is 0, so a broken image would get a harmless map; NaN must stay visible.
        finite = logits.detach().isfinite().all(1).view(-1, 1, 1, 1)
        attribution_map = minmax(torch.where(finite, gradient_map(gradient, pool), torch.nan))
        return Interpretation(logits if differentiable else logits.detach(), attribution_map)
