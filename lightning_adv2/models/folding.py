"""Folding of BatchNorm, a linear map in eval mode, into the convolution before it."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.utils.fusion import fuse_conv_bn_eval


def fold_batchnorm(network: nn.Module, run: Callable[[], object]) -> int:
    """Fold, in place, every BatchNorm in eval mode that reads one convolution's output and nothing else.

    Hooks watch ``run`` to find each BatchNorm's convolution. Other readers of the convolution's output are not seen:
    compare the network's output before and after.

    Args:
        network: in eval mode; keeps its output up to rounding.
        run: passes an input through the whole network.

    Returns:
        The number of BatchNorms folded.
    """
    before: dict[_BatchNorm, set[nn.Module | None]] = defaultdict(set)  # BatchNorm -> what made its inputs
    after: dict[nn.Module, set[nn.Module]] = defaultdict(set)  # convolution -> the BatchNorms that read it

    def made(module: nn.Module, inputs: Any, output: Tensor) -> None:
        output.made_by = module, output._version  # type: ignore[attr-defined]

    def read(module: _BatchNorm, inputs: tuple[Tensor, ...], output: Any) -> None:
        maker, version = getattr(inputs[0], "made_by", (None, 0))
        if inputs[0]._version != version:  # an operation in place: the same tensor with other values
            maker = None
        before[module].add(maker)
        if maker is not None:
            after[maker].add(module)

    convolutions = [m for m in network.modules() if isinstance(m, nn.Conv1d | nn.Conv2d | nn.Conv3d)]
    norms = [m for m in network.modules() if isinstance(m, _BatchNorm) and not m.training]
    handles = [m.register_forward_hook(made) for m in convolutions] + [m.register_forward_hook(read) for m in norms]
    try:
        with torch.no_grad():
            run()
    finally:
        for handle in handles:
            handle.remove()
    folded: dict[nn.Module, nn.Module] = {}
    for norm, makers in before.items():
        (maker,) = makers if len(makers) == 1 else (None,)
        frozen = norm.running_mean is not None  # otherwise it takes the batch's own statistics
        if isinstance(maker, nn.Conv1d | nn.Conv2d | nn.Conv3d) and len(after[maker]) == 1 and frozen:
            kind = maker.weight.dtype
            # In double precision, so that no more than the last digit is lost; Apple's devices have none.
            exact = kind if maker.weight.device.type == "mps" else torch.float64
            folded[maker] = fuse_conv_bn_eval(maker.to(exact), norm.to(exact)).to(kind)
            folded[norm] = nn.Identity()
    for module in list(network.modules()):
        for name, child in list(module.named_children()):
            if child in folded:
                setattr(module, name, folded[child])
    return len(folded) // 2
