"""Functions of jsonargparse that are replaced for as long as a context lasts, where it has no setting for it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any


@contextmanager
def replaced(owner: Any, **functions: Callable[..., Any]) -> Iterator[None]:
    """Replace attributes of a module or class, and put them back; what the owner does not have is left out.

    Args:
        owner: the module or class.
        functions: the new ones by name.
    """
    before = {name: getattr(owner, name) for name in functions if hasattr(owner, name)}
    for name in before:
        setattr(owner, name, functions[name])
    try:
        yield
    finally:
        for name, function in before.items():
            setattr(owner, name, function)
