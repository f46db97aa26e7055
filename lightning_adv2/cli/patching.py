"""All of jsonargparse's private parts that the command line takes, where it has no setting: look here when it changes.

Seen in 4.40 and 4.53. A function that another version does not have is left as it is; ``tests/cli/test_patching.py``
names those that the tested version must have.
"""

from __future__ import annotations

from argparse import ArgumentParser
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from jsonargparse import _typehints
from jsonargparse._util import NestedArg as NestedArg

TYPES: Any = _typehints
"""Its functions that turn a value into what a type hint asks for."""

ACTION: Any = _typehints.ActionTypeHint
"""An option of such a type, which also makes the object that is configured."""


def function(owner: Any, name: str, default: Any = None) -> Any:
    """Return a function of :data:`TYPES` or :data:`ACTION`; ``default`` where this version has none of the name."""
    return getattr(owner, name, default)


@contextmanager
def replaced(owner: Any, **functions: Callable[..., Any]) -> Iterator[None]:
    """Replace functions for as long as the context lasts; what the owner does not have is left out.

    Args:
        owner: :data:`TYPES` or :data:`ACTION`.
        functions: the new ones by name.
    """
    before = {name: getattr(owner, name) for name in functions if hasattr(owner, name)}
    for name in before:
        setattr(owner, name, functions[name])
    try:
        yield
    finally:
        for name, former in before.items():
            setattr(owner, name, former)


def options(parser: ArgumentParser) -> set[str]:
    """Return the names of a parser's options without dashes, such as ``trainer.max_epochs``."""
    return {option.lstrip("-") for option in parser._option_string_actions}
