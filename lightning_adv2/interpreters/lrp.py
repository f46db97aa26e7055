"""LRP: the class score propagated back layer by layer, in proportion to the units' contributions."""

from __future__ import annotations

from importlib import import_module
from typing import Any, Literal, get_args

import torch
from torch import Tensor, nn

from lightning_adv2.functional.attribution import gradient_map, minmax
from lightning_adv2.interpreters.base import Interpreter, require_autograd, require_eager
from lightning_adv2.interpreters.relevance_view import Average, relevance_view, require_same_logits
from lightning_adv2.models import Classifier
from lightning_adv2.types import Interpretation, State

Rules = Literal["epsilon_plus_flat", "epsilon_plus", "epsilon_gamma_box", "epsilon_alpha2_beta1", "epsilon"]


class LRP(Interpreter):
    """Layer-wise relevance propagation (Bach et al. 2015) by zennit's rules; relevance starts as the class's logit.

    The map is the relevance at the normalised image, summed over channels, |.|, mean-pooled, min-max normalised. Its
    gradient with respect to the image is correct for every choice of rules, and with the plain ReLU: relevance is made
    of quotients of activations, so it has a slope of its own and the attack needs no smooth surrogate (with a surrogate
    the gradient is correct, too, but steeper: an activation that is not zero where a sum is zero has a pole). With
    respect to the classifier's weights, which zennit reads without a graph, there is no gradient.

    The rules are hooked into a private view of the network (:func:`relevance_view`), never into the classifier.

    Args:
        rules: which rule for which layer, by zennit's names. ``epsilon_plus_flat``: Flat for the first layer, ZPlus for
            the other convolutions, Epsilon for dense layers. ``epsilon_plus``: the same without Flat.
            ``epsilon_gamma_box``: ZBox for the first convolution, Gamma for the others. ``epsilon_alpha2_beta1``:
            AlphaBeta for convolutions. ``epsilon``: Epsilon everywhere, the image times its gradient if no layer has a
            bias.
        epsilon: stabiliser of the Epsilon rule, > 0, in units of the activations.
        pool: side of the averaged square in pixels; None takes 4 from 64 px on and 2 below.

    Raises:
        ImportError: zennit is not installed.
        ValueError: an argument is out of its range.
    """

    name = "lrp"

    def __init__(self, rules: Rules = "epsilon_plus_flat", epsilon: float = 1e-6, pool: int | None = None) -> None:
        super().__init__()
        try:
            import_module("zennit.composites")
        except ImportError as error:
            raise ImportError('LRP needs the library zennit: pip install "lightning-adv2[lrp]"') from error
        if rules not in get_args(Rules):
            raise ValueError(f"rules={rules!r}: choose from {', '.join(get_args(Rules))}")
        if epsilon <= 0:
            raise ValueError(f"epsilon={epsilon}: must be positive (1e-6 only guards the division)")
        if pool is not None and pool < 1:
            raise ValueError(f"pool={pool}: must be at least 1 (1 keeps every pixel), or None")
        self.rules, self.epsilon, self.pool = rules, epsilon, pool

    def forward(self, classifier: Classifier, images: Tensor, class_idx: Tensor, state: State = ()) -> Interpretation:
        """Logits ``(B, K)`` and map ``(B, 1, ceil(H / pool), ceil(W / pool))`` in [0, 1]; see :meth:`relevance`.

        For the arguments see :meth:`Interpreter.forward`.

        Raises:
            TypeError: the network has a part without a rule, or is compiled.
            RuntimeError: under ``torch.inference_mode``.
        """
        require_autograd(self)
        require_eager(self, classifier)
        differentiable = torch.is_grad_enabled() and images.requires_grad
        pool = self.pool or (4 if min(images.shape[-2:]) >= 64 else 2)
        logits = classifier(images)
        relevance = self._relevance(classifier, images, class_idx, logits, create_graph=differentiable)
        attribution_map = minmax(gradient_map(relevance.sum(dim=1, keepdim=True), pool))
        return Interpretation(logits, attribution_map)

    def relevance(
        self, classifier: Classifier, images: Tensor, class_idx: Tensor, *, create_graph: bool = False
    ) -> Tensor:
        """The relevance of every value of the normalised image for the class's logit (Bach et al. 2015).

        Args:
            classifier: the network explained, in eval mode.
            images: ``(B, C, H, W)`` in [0, 1]; requires grad where ``create_graph`` is set.
            class_idx: ``(B,)`` in [0, K), the class explained.
            create_graph: keep the graph to ``images``.

        Returns:
            ``(B, C, H, W)``, signed, in logits; NaN for an image whose logits are not finite.

        Raises:
            TypeError: LRP has no rule for a part of the network, or the rebuilt network is another function.
            ValueError: a BatchNorm is in train mode.
        """
        with torch.no_grad():
            logits = classifier(images)
        return self._relevance(classifier, images, class_idx, logits, create_graph=create_graph)

    def _relevance(
        self, classifier: Classifier, images: Tensor, class_idx: Tensor, expected: Tensor, *, create_graph: bool
    ) -> Tensor:
        """See :meth:`relevance`; ``expected`` are the classifier's logits."""
        view = relevance_view(classifier)
        with torch.enable_grad(), self._composite(classifier).context(view):
            normalized = classifier.normalize(images)
            if not create_graph:
                normalized = normalized.detach().requires_grad_()
            logits = view(normalized)
            require_same_logits("LRP", classifier, expected, logits)
            # A start that is a function of the logits, not a constant: zennit keeps a graph only for such.
            start = torch.zeros_like(logits).scatter(1, class_idx[:, None], 1.0) * logits
            (relevance,) = torch.autograd.grad(logits, normalized, start, create_graph=create_graph)
        # A rule that clamps would turn NaN into a harmless value.
        finite = logits.detach().isfinite().all(1).view(-1, 1, 1, 1)
        return torch.where(finite, relevance, torch.nan)

    def _composite(self, classifier: Classifier) -> Any:
        composites, rules = import_module("zennit.composites"), import_module("zennit.rules")
        mine = [((Average,), rules.Norm())]
        if self.rules == "epsilon":
            rule = rules.Epsilon(epsilon=self.epsilon)
            layers = [((nn.Conv1d, nn.Conv2d, nn.Linear), rule), *composites.layer_map_base()]
            return composites.LayerMapComposite(layer_map=mine + layers)
        options: dict[str, Any] = {"epsilon": self.epsilon, "layer_map": mine}
        if self.rules == "epsilon_gamma_box":
            black = torch.zeros_like(classifier.mean)
            options |= {"low": classifier.normalize(black), "high": classifier.normalize(black + 1)}
        return composites.COMPOSITES[self.rules](**options)
