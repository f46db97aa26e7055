"""LRP: the class score handed back layer by layer, each unit's share in proportion to what it contributed."""

from __future__ import annotations

import copy
import operator
import threading
from collections.abc import Callable
from importlib import import_module
from typing import Any, Literal, get_args

import torch
import torch.nn.functional as F
from torch import Tensor, fx, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval, fuse_linear_bn_eval

from lightning_adv2.functional.attribution import gradient_map, minmax
from lightning_adv2.interpreters.base import Interpreter, require_autograd, require_eager
from lightning_adv2.models import Classifier
from lightning_adv2.types import Interpretation, State

Rules = Literal["epsilon_plus_flat", "epsilon_plus", "epsilon_gamma_box", "epsilon_alpha2_beta1", "epsilon"]

_BATCH_NORMS = nn.BatchNorm1d | nn.BatchNorm2d
_ADD = {operator.add, operator.iadd, torch.add, "add", "add_"}
_RELU = {F.relu, F.relu_, torch.relu, torch.relu_, "relu", "relu_"}
# Averages without weights: the Norm rule shares out in proportion to the inputs, where the gradient would share evenly.
_AVERAGE = {torch.mean, "mean", F.avg_pool2d, F.adaptive_avg_pool2d}
# These only move values about, or pick the largest: their gradient is the right way back for relevance.
_ROUTES: set[object] = {torch.cat, torch.concat, torch.flatten, torch.reshape, torch.permute, torch.transpose}
_ROUTES |= {operator.getitem, F.pad, F.max_pool2d, F.dropout, torch.chunk, torch.split, torch.max_pool2d}
_ROUTES |= {"flatten", "reshape", "view", "permute", "transpose", "contiguous", "chunk", "split", "squeeze", "size"}
_ROUTES |= {getattr, operator.floordiv}  # on shapes
_LAYERS: tuple[type[nn.Module], ...] = (nn.Conv1d, nn.Conv2d, nn.Linear, nn.BatchNorm1d, nn.BatchNorm2d)
_LAYERS += (nn.ReLU, nn.ReLU6, nn.LeakyReLU, nn.ELU, nn.Dropout, nn.Dropout2d, nn.Flatten, nn.Identity)
_LAYERS += (nn.AvgPool2d, nn.AdaptiveAvgPool2d, nn.MaxPool2d, nn.AdaptiveMaxPool2d)


