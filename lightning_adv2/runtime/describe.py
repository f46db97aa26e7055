"""Descriptions of objects as plain data, class, settings and a hash of the weights, for later comparison."""

from __future__ import annotations

import hashlib
import inspect
import math
import re
import sys
import sysconfig
from collections.abc import Mapping, Sequence, Set
from copyreg import __newobj__  # type: ignore[attr-defined]
from enum import Enum
from functools import cache, singledispatch
from pathlib import Path, PurePath
from types import FunctionType, ModuleType
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from lightning_adv2.interpreters import Interpreter
from lightning_adv2.models import Classifier, weights_hash

_NETWORK_ATTRIBUTES = vars(nn.Module()).keys()


def describe(thing: Any, above: tuple[int, ...] = ()) -> Any:
    """Return a description in JSON's terms: equal settings give equal descriptions, in any process and at any time.

    The description of an object is its class and what pickle would keep of it; of a function its name, its defaults and
    the variables that it closes over; of a tensor or array its shape, type and SHA-256; of a network its class, its
    settings, and the hashes of its architecture and weights. Where a class or function is from a user's own file, the
    file's hash is part of the name, because code is a setting.

    Settings are all public attributes, and those private ones that are numbers, texts, or tuples of such. Whatever an
    object fills in while it is used therefore belongs into a private attribute of another type. A class that knows its
    settings better has a method ``description()``, which returns them.

    Args:
        thing: numbers, texts, containers, functions, networks, and objects made of these.
        above: the identities of the objects that ``thing`` is part of; an object inside itself is ``<itself>``.

    Raises:
        TypeError: the settings of a part of ``thing`` cannot be seen.
    """
    if thing is None or isinstance(thing, (bool, int, str)):
        return thing
    if isinstance(thing, float):
        return thing if math.isfinite(thing) else repr(thing)
    if id(thing) in above:
        return "<itself>"
    known = callable(getattr(type(thing), "description", None))
    found = {"class": name_of(type(thing)), **thing.description()} if known else _parts(thing)
    above = (*above, id(thing))
    if isinstance(found, dict):
        return {str(key): describe(value, above) for key, value in found.items()}
    return [describe(value, above) for value in found] if isinstance(found, list) else found


@singledispatch
def _parts(thing: Any) -> Any:
    """The parts of a thing to describe, by name or in order; or a text that says all."""
    try:
        reduced = thing.__reduce_ex__(4)
    except Exception as error:
        raise TypeError(
            f"cannot tell what {thing!r} is, and so whether a later run has the same; give a number, text or object "
            "with attributes, or give its class a method description() that returns its settings"
        ) from error
    if isinstance(reduced, str):
        return reduced
    make, args, state = (*reduced, None)[:3]
    if make is __newobj__:
        make, *args = args
    found = {"class": name_of(make)} | ({"args": args} if args else {})
    with_slots = state if isinstance(state, tuple) and len(state) == 2 else (state,)
    if not all(part is None or isinstance(part, dict) for part in with_slots):
        return found | {"state": state}
    return found | _settings({key: value for part in with_slots for key, value in (part or {}).items()})


def _settings(attributes: Mapping[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in attributes.items() if not key.startswith("_") or _is_plain(value)}


def _is_plain(value: Any) -> bool:
    return isinstance(value, (bool, int, float, str)) or (isinstance(value, tuple) and all(map(_is_plain, value)))


_parts.register(bytes, repr)
_parts.register(Enum, str)
_parts.register(PurePath, str)
_parts.register(Mapping, dict)
_parts.register(Sequence, list)
_parts.register(Set, lambda thing: sorted(str(describe(value)) for value in thing))
_parts.register(type, lambda thing: name_of(thing))
_parts.register(ModuleType, lambda thing: thing.__name__)


@_parts.register(np.ndarray)
def _array(thing: Any) -> Any:
    content = hashlib.sha256(thing.tobytes()).hexdigest()
    shown = {"shape": list(thing.shape), "type": str(thing.dtype), "sha256": content}
    return thing.tolist() if thing.dtype.hasobject else shown


@_parts.register(Tensor)
def _tensor(thing: Any) -> Any:
    content = thing.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy()
    return _array(content) | {"shape": list(thing.shape), "type": str(thing.dtype)}


@_parts.register(FunctionType)
def _function(thing: Any) -> Any:
    defaults = {one.name: one.default for one in inspect.signature(thing).parameters.values()}
    given = {name: value for name, value in defaults.items() if value is not inspect.Parameter.empty}
    return {"function": name_of(thing), **inspect.getclosurevars(thing).nonlocals, **given}


@_parts.register(nn.Module)
def _network(thing: Any) -> Any:
    settings = _settings({key: value for key, value in vars(thing).items() if key not in _NETWORK_ATTRIBUTES})
    for name, child in thing.named_children():
        members = list(child) if isinstance(child, nn.ModuleList) else [child]
        if all(isinstance(one, (Classifier, Interpreter)) for one in members):
            settings[name] = members if isinstance(child, nn.ModuleList) else child
    hashes = {"architecture": architecture_hash(thing), "weights": weights_hash(thing)}
    return {"class": name_of(type(thing)), **settings, **hashes}


def architecture_hash(network: nn.Module) -> str:
    """Return the SHA-256 of a network's printed form, 64 hexadecimal digits.

    The printed form has layers, strides and the like, which the weights do not show.
    """
    return hashlib.sha256(re.sub(r" at 0x[0-9a-f]+", "", str(network)).encode()).hexdigest()


def name_of(thing: Any) -> str:
    """Return the full name of a class or function; in a user's own file, with 8 digits of the file's SHA-256."""
    return f"{thing.__module__}.{thing.__qualname__}{_source_mark(thing.__module__)}"


_INSTALLED = tuple(Path(sysconfig.get_paths()[key]).resolve() for key in ("stdlib", "purelib", "platlib"))
_PACKAGE = Path(__file__).resolve().parents[1]


@cache
def _source_mark(module: str) -> str:
    file = getattr(sys.modules.get(module), "__file__", None)
    path = Path(file).resolve() if file else _PACKAGE
    if any(path.is_relative_to(known) for known in (_PACKAGE, *_INSTALLED)) or not path.is_file():
        return ""
    return f"@{hashlib.sha256(path.read_bytes()).hexdigest()[:8]}"


def differences(before: Any, now: Any, place: str = "") -> list[str]:
    """Return the differences of two descriptions, one line each: ``epsilon: 0.031 before, 0.05 now``.

    Args:
        before: a description.
        now: a description.
        place: the path of both within larger descriptions, joined by dots.
    """
    first, second = (dict(enumerate(one)) if isinstance(one, list) else one for one in (before, now))
    if not isinstance(first, Mapping) or not isinstance(second, Mapping):
        return [] if before == now else [f"{place}: {_short(before)} before, {_short(now)} now"]
    return [
        line
        for key in dict.fromkeys([*first, *second])
        for line in differences(first.get(key, _NOTHING), second.get(key, _NOTHING), f"{place}.{key}".lstrip("."))
    ]


_NOTHING = "(nothing)"


def _short(thing: Any) -> str:
    """In one line; what is in a part that the other side lacks altogether matters less than that it is there."""
    if isinstance(thing, Mapping):
        return str(thing.get("class") or thing.get("function") or f"{len(thing)} settings")
    return f"{len(thing)} entries" if isinstance(thing, list) else str(thing)
