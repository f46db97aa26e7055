"""Attribution methods of captum, for comparison: they are explained and evaluated, never attacked."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from importlib import import_module
from typing import Any, Literal, get_args

import torch
from torch import Tensor, nn

from lightning_adv2.functional.attribution import gradient_map, minmax
from lightning_adv2.interpreters.base import Interpreter, require_autograd
from lightning_adv2.interpreters.relevance_view import bends, relevance_view, require_same_logits
from lightning_adv2.models import Classifier
from lightning_adv2.types import Interpretation, State

Method = Literal[
    "Saliency", "InputXGradient", "IntegratedGradients", "Occlusion", "DeepLift", "GuidedBackprop", "Deconvolution"
]
# These methods change the gradients of the modules listed, by hooks, and silently ignore other modules. Behind a
# maximum guided back-propagation and deconvolution take the plain gradient by definition.
_MAXIMA = {"MaxPool2d", "AdaptiveMaxPool2d", "max_pool2d"}
_FOLLOWED: dict[str, set[str]] = {
    "DeepLift": {"ReLU", "LeakyReLU", "ELU", "MaxPool2d"},
    "GuidedBackprop": {"ReLU"} | _MAXIMA,
    "Deconvolution": {"ReLU"} | _MAXIMA,
}


class Captum(Interpreter):
    """An attribution method of captum by its name, reduced to a map as GRAD is.

    captum keeps no graph of the attribution, or a graph with wrong values, so that its map cannot be attacked: make the
    attack on another map, or on the classifier alone, and evaluate this interpreter on the result, as one of the
    ``judges`` of :class:`~lightning_adv2.studies.TransferEvaluation`.

    ``DeepLift`` (Shrikumar et al. 2017), ``GuidedBackprop`` (Springenberg et al. 2015) and ``Deconvolution`` (Zeiler
    and Fergus 2014) set hooks on modules. In a network that calls its ReLUs as functions captum silently returns
    another quantity (for DeepLift, the gradient times the difference to the baseline); where one module is used twice
    it refuses. So these methods get a private view of the network with a module for every ReLU (``relevance_view``),
    and the classifier never carries a hook.

    captum's DeepLift is not quite complete behind max pooling: the attributions' sum missed the logit's change by 1 %
    for ResNet-50 and by half for SqueezeNet (3 % of the attributions' absolute sum).

    Args:
        method: name of a class of ``captum.attr``.
        options: passed to its ``attribute`` (such as ``n_steps`` and ``internal_batch_size`` for IntegratedGradients,
            ``sliding_window_shapes`` and ``strides`` for Occlusion, ``baselines``); lists become tuples.
        pool: side of the averaged square in pixels; None takes 4 from 64 px on and 2 below.
        name: for tables and log keys; by default ``captum-`` and the method in lower case.

    Raises:
        ImportError: captum is not installed.
        ValueError: an unknown method, ``pool`` below 1, or options that the method cannot take.
    """

    differentiable = False

    def __init__(
        self,
        method: Method,
        options: Mapping[str, Any] | None = None,
        pool: int | None = None,
        name: str | None = None,
    ) -> None:
        super().__init__()
        try:
            import_module("captum.attr")
        except ImportError as error:
            raise ImportError('Captum needs the library captum: pip install "lightning-adv2[compare]"') from error
        if method not in get_args(Method):
            raise ValueError(f"method={method!r}: choose from {', '.join(get_args(Method))}")
        if pool is not None and pool < 1:
            raise ValueError(f"pool={pool}: must be at least 1 (1 keeps every pixel), or None")
        options = {key: tuple(v) if isinstance(v, list) else v for key, v in (options or {}).items()}
        if reserved := sorted({"inputs", "target", "return_convergence_delta"} & options.keys()):
            raise ValueError(f"options={reserved}: set by the interpreter itself; leave them out")
        if method == "Occlusion" and "sliding_window_shapes" not in options:
            raise ValueError("options: Occlusion needs sliding_window_shapes, such as [3, 8, 8]")
        self.method, self.options, self.pool = method, options, pool
        self.name = name or f"captum-{method.lower()}"

    def forward(self, classifier: Classifier, images: Tensor, class_idx: Tensor, state: State = ()) -> Interpretation:
        """Logits ``(B, K)`` and map ``(B, 1, ceil(H / pool), ceil(W / pool))`` in [0, 1], without a graph.

        For the arguments see :meth:`Interpreter.forward`.

        Raises:
            TypeError: the method gives no correct attribution on this network.
            RuntimeError: under ``torch.inference_mode``.
        """
        pool = self.pool or (4 if min(images.shape[-2:]) >= 64 else 2)
        attribution = self.attribute(classifier, images, class_idx)
        return Interpretation(classifier(images), minmax(gradient_map(attribution, pool)))

    def attribute(self, classifier: Classifier, images: Tensor, class_idx: Tensor) -> Tensor:
        """captum's attribution of every value of the images.

        Args:
            classifier: the network explained, in eval mode.
            images: ``(B, C, H, W)`` in [0, 1].
            class_idx: ``(B,)`` in [0, K), the class explained.

        Returns:
            ``(B, C, H, W)``, signed, detached; NaN for an image whose logits are not finite.

        Raises:
            TypeError: the method gives no correct attribution on this network.
            RuntimeError: under ``torch.inference_mode``.
        """
        require_autograd(self)
        with torch.no_grad():
            logits = classifier(images)
            finite = logits.isfinite().all(1)
        # Hooks and comparisons would turn NaN into a harmless value, or spread it to other images.
        attribution = torch.full_like(images, torch.nan)
        if not finite.any():
            return attribution
        network: nn.Module = classifier
        if self.method in _FOLLOWED:
            network = self._hookable(classifier)
            with torch.no_grad():
                require_same_logits(f"captum's {self.method}", classifier, logits, network(images))
        explainer = getattr(import_module("captum.attr"), self.method)(network)
        given = images.detach()[finite].requires_grad_()
        with warnings.catch_warnings(), torch.enable_grad():
            warnings.filterwarnings("ignore", message=r"\s*Setting .*hooks", category=UserWarning)
            shares = explainer.attribute(given, target=class_idx[finite], **self.options)
        attribution[finite] = shares.detach().to(images)  # Occlusion works in single precision only
        return attribution

    def _hookable(self, classifier: Classifier) -> nn.Module:
        """The whole network, with all that bends as a module that captum knows."""
        try:
            view = relevance_view(classifier)
        except TypeError as error:
            raise TypeError(f"captum's {self.method} cannot be set up on {classifier.name}: {error}") from error
        overlooked = sorted(bends(view) - _FOLLOWED[self.method])
        if overlooked:
            raise TypeError(
                f"captum's {self.method} overlooks {', '.join(overlooked)} in {classifier.name} and would be "
                "wrong without a word; take another method or classifier"
            )
        return nn.Sequential(_Normalize(classifier), view)


class _Normalize(nn.Module):
    """A classifier's first step; the classifier itself stays outside, out of reach of hooks."""

    def __init__(self, classifier: Classifier) -> None:
        super().__init__()
        self.normalize = classifier.normalize

    def forward(self, images: Tensor) -> Tensor:
        return self.normalize(images)
