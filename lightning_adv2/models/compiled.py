"""Detection of compiled networks, whose first derivatives are correct and whose second derivatives are lost."""

from __future__ import annotations

from functools import cache

import torch
from torch import nn


def compiled_part(network: nn.Module, spared: frozenset[str] = frozenset()) -> str | None:
    """The path of the first part of a network that ``torch.compile`` or TorchScript runs.

    AOTAutograd's backward pass has no graph: ``create_graph=True`` raises an error, or returns a gradient that does not
    depend on the image. TorchScript calls no function mode, and so keeps its ReLUs inside a surrogate.

    Args:
        network: a module, compiled by any of ``torch.compile(module)``, ``module.compile()``, a compiled method, or a
            decorated method.
        spared: names of the methods of ``network`` itself that may be compiled.

    Returns:
        A dotted path, ``""`` for the network itself, or None where nothing is compiled.
    """
    path: str
    for path, part in network.named_modules():
        methods = {name for name, value in vars(part).items() if _is_compiled(value)} | _compiled_methods(
            part.__class__
        )
        wrapped = "_orig_mod" in part._modules or getattr(part, "_compiled_call_impl", None) is not None
        if wrapped or methods - (spared if not path else frozenset()) or isinstance(part, torch.jit.ScriptModule):
            return path
    return None


def _is_compiled(value: object) -> bool:
    return callable(value) and hasattr(value, "_torchdynamo_orig_callable")


@cache
def _compiled_methods(kind: type) -> frozenset[str]:
    return frozenset(name for base in kind.__mro__ for name, value in vars(base).items() if _is_compiled(value))
