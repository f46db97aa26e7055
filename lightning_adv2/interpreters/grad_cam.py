"""Grad-CAM: the last feature maps, weighed by the class score's mean gradient with respect to each map."""

from __future__ import annotations

import torch
from torch import Tensor

from lightning_adv2.functional.attribution import grad_cam, input_gradient, minmax
from lightning_adv2.interpreters.base import Interpreter, require_autograd, require_eager
from lightning_adv2.models import Classifier
from lightning_adv2.types import Interpretation, State

# Of these the first derivative is taken.
_FEATURES = frozenset({"forward", "forward_features", "forward_pyramid", "forward_attention"})


class GradCAM(Interpreter):
    """m = ReLU(sum over k of alpha_k a_k), min-max normalised (Selvaraju et al. 2017; the paper, section 3.3).

    alpha_k is the spatial mean of d f_c / d a_k. Grad-CAM takes any head, CAM one linear layer behind global average
    pooling; on such a head the two differ by the ReLU. Only the head is differentiated.
    """

    name = "gradcam"

    def forward(self, classifier: Classifier, images: Tensor, class_idx: Tensor, state: State = ()) -> Interpretation:
        """Logits ``(B, K)`` and map ``(B, 1, h, w)`` in [0, 1], of the last features' size.

        All zero, with zero gradient, where no pixel has evidence for the class.
        For the arguments see :meth:`Interpreter.forward`.

        Raises:
            TypeError: the classifier's head is compiled while the map is differentiated.
            RuntimeError: under ``torch.inference_mode``.
        """
        require_autograd(self)
        differentiable = torch.is_grad_enabled() and images.requires_grad
        if differentiable:
            require_eager(self, classifier, _FEATURES)
        with torch.set_grad_enabled(differentiable):
            features = classifier.forward_features(images)
        with torch.enable_grad():
            leaf = features if differentiable else features.detach().requires_grad_()
            logits = classifier.forward_head(leaf)
            gradient = input_gradient(logits, leaf, class_idx, create_graph=differentiable)
        if not differentiable:
            logits = logits.detach()
        return Interpretation(logits, minmax(grad_cam(features, gradient)))
