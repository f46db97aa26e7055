"""What an object is, as plain data: its class and settings, and a hash of its weights. Made to be compared later."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping, Sequence
from enum import Enum
from functools import partial
from pathlib import PurePath
from types import BuiltinFunctionType, FunctionType, MethodType
from typing import Any

import pytorch_lightning as pl
import torch
from torch import Tensor, nn

from lightning_adv2.interpreters import Interpreter
from lightning_adv2.models import Classifier, weights_hash

_ADDRESS = re.compile(r" at 0x[0-9a-f]+")


def describe(thing: Any) -> Any:
    """A description in JSON's terms: equal settings give equal descriptions, in any process and at any time.

    An object is its class and its public attributes; a function its name and what it closes over; a tensor its shape
    and hash; a network its class, its public settings, its printed architecture's hash and its weights' hash.

    Args:
        thing: numbers, texts, containers, functions, networks, and objects made of these.
    """
    return _describe(thing, ())


def _describe(thing: Any, above: tuple[int, ...]) -> Any:
    if thing is None or isinstance(thing, (bool, int, str)):
        return thing
    if isinstance(thing, float):
        return thing if thing == thing and abs(thing) != float("inf") else repr(thing)
    if isinstance(thing, (Enum, PurePath, torch.dtype, torch.device)):
        return str(thing)
    if isinstance(thing, Tensor):
        content = thing.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes()
        return {"shape": list(thing.shape), "type": str(thing.dtype), "sha256": hashlib.sha256(content).hexdigest()}
    if isinstance(thing, type):
        return _name(thing)
    if id(thing) in above:
        return "<itself>"
    above = (*above, id(thing))
    if isinstance(thing, Mapping):
        return {str(key): _describe(value, above) for key, value in thing.items()}
    if isinstance(thing, (set, frozenset)):
        return sorted(str(_describe(value, above)) for value in thing)
    if isinstance(thing, Sequence) and not isinstance(thing, bytes):
        return [_describe(value, above) for value in thing]
    if isinstance(thing, nn.Module):
        return _module(thing, above)
    if isinstance(thing, partial):
        return {"function": _describe(thing.func, above), "args": _describe([*thing.args, thing.keywords], above)}
    if isinstance(thing, MethodType):
        return {"function": _name(thing.__func__), "of": _describe(thing.__self__, above)}
    if isinstance(thing, FunctionType):
        return _function(thing, above)
    if isinstance(thing, BuiltinFunctionType) or not hasattr(thing, "__dict__"):
        return _ADDRESS.sub("", repr(thing))
    settings = {key: value for key, value in vars(thing).items() if not key.startswith("_")}
    return {"class": _name(type(thing)), **{key: _describe(value, above) for key, value in settings.items()}}


def describe_training(module: pl.LightningModule, data: Any) -> Any:
    """What a training run is: its module, hyper-parameters, architecture, frozen weights and data.

    Not how long it is, where the data lie, or on how many processes it runs: these may change when it goes on.

    Args:
        module: before its first step.
        data: the data module, or None.
    """
    frozen = hashlib.sha256()
    for name, parameter in sorted(module.named_parameters()):
        if not parameter.requires_grad:
            frozen.update(f"{name} {describe(parameter)}".encode())
    return {
        "module": _name(type(module)),
        "hyper-parameters": describe(dict(module.hparams)),
        "architecture": hashlib.sha256(_ADDRESS.sub("", str(module)).encode()).hexdigest(),
        "frozen weights": frozen.hexdigest(),
        "data": data and {"class": _name(type(data)), "name": describe(getattr(data, "name", None))},
    }


def _module(module: nn.Module, above: tuple[int, ...]) -> Any:
    settings = {k: v for k, v in vars(module).items() if not k.startswith("_") and k != "training"}
    for name, child in module.named_children():
        members = list(child) if isinstance(child, nn.ModuleList) else [child]
        if all(isinstance(member, (Classifier, Interpreter)) for member in members):
            settings[name] = members if isinstance(child, nn.ModuleList) else child
    printed = _ADDRESS.sub("", str(module))  # layers, strides and the like, of which the weights say nothing
    return {
        "class": _name(type(module)),
        **{key: _describe(value, above) for key, value in settings.items()},
        "architecture": hashlib.sha256(printed.encode()).hexdigest(),
        "weights": weights_hash(module),
    }


def _function(function: FunctionType, above: tuple[int, ...]) -> Any:
    cells = zip(function.__code__.co_freevars, function.__closure__ or (), strict=True)
    closed = {name: _describe(cell.cell_contents, above) for name, cell in cells}
    return {"function": _name(function), **closed} if closed else _name(function)


def _name(thing: Any) -> str:
    return f"{thing.__module__}.{thing.__qualname__}"


def differences(before: Any, now: Any, place: str = "") -> list[str]:
    """What differs between two descriptions, one line each: ``epsilon: 0.031 before, 0.05 now``."""
    first, second = _parts(before), _parts(now)
    if first is None or second is None:
        return [] if before == now else [f"{place}: {_short(before)} before, {_short(now)} now"]
    return [
        line
        for key in dict.fromkeys([*first, *second])
        for line in differences(first.get(key, _NOTHING), second.get(key, _NOTHING), f"{place}.{key}".lstrip("."))
    ]


_NOTHING = "(nothing)"


def _parts(thing: Any) -> dict[str, Any] | None:
    if isinstance(thing, Mapping):
        return {str(key): value for key, value in thing.items()}
    return {str(key): value for key, value in enumerate(thing)} if isinstance(thing, list) else None


def _short(thing: Any) -> str:
    """In one line; what is in a part that the other side lacks altogether matters less than that it is there."""
    if isinstance(thing, Mapping):
        return str(thing.get("class") or thing.get("function") or f"{len(thing)} settings")
    return f"{len(thing)} entries" if isinstance(thing, list) else str(thing)
