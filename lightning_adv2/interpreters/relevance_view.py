"""A network rebuilt as a chain of modules that take rules and hooks, and compared with the classifier."""

from __future__ import annotations

import copy
import operator
import threading
from collections.abc import Callable
from importlib import import_module
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, fx, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval, fuse_linear_bn_eval

from lightning_adv2.models import Classifier

_BATCH_NORMS = nn.BatchNorm1d | nn.BatchNorm2d
_ADD: set[object] = {operator.add, operator.iadd, torch.add, "add", "add_"}
_RELU = {F.relu, F.relu_, torch.relu, torch.relu_, "relu", "relu_"}
# Averages without weights: the Norm rule shares out in proportion to the inputs, where the gradient would share evenly.
_AVERAGE = {torch.mean, "mean", F.avg_pool2d, F.adaptive_avg_pool2d}
# These only move values, or pick the largest: their gradient propagates relevance correctly.
_ROUTES: set[object] = {torch.cat, torch.concat, torch.flatten, torch.reshape, torch.permute, torch.transpose}
_ROUTES |= {operator.getitem, F.pad, F.max_pool2d, F.dropout, torch.chunk, torch.split, torch.max_pool2d}
_ROUTES |= {"flatten", "reshape", "view", "permute", "transpose", "contiguous", "chunk", "split", "squeeze", "size"}
_ROUTES |= {getattr, operator.floordiv}  # on shapes
_LAYERS: tuple[type[nn.Module], ...] = (nn.Conv1d, nn.Conv2d, nn.Linear, nn.BatchNorm1d, nn.BatchNorm2d)
_LAYERS += (nn.ReLU, nn.ReLU6, nn.LeakyReLU, nn.ELU, nn.Dropout, nn.Dropout2d, nn.Flatten, nn.Identity)
_LAYERS += (nn.AvgPool2d, nn.AdaptiveAvgPool2d, nn.MaxPool2d, nn.AdaptiveMaxPool2d)
# Linear in the input, or a choice of positions: relevance follows the gradient.
_STRAIGHT = {"Conv1d", "Conv2d", "Linear", "BatchNorm1d", "BatchNorm2d", "Dropout", "Dropout2d", "Flatten", "Identity"}
_STRAIGHT |= {"AvgPool2d", "AdaptiveAvgPool2d", "Sum", "Average"}
_BENT_ROUTES = {"max_pool2d"}
# As a share of the largest logit. Single precision leaves about 1e-6, a GPU's TF32 up to 1e-2.
TOLERANCE, TOLERANCE_GPU = 1e-3, 3e-2


def relevance_view(classifier: Classifier) -> fx.GraphModule:
    """The network from the normalised image to the logits, as a chain of modules that rules can be hooked into.

    Rules need every ReLU, sum and average as a module of its own, and BatchNorm merged into the layer before it.
    zennit's canonizers overwrite modules and weights for this and restore them afterwards, and know only some networks
    of torchvision. So the computation is traced instead, and rebuilt from modules that share the classifier's weights
    where nothing is merged. A BatchNorm with no such layer before it (DenseNet) stays, and relevance passes it
    unchanged, as in zennit.

    Args:
        classifier: a network of the layers in ``_LAYERS``, or of the functions for them, in eval mode.

    Raises:
        TypeError: names the part that LRP has no rule for, or the reason why the network cannot be traced.
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
            layer = Average(function, node.args[1:], node.kwargs)
        elif function in _ADD and not node.kwargs and all(isinstance(given, fx.Node) for given in node.args):
            layer = import_module("zennit.layer").Sum()
            with graph.inserting_before(node):
                summands = graph.call_function(torch.broadcast_tensors, tuple(node.args))
                stacked = graph.call_function(torch.stack, (summands,), {"dim": -1})
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


class Average(nn.Module):
    """A function's average as a module, for zennit's Norm rule.

    Args:
        call: a function, or a tensor method's name.
        args: positional arguments behind the tensor.
        kwargs: keyword arguments.
    """

    def __init__(self, call: Callable[..., Tensor] | str, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        super().__init__()
        self.call, self.args, self.kwargs = call, args, kwargs

    def forward(self, x: Tensor) -> Tensor:
        """The function's value at ``x``, any shape."""
        call = getattr(Tensor, self.call) if isinstance(self.call, str) else self.call
        average: Tensor = call(x, *self.args, **self.kwargs)
        return average


def _own(layer: nn.Module) -> nn.Module:
    """A layer of one's own with the same tensors, without anyone's hooks, that does not write into its input."""
    own = copy.copy(layer)
    own.__dict__ = dict(layer.__dict__)
    for key, value in layer.__dict__.items():
        if key in ("_parameters", "_buffers", "_modules"):
            own.__dict__[key] = dict(value)
        elif key.endswith("_hooks") or "_hooks_" in key:
            own.__dict__[key] = type(value)()
    if "inplace" in own.__dict__:
        own.__dict__["inplace"] = False
    return own


