"""What an object is, as plain data: its class and settings, and a hash of its weights. Made to be compared later."""

from __future__ import annotations

import hashlib
import re
import sys
import sysconfig
from collections.abc import Mapping, Sequence
from enum import Enum
from functools import cache, partial
from pathlib import Path, PurePath
from types import BuiltinFunctionType, FunctionType, MethodType, ModuleType
from typing import Any

import numpy as np
import pytorch_lightning as pl
import torch
from torch import Tensor, nn

from lightning_adv2.interpreters import Interpreter
from lightning_adv2.models import Classifier, weights_hash

_ADDRESS = re.compile(r" at 0x[0-9a-f]+")


def describe(thing: Any) -> Any:
    """A description in JSON's terms: equal settings give equal descriptions, in any process and at any time.

    Of classes and functions in files of somebody's own the file's hash is part of the name.
    An object is its class and its settings; a function its name, its defaults and what it closes over; a tensor or
    array its shape and hash; a generator its state; a network its class, its settings, its printed architecture's hash
    and its weights' hash.

    Settings are all public attributes, and of the private ones those that are numbers, texts, or tuples of such. So
    what an object fills in while it is used belongs into a private attribute, and into no number, text or tuple. An
    object that knows better what it is has a method ``description()``, which returns its settings.

    Args:
        thing: numbers, texts, containers, functions, networks, and objects made of these.

    Raises:
        TypeError: part of it is an object whose settings cannot be seen.
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
    if isinstance(thing, np.generic):
        return {"type": str(thing.dtype), "value": _describe(thing.item(), above)}
    if isinstance(thing, np.ndarray) and not thing.dtype.hasobject:
        sha256 = hashlib.sha256(thing.tobytes()).hexdigest()
        return {"shape": list(thing.shape), "type": str(thing.dtype), "sha256": sha256}
    if isinstance(thing, torch.Generator):
        return {"class": _name(type(thing)), "device": str(thing.device), "state": _describe(thing.get_state(), above)}
    if isinstance(thing, type):
        return _name(thing)
    if isinstance(thing, ModuleType):
        return thing.__name__
    if id(thing) in above:
        return "<itself>"
    above = (*above, id(thing))
    if isinstance(thing, Mapping):
        return {str(key): _describe(value, above) for key, value in thing.items()}
    if isinstance(thing, (set, frozenset)):
        return sorted(str(_describe(value, above)) for value in thing)
    if isinstance(thing, Sequence) and not isinstance(thing, bytes):
        return [_describe(value, above) for value in thing]
    if isinstance(thing, np.ndarray):
        return _describe(thing.tolist(), above)
    if callable(getattr(type(thing), "description", None)):
        return {"class": _name(type(thing)), **_describe(thing.description(), above)}
    if isinstance(thing, nn.Module):
        return _module(thing, above)
    if isinstance(thing, partial):
        return {"function": _describe(thing.func, above), "args": _describe([*thing.args, thing.keywords], above)}
    if isinstance(thing, MethodType):
        return {"function": _name(thing.__func__), "of": _describe(thing.__self__, above)}
    if isinstance(thing, FunctionType):
        return _function(thing, above)
    if isinstance(thing, BuiltinFunctionType):
        return _builtin(thing, above)
    slots = {slot for base in type(thing).__mro__ for slot in _slots(base) if hasattr(thing, slot)}
    if hasattr(thing, "__dict__") or slots:
        settings = _settings({slot: getattr(thing, slot) for slot in sorted(slots)} | getattr(thing, "__dict__", {}))
        return {"class": _name(type(thing)), **{key: _describe(value, above) for key, value in settings.items()}}
    if _ADDRESS.search(repr(thing)):
        raise TypeError(
            f"cannot tell what {thing!r} is, and so whether a later run has the same; give a number, text or object "
            "with attributes, or give its class a method description() that returns its settings"
        )
    return repr(thing)


def describe_training(module: pl.LightningModule, data: Any, trainer: pl.Trainer | None = None) -> Any:
    """What a training run is: its module, hyper-parameters, architecture, frozen weights, data, and how a step is made.

    Not how long it is, where the data lie, how they are loaded, or how often it is validated: these may change when it
    goes on. Its seed is the checkpoint's, whatever is set. The number of processes may change, too, where all together
    still take as many images at once.

    Args:
        module: before its first step.
        data: the data module, or None.
        trainer: runs the training; None leaves out what it decides.
    """
    own: Any = getattr(module, "description", dict)  # settings that are objects, and so no hyper-parameters
    return {
        "module": _name(type(module)),
        "hyper-parameters": describe({**module.hparams, **own()}),
        "architecture": hashlib.sha256(_ADDRESS.sub("", str(module)).encode()).hexdigest(),
        "frozen weights": _frozen(module, ""),
        "data": data and _data(data),
        "step": _step(data, trainer),
    }


def _frozen(module: nn.Module, place: str) -> dict[str, Any]:
    """A hash for each part that is frozen as a whole, statistics and normalisation included, and of what is left."""
    if not any(parameter.requires_grad for parameter in module.parameters()):
        return {place: weights_hash(module)} if next(module.parameters(), None) is not None else {}
    own = module.named_parameters(recurse=False)
    found = {f"{place}{name}": describe(value) for name, value in own if not value.requires_grad}
    for name, child in module.named_children():
        found |= _frozen(child, f"{place}{name}.")
    return found


_STEP_SETTINGS = (
    "precision", "gradient_clip_val", "gradient_clip_algorithm", "accumulate_grad_batches", "limit_train_batches",
    "limit_val_batches", "overfit_batches",
)  # fmt: skip


def _step(data: Any, trainer: pl.Trainer | None) -> dict[str, Any]:
    """From which images, and how, a step computes."""
    size, processes = getattr(data, "batch_size", None), trainer.world_size if trainer else 1
    found: dict[str, Any] = {"images at once": size * processes if isinstance(size, int) else size}
    return found | {name: describe(getattr(trainer, name, None)) for name in _STEP_SETTINGS}


_DATA_SETTINGS = ("seed", "resize", "crop", "transform", "exif_rotation", "balanced")


def _data(data: Any) -> dict[str, Any]:
    """Which images."""
    found: dict[str, Any] = {"class": _name(type(data))}
    found |= {name: describe(getattr(data, name)) for name in _DATA_SETTINGS if hasattr(data, name)}
    if getattr(data, "bit_depth", None) is not None:  # newer than the runs that know nothing of it
        found["bit_depth"] = data.bit_depth
    if not hasattr(data, "dataset"):
        return found
    train = data.dataset("train")
    found |= {"classes": describe(getattr(train, "classes", None)), "train images": _images(train)}
    try:
        return found | {"val images": _images(data.dataset("val"))}
    except FileNotFoundError:  # a run without validation
        return found


def _images(dataset: Any) -> dict[str, Any]:
    content = {"content": dataset.fingerprint()} if hasattr(dataset, "fingerprint") else {}
    return {"count": len(dataset)} | content


def _settings(attributes: Mapping[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in attributes.items() if not key.startswith("_") or _is_plain(value)}


def _is_plain(value: Any) -> bool:
    return isinstance(value, (bool, int, float, str)) or (isinstance(value, tuple) and all(map(_is_plain, value)))


def _slots(base: type) -> Sequence[str]:
    slots = base.__dict__.get("__slots__", ())
    return [slots] if isinstance(slots, str) else [slot for slot in slots if slot not in ("__dict__", "__weakref__")]


_MODULE_ATTRIBUTES = vars(nn.Module()).keys()


def _module(module: nn.Module, above: tuple[int, ...]) -> Any:
    settings = _settings({k: v for k, v in vars(module).items() if k not in _MODULE_ATTRIBUTES})
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
    defaults = [*(function.__defaults__ or ()), *([function.__kwdefaults__] if function.__kwdefaults__ else [])]
    if defaults:
        closed["defaults"] = _describe(defaults, above)
    return {"function": _name(function), **closed} if closed else _name(function)


def _builtin(function: Any, above: tuple[int, ...]) -> Any:
    owner = function.__self__
    if owner is None or isinstance(owner, (type, ModuleType)):
        return _ADDRESS.sub("", repr(function))
    return {"function": function.__qualname__, "of": _describe(owner, above)}


def _name(thing: Any) -> str:
    """Its full name; of what is in a file of somebody's own, with some digits of the file's hash: code is a setting."""
    return f"{thing.__module__}.{thing.__qualname__}{_source_mark(thing.__module__)}"


_INSTALLED = tuple(Path(sysconfig.get_paths()[key]).resolve() for key in ("stdlib", "purelib", "platlib"))
_PACKAGE = Path(__file__).resolve().parents[1]


@cache
def _source_mark(module: str) -> str:
    """``@`` and 8 digits of the SHA-256 of a module's file; empty for this package and for installed ones."""
    file = getattr(sys.modules.get(module), "__file__", None)
    path = Path(file).resolve() if file else _PACKAGE
    if any(path.is_relative_to(known) for known in (_PACKAGE, *_INSTALLED)) or not path.is_file():
        return ""
    return f"@{hashlib.sha256(path.read_bytes()).hexdigest()[:8]}"


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
