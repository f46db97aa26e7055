"""Errors of the command line's parser: a few lines that name what is wrong, and what was probably meant."""

from __future__ import annotations

import inspect
import re
import sys
from collections.abc import Iterable, Iterator
from difflib import get_close_matches
from importlib import import_module
from typing import Any, NoReturn

from pytorch_lightning.cli import LightningArgumentParser

from lightning_adv2.errors import shorten

_NOISE = (
    "Does not validate against any",
    "Subtypes:",
    "Errors:",
    "- Expected a <class 'NoneType'>",
    "Given value type:",
)
_CLASS = re.compile(r"given class_path '([\w.]+)'")
_ARGUMENT = re.compile(r"Option '([\w.]+)' is not accepted")
_OPTION = re.compile(r"unrecognized arguments: --([\w.]+)|does not accept option '([\w.]+)'")
_NAME = re.compile(r"Expected a dot import path string: ([\w.]+)|has no attribute '(\w+)'|given class_path '([\w.]+)'")
_COMMAND = re.compile(r"invalid choice: '(\w+)'")
_COMMANDS = ("fit", "validate", "test", "predict", "demo", "report", "reproduce", "sync", "verify", "export")
_PACKAGES = ("interpreters", "attacks", "callbacks", "data", "detectors", "metrics", "models", "modules")


class Parser(LightningArgumentParser):
    """Lightning's parser, whose errors are a few lines and no list of all options; an option has its whole name."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **{"allow_abbrev": False, **kwargs})

    def error(self, message: str, ex: Exception | None = None) -> NoReturn:
        """Exit with code 2 and the message; where an outer parser is to report it, raise."""
        if not self.exit_on_error:
            super().error(message, ex)
        lines = [line for line in message.splitlines() if not line.strip().startswith(_NOISE)]
        print(f"error: {shorten(chr(10).join(lines))}", file=sys.stderr)
        asked = getattr(ex, "subcommand_parser", self)  # a file's error comes from the outer parser
        meant = suggestion(message, {option.lstrip("-") for option in asked._option_string_actions})
        if meant is not None:
            print(f"did you mean {meant}?", file=sys.stderr)
        command = self.prog.replace(" [options]", "").replace("__main__.py", "lightning-adv2")
        print(f"See {command} --help, or docs/configuration.md", file=sys.stderr)
        sys.exit(2)


def suggestion(message: str, options: Iterable[str]) -> str | None:
    """The option, argument, class or command that was probably meant; None where nothing is like it.

    Args:
        message: of jsonargparse's error.
        options: the parser's own, such as ``trainer.max_epochs``.
    """
    within = ""
    for line in message.splitlines():
        if found := _CLASS.search(line):
            within = found[1]
        if found := _ARGUMENT.search(line):
            return _alike(found[1], _arguments(within))
        if found := _OPTION.search(line):
            return _alike(found[1] or found[2], options)
        if found := _COMMAND.search(line):
            return _alike(found[1], _COMMANDS)
    for found in _NAME.finditer(message):
        name = next(filter(None, found.groups())).rsplit(".", 1)[-1]
        if (meant := _alike(name, _names())) not in (None, name):
            return meant
    return None


def _alike(name: str, known: Iterable[str]) -> str | None:
    return next(iter(get_close_matches(name, sorted(known), n=1, cutoff=0.7)), None)


def _arguments(class_path: str) -> Iterator[str]:
    """The names of a class's or function's arguments; nothing where there is no such one."""
    module, _, name = class_path.rpartition(".")
    try:
        made = getattr(import_module(module), name)
        bases = inspect.getmro(made) if inspect.isclass(made) else [made]
        for base in bases:
            yield from inspect.signature(base).parameters
    except (ImportError, AttributeError, ValueError, TypeError):
        return


def _names() -> set[str]:
    """The names that the package exports."""
    return {name for part in _PACKAGES for name in import_module(f"lightning_adv2.{part}").__all__}