class _Tracer(fx.Tracer):
    """Records what its thread calls.

    torch.fx patches ``nn.Module`` for the whole process while it traces: another thread's calls pass through here, too.
    """

    def trace(self, root: nn.Module | Callable[..., Any], concrete_args: dict[str, Any] | None = None) -> fx.Graph:
        self.thread = threading.get_ident()
        return super().trace(root, concrete_args)

    def call_module(
        self, m: nn.Module, forward: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> Any:
        if threading.get_ident() != self.thread:
            return forward(*args, **kwargs)
        return super().call_module(m, forward, args, kwargs)

    def getattr(self, attr: str, attr_val: Any, parameter_proxy_cache: dict[str, fx.Proxy]) -> Any:
        if threading.get_ident() != self.thread:
            return attr_val
        return super().getattr(attr, attr_val, parameter_proxy_cache)


# Two traces at once would restore each other's patches in the wrong order, permanently.
_TRACING = threading.Lock()


def _trace(body: nn.Module) -> fx.Graph:
    """The computation as a graph, with every ReLU as such and every in-place statement as an expression."""
    result: list[fx.Graph | Exception] = []

    def trace() -> None:
        try:
            with _TRACING:
                result.append(_Tracer().trace(body))
        except Exception as error:
            result.append(error)

    # Function modes belong to a thread. In this one a surrogate may be open, which would write its own formula into
    # the graph in ReLU's place.
    thread = threading.Thread(target=trace)
    thread.start()
    thread.join()
    if isinstance(result[0], Exception):
        raise TypeError(f"LRP cannot follow this network's computation ({result[0]})") from result[0]
    graph = result[0]
    _read_what_was_written(graph, dict(body.named_modules()))
    return graph


def _read_what_was_written(graph: fx.Graph, layers: dict[str, nn.Module]) -> None:
    """Let everything behind an in-place operation read its result, under whichever name the tensor goes."""
    nodes = list(graph.nodes)
    for number, node in enumerate(nodes):
        target = _written(node, layers)
        if target is not None:
            later = set(nodes[number + 1 :])
            target.replace_all_uses_with(node, delete_user_cb=later.__contains__)


def _written(node: fx.Node, layers: dict[str, nn.Module]) -> fx.Node | None:
    """The node whose tensor an operation writes into, if any."""
    given = node.kwargs.get("out")
    if given is None:
        name = node.target if isinstance(node.target, str) else getattr(node.target, "__name__", "")
        inplace = node.kwargs.get("inplace") is True
        if node.op == "call_module":
            inplace = getattr(layers[str(node.target)], "inplace", False) is True
        elif node.op in ("call_method", "call_function"):
            inplace |= name.endswith("_") and not name.endswith("__")
        given = (node.args[0] if node.args else node.kwargs.get("input")) if inplace else None
    return given if isinstance(given, fx.Node) else None


def require_same_logits(method: str, classifier: Classifier, expected: Tensor, found: Tensor) -> None:
    """Raise a TypeError where the rebuilt network is another function than the classifier.

    Args:
        method: named in the error.
        classifier: named in the error.
        expected: the classifier's logits ``(B, K)``.
        found: the rebuilt network's logits ``(B, K)`` of the same images.

    Raises:
        TypeError: they differ by more than 1e-3 of the largest logit (3e-2 on a GPU in single precision).
    """
    first, second = expected.detach(), found.detach()
    same = first.shape == second.shape
    if same and len(first):
        finite = first.isfinite().all(1, keepdim=True)
        worst = torch.where(finite, (first - second).abs(), 0.0).max()
        tolerance = TOLERANCE_GPU if first.is_cuda and first.dtype == torch.float32 else TOLERANCE
        same = bool(worst <= tolerance * torch.where(finite, first.abs(), 0.0).max().clamp(min=1))
    if not same:
        raise TypeError(
            f"{method} cannot follow {classifier.name}: rebuilt from its modules the network has other logits. Where "
            "it changes a tensor under another name (z.view(...).add_(y), or s = z; s += y), write an expression; or "
            "take another interpreter"
        )


def bends(view: fx.GraphModule) -> set[str]:
    """The names of the activations and maxima in a :func:`relevance_view`.

    Args:
        view: the rebuilt network.
    """
    present = {type(module).__name__ for module in view.modules() if not list(module.children())}
    called = {getattr(node.target, "__name__", str(node.target)) for node in view.graph.nodes}
    return (present - _STRAIGHT) | (called & _BENT_ROUTES)
