"""GRAD: the gradient of the class score with respect to the image."""

from __future__ import annotations

import torch
from torch import Tensor

from lightning_adv2.functional.attribution import gradient_map, input_gradient, minmax
from lightning_adv2.interpreters.base import Interpreter, require_autograd, require_eager
from lightning_adv2.models import Classifier
from lightning_adv2.types import Interpretation, State


class Gradient(Interpreter):
    """m = |d f_c / d x|, the maximum over channels, mean-pooled, min-max normalised (paper section 3.2).

    Args:
        pool: side of the averaged square in pixels; None takes the authors' 4 from 64 px on and 2 below.

    Raises:
        ValueError: ``pool`` below 1.
    """

    name = "grad"

    def __init__(self, pool: int | None = None) -> None:
        super().__init__()
        if pool is not None and pool < 1:
            raise ValueError(f"pool={pool}: must be at least 1 (1 keeps every pixel), or None")
        self.pool = pool

    def forward(self, classifier: Classifier, images: Tensor, class_idx: Tensor, state: State = ()) -> Interpretation:
        """Logits ``(B, K)`` and map ``(B, 1, ceil(H / pool), ceil(W / pool))`` in [0, 1].

        For the arguments see :meth:`Interpreter.forward`.

        Raises:
            TypeError: the classifier is compiled while the map is differentiated.
            RuntimeError: under ``torch.inference_mode``.
        """
        require_autograd(self)
        differentiable = torch.is_grad_enabled() and images.requires_grad
        if differentiable:
            require_eager(self, classifier)
        pool = self.pool or (4 if min(images.shape[-2:]) >= 64 else 2)
        with torch.enable_grad():
            leaf = images if differentiable else images.detach().requires_grad_()
            logits, attribution = self.attribute(classifier, leaf, class_idx, create_graph=differentiable)
        if not differentiable:
            logits, attribution = logits.detach(), attribution.detach()
        return Interpretation(logits, minmax(gradient_map(attribution, pool)))

    def attribute(
        self, classifier: Classifier, images: Tensor, class_idx: Tensor, *, create_graph: bool
    ) -> tuple[Tensor, Tensor]:
        """The logits and the signed attribution behind the map; relatives of the gradient override this method alone.

        Args:
            classifier: the network explained.
            images: ``(B, C, H, W)`` in [0, 1], requires grad.
            class_idx: ``(B,)`` in [0, K), the class explained.
            create_graph: whether the attribution is differentiable with respect to ``images``.

        Returns:
            Logits ``(B, K)`` and the gradient ``(B, C, H, W)``, in logits per pixel range (paper section 3.2).
        """
        logits = classifier(images)
        return logits, input_gradient(logits, images, class_idx, create_graph=create_graph)