class LRP(Interpreter):
    """Layer-wise relevance propagation (Bach et al. 2015) by zennit's rules; relevance starts as the class's logit.

    The map is the relevance at the normalised image, summed over channels, |.|, mean-pooled, min-max normalised. Its
    gradient with respect to the image is right for every choice of rules, and with the plain ReLU: relevance is made
    of quotients of activations, so it has a slope of its own and the attack needs no smooth surrogate (with one it is
    right, too, but steeper: an activation that is not zero where a sum is has a pole). With respect to the
    classifier's weights, which zennit reads without a graph, there is none.

    The rules are hooked into a private view of the network (:func:`relevance_view`), never into the classifier.

    Args:
        rules: which rule for which layer, by zennit's names. ``epsilon_plus_flat``: Flat for the first layer, ZPlus
            for the other convolutions, Epsilon for dense layers. ``epsilon_plus``: the same without Flat.
            ``epsilon_gamma_box``: ZBox for the first convolution, Gamma for the others. ``epsilon_alpha2_beta1``:
            AlphaBeta for convolutions. ``epsilon``: Epsilon everywhere, the image times its gradient if no layer has
            a bias.
        epsilon: stabiliser of the Epsilon rule.
        pool: side of the averaged square in pixels; None takes 4 from 64 px on and 2 below.

    Raises:
        ImportError: zennit is not installed.
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

    def forward(
        self, classifier: Classifier, images: Tensor, target_class: Tensor, state: State = ()
    ) -> Interpretation:
        """Map ``(B, 1, H / pool, W / pool)``; see :meth:`Interpreter.forward` and :meth:`relevance`."""
        require_autograd(self)
        require_eager(self, classifier)
        differentiable = torch.is_grad_enabled() and images.requires_grad
        pool = self.pool or (4 if min(images.shape[-2:]) >= 64 else 2)
        relevance = self.relevance(classifier, images, target_class, create_graph=differentiable)
        attribution_map = minmax(gradient_map(relevance.sum(dim=1, keepdim=True), pool))
        return Interpretation(classifier(images), attribution_map)  # the view's logits differ by rounding

    def relevance(
        self, classifier: Classifier, images: Tensor, target_class: Tensor, *, create_graph: bool = False
    ) -> Tensor:
        """The relevance of every value of the normalised image for the class's logit.

        Args:
            classifier: the network explained, in eval mode.
            images: ``(B, C, H, W)`` in [0, 1]; requires grad where ``create_graph`` is set.
            target_class: ``(B,)``, the class explained.
            create_graph: keep the graph to ``images``.

        Returns:
            ``(B, C, H, W)``, signed; NaN for an image whose logits are not finite.

        Raises:
            TypeError: the network does something that LRP has no rule for.
            ValueError: a BatchNorm is in train mode.
        """
        view = relevance_view(classifier)
        with torch.enable_grad(), self._composite(classifier).context(view):
            normalized = classifier.normalize(images)
            if not create_graph:
                normalized = normalized.detach().requires_grad_()
            logits = view(normalized)
            # A start that is a function of the logits, not a constant: zennit keeps a graph only for such.
            start = torch.zeros_like(logits).scatter(1, target_class[:, None], 1.0) * logits
            (relevance,) = torch.autograd.grad(logits, normalized, start, create_graph=create_graph)
        # A rule that clamps would turn NaN into a harmless value.
        finite = logits.detach().isfinite().all(1).view(-1, 1, 1, 1)
        return torch.where(finite, relevance, torch.nan)

    def _composite(self, classifier: Classifier) -> Any:
        composites, rules = import_module("zennit.composites"), import_module("zennit.rules")
        mine = [((_Average,), rules.Norm())]
        if self.rules == "epsilon":
            rule = rules.Epsilon(epsilon=self.epsilon)
            layers = [((nn.Conv1d, nn.Conv2d, nn.Linear), rule), *composites.layer_map_base()]
            return composites.LayerMapComposite(layer_map=mine + layers)
        options: dict[str, Any] = {"epsilon": self.epsilon, "layer_map": mine}
        if self.rules == "epsilon_gamma_box":
            black = torch.zeros_like(classifier.mean)
            options |= {"low": classifier.normalize(black), "high": classifier.normalize(black + 1)}
        return composites.COMPOSITES[self.rules](**options)


def relevance_view(classifier: Classifier) -> nn.Module:
    """The network from the normalised image to the logits, as a chain of modules that rules can be hooked into.

    Rules need every ReLU, sum and average as a module of its own, and BatchNorm merged into the layer before it.
    zennit's canonizers bring a network there by overwriting modules and weights and writing them back afterwards, and
    they know only some networks of torchvision. So the computation is traced instead, and rebuilt from modules that
    share the classifier's weights where nothing is merged. A BatchNorm with no such layer before it (DenseNet) stays,
    and relevance passes it unchanged, as in zennit.

    Args:
        classifier: a network of the layers in ``_LAYERS``, or of the functions for them, without train mode.

    Raises:
        TypeError: names what LRP has no rule for, or why the network cannot be traced.
        ValueError: a BatchNorm is in train mode.
    """
    body = _Body(classifier)
    graph = _trace(body)
    made = nn.Module()
    layers = dict(body.named_modules())
    for number, node in enumerate(list(graph.nodes)):
        if node.op in ("placeholder", "output"):
            continue
        layer: nn.Module | None = None
        function = layers[node.target] if node.op == "call_module" else node.target
        if isinstance(function, nn.Module) and isinstance(function, _LAYERS):
            layer = _own(function)
            before = getattr(made, node.args[0].target, None) if node.args[0].op == "call_module" else None
            if isinstance(layer, _BATCH_NORMS):
                if layer.training or layer.running_var is None:
                    raise ValueError("classifier: LRP needs BatchNorm in eval mode; call classifier.eval() first")
                if isinstance(before, nn.Conv1d | nn.Conv2d | nn.Linear) and len(node.args[0].users) == 1:
                    fuse: Any = fuse_linear_bn_eval if isinstance(before, nn.Linear) else fuse_conv_bn_eval
                    setattr(made, node.args[0].target, fuse(before.eval(), layer).requires_grad_(False))
                    node.replace_all_uses_with(node.args[0])
                    graph.erase_node(node)
                    continue
        elif function in _RELU:
            layer = nn.ReLU()
        elif function in _AVERAGE:
            layer = _Average(function, node.args[1:], node.kwargs)
        elif function in _ADD and not node.kwargs and all(isinstance(given, fx.Node) for given in node.args):
            layer = import_module("zennit.layer").Sum()
            with graph.inserting_before(node):
                stacked = graph.call_function(torch.stack, (list(node.args),), {"dim": -1})
            node.args = (stacked,)
        elif function not in _ROUTES:
            named = type(function) if isinstance(function, nn.Module) else function
            what = getattr(named, "__name__", named)
            raise TypeError(
                f"LRP has no rule for {what!r} in {classifier.name}; take a network of convolutions, BatchNorm, ReLU, "
                "pooling, sums and dense layers (ResNet, VGG, DenseNet, MobileNetV2, ...), or another interpreter"
            )
        if layer is not None:
            node.op, node.target, node.args, node.kwargs = "call_module", f"layer{number}", node.args[:1], {}
            made.add_module(node.target, layer)
    return fx.GraphModule(made, graph)


class _Body(nn.Module):
    """A classifier behind its normalisation."""

    def __init__(self, classifier: Classifier) -> None:
        super().__init__()
        self.classifier = classifier

    def forward(self, x: Tensor) -> Tensor:
        for stage in self.classifier.stages():
            x = stage(x)
        return self.classifier.forward_head(x)


class _Average(nn.Module):
    """A function's average as a module; ``call`` is a function, or a tensor method's name."""

    def __init__(self, call: Callable[..., Tensor] | str, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        super().__init__()
        self.call, self.args, self.kwargs = call, args, kwargs

    def forward(self, x: Tensor) -> Tensor:
        call = getattr(Tensor, self.call) if isinstance(self.call, str) else self.call
        average: Tensor = call(x, *self.args, **self.kwargs)
        return average


def _own(layer: nn.Module) -> nn.Module:
    """A layer of one's own with the same tensors and without anyone's hooks."""
    own = copy.copy(layer)
    own.__dict__ = dict(layer.__dict__)
    for key, value in layer.__dict__.items():
        if key in ("_parameters", "_buffers", "_modules"):
            own.__dict__[key] = dict(value)
        elif key.endswith("_hooks") or "_hooks_" in key:
            own.__dict__[key] = type(value)()
    return own


def _trace(body: nn.Module) -> fx.Graph:
    """The computation as a graph, with every ReLU as such."""
    result: list[fx.Graph | Exception] = []

    def trace() -> None:
        try:
            result.append(fx.Tracer().trace(body))
        except Exception as error:
            result.append(error)

    # Function modes belong to a thread. In this one a surrogate may be open, which would write its own formula into
    # the graph in ReLU's place.
    thread = threading.Thread(target=trace)
    thread.start()
    thread.join()
    if isinstance(result[0], Exception):
        raise TypeError(f"LRP cannot follow this network's computation ({result[0]})") from result[0]
    return result[0]
