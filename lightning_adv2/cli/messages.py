"""Errors of the command line's parser: a few lines that name what is wrong, and what was probably meant."""

from __future__ import annotations

import inspect
import re
import sys
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from importlib import import_module
from pathlib import Path
from typing import Any, NoReturn

from pytorch_lightning.cli import LightningArgumentParser

from lightning_adv2.cli.commands import COMMANDS, no_command
from lightning_adv2.cli.help import ALL
from lightning_adv2.cli.names import PACKAGES, exports, names, place_of
from lightning_adv2.cli.patching import TYPES, NestedArg, function, options, replaced
from lightning_adv2.errors import shorten
from lightning_adv2.files.likeness import alike

_NOISE = re.compile(
    r"Does not validate against any|Subtypes:|Errors:|Expected a <class 'NoneType'>|Given value type:"
    r"|Given value: (NestedArg|Namespace|\[|\{)|Expected a (config )?path but (?!\S+\.(ya?ml|json) )"
)
_OTHER_TYPE = ("Expected a <", "Expected a typing.", "Not a valid subclass of")
_KEY = re.compile(r"""Parser key "([\w.]+)"(?: element \d+)?:(.*)""")
_CLASS = re.compile(r"given class_path '([^']+)'")
_TYPE = re.compile(r"Expected a (?:<class '(?:\w+\.)*(\w+)'>|typing\.Literal\[(.*)\])")
_NO_FILE = re.compile(r"Expected a (?:config )?path but (\S+) either not accessible")
_NO_SUBCLASS = re.compile(r"Import path ([\w.]+) does not correspond to a subclass of (\w+)")
_ABSTRACT = re.compile(r"Expected an instantiatable class, but ([\w.]+) is abstract")
_ARGUMENT = re.compile(r"(?:Option|Key) '([\w.]+)' is not (?:accepted|expected)")
_OPTION = re.compile(r"[Uu]nrecognized arguments: --([\w.]+)|does not accept option '([\w.]+)'")
_UNKNOWN = re.compile(r"there is no \w+ '([\w.]+)'; available: ([\w, ]+)")
_OWN_PATH = re.compile(r"\blightning_adv2(?:\.\w+)*\.([A-Za-z]\w*)\b")
_NAME = re.compile(r"Expected a dot import path string: ([\w.]+)|has no attribute '(\w+)'|given class_path '([\w.]+)'")
_COMMAND = re.compile(r"argument subcommand: invalid choice: '([^']*)'")
_NO_CONFIG = re.compile(r"File does not exist: '?([^']+?)'?$")
_GUIDES = {
    "Classifier": 'docs/own.md ("A network that is not torchvision\'s")',
    "Interpreter": "docs/add_interpreter.md",
    "LossTerm": "docs/add_attack.md",
    "Step": "docs/add_attack.md",
    "LightningDataModule": "docs/add_dataset.md",
    "Callback": "docs/add_study.md",
}


class Parser(LightningArgumentParser):
    """Lightning's parser with errors of a few lines in place of a list of all options; options are not abbreviated."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **{"allow_abbrev": False, **kwargs})

    def error(self, message: str, ex: Exception | None = None) -> NoReturn:
        """Print the message and exit with code 2, or raise where an outer parser reports the error."""
        if not self.exit_on_error:
            super().error(message, ex)
        print(f"error: {shorten(plain(message))}", file=sys.stderr)
        asked = getattr(ex, "subcommand_parser", self)  # a file's error comes from the outer parser
        meant = suggestion(message, options(asked))
        if meant is not None:
            print(f"did you mean {meant}?", file=sys.stderr)
        command, _, name = self.prog.replace(" [options]", "").partition(" ")
        print(f"See {command} {f'{name} {ALL}' if name else '--help'}, or docs/configuration.md", file=sys.stderr)
        sys.exit(2)


@contextmanager
def plain_unions() -> Iterator[None]:
    """Parse so that the error of the intended member of a union is reported, not those of members of another type.

    Of a file with such an error, jsonargparse (version 4.53) reports that the file contains itself, because it
    reads the file a second time. Here the second reading fails as others do, so that the first error is reported.
    """
    read_part = function(TYPES, "adapt_subconfig_path")

    def choose(subtypes: Any, value: Any, errors: list[Exception]) -> NoReturn:
        closer = [error for error in errors if not str(error).lstrip("\n- ").startswith(_OTHER_TYPE)]
        if isinstance(value, NestedArg):
            closer = closer[:1]  # the list, where one was given before: its last class is meant
        if len(closer) == 1:
            raise ValueError(str(closer[0])) from closer[0]
        merged(subtypes, value, closer or errors)

    def read_once(*args: Any, **kwargs: Any) -> Any:
        try:
            return read_part(*args, **kwargs)
        except TypeError as error:
            raise ValueError(str(error)) from error

    merged: Callable[..., NoReturn] = function(TYPES, "raise_union_unexpected_value", choose)
    with replaced(TYPES, raise_union_unexpected_value=choose, adapt_subconfig_path=read_once):
        yield


def plain(message: str) -> str:
    """The message of jsonargparse with the key as one path, the class and the error; without the members of unions."""
    key, within, lines = "", "", list[str]()
    for line in message.splitlines():
        text = line.strip().removeprefix("- ")
        if not text or _NOISE.match(text):
            continue
        if _NO_FILE.search(text):
            lines.append(_reworded(text))
            break  # the rest takes the file's name for a class path
        if not lines and (found := _KEY.match(text)):
            key, within = f"{key}.init_args.{found[1]}" if key else found[1], ""
            text = found[2].strip()
        elif not lines and (found := _CLASS.search(text)):
            within, text = found[1], ""
        if text:
            lines.append(_reworded(text))
    place = f"{key} ({within}): " if within else f"{key}: " if key else ""
    return "\n  ".join([place + lines[0], *lines[1:]]) if lines else message


def _reworded(text: str) -> str:
    """A line of jsonargparse's, with the remedy where this module knows it."""
    if found := _NO_FILE.search(text):
        starts = "a relative path starts from the folder of the file that names it"
        return f"{found[1]}: no such file, or it cannot be read; {starts}"
    if found := _NO_CONFIG.match(text):
        return _where_files_are(Path(found[1]))
    if 'expected "subcommand"' in text:
        return no_command("")
    if found := _COMMAND.search(text):
        return no_command(found[1])
    if found := _NO_SUBCLASS.search(text):
        path, kind = found.groups()
        guide = f", as {_GUIDES[kind]} shows" if kind in _GUIDES else ""
        if inspect.isclass(_imported(path)):
            return f"{path} is not a subclass of {_full(kind)}; make it one{guide}"
        return f"{path} does not return a {_full(kind)} by its annotation; add it behind the arguments: -> {kind}"
    if found := _ABSTRACT.search(text):
        missing = ", ".join(sorted(getattr(_imported(found[1]), "__abstractmethods__", ())))
        return f"{found[1]} is abstract; implement {missing}"
    return _TYPE.sub(lambda found: f"expected {found[1] or 'one of ' + found[2]}", text)


def _where_files_are(path: Path) -> str:
    """That there is no such file, and the most similar one in the same folder or below ``configs/``."""
    files = {file.name: file for folder in (Path("configs"), path.parent) for file in _configurations(folder)}
    meant = alike(path.name, files)
    hint = f"did you mean {_from_here(files[meant])}?" if meant else "the package's are in its folder configs/"
    return f"{_from_here(path)}: no such file (relative paths start from {Path.cwd()}); {hint}"


def _from_here(path: Path) -> Path:
    return path.relative_to(Path.cwd()) if path.is_relative_to(Path.cwd()) else path


def _configurations(folder: Path) -> Iterator[Path]:
    if folder == Path("configs"):
        yield from folder.rglob("*.yaml")
    elif folder.is_dir():
        yield from (file for file in folder.iterdir() if file.suffix in (".yaml", ".yml", ".json"))


def _full(kind: str) -> str:
    """The class path of a class that the package exports; the name of another class."""
    return next((f"lightning_adv2.{package}.{kind}" for package in PACKAGES if kind in exports(package)), kind)


def _imported(class_path: str) -> Any:
    module, _, name = class_path.rpartition(".")
    return getattr(import_module(module), name, None)


def suggestion(message: str, options: Iterable[str]) -> str | None:
    """The option, argument, class or command that was probably meant; None where no name is similar.

    Args:
        message: of jsonargparse's error.
        options: the parser's own, such as ``trainer.max_epochs``.
    """
    within = ""
    for line in message.splitlines():
        if found := _CLASS.search(line):
            within = found[1]
        if found := _ARGUMENT.search(line):
            return alike(found[1], _arguments(within))
        if found := _UNKNOWN.search(line):
            return alike(found[1].rsplit(".", 1)[-1], found[2].split(", "))
        if found := _OPTION.search(line):
            return alike(found[1] or found[2], options)
        if found := _COMMAND.search(line):
            return alike(found[1], COMMANDS)
    if (moved := _OWN_PATH.search(message)) and (path := place_of(moved[1])) not in (None, moved[0]):
        return path
    for found in _NAME.finditer(message):
        name = next(filter(None, found.groups())).rsplit(".", 1)[-1]
        if (meant := alike(name, names())) not in (None, name):
            return meant
    return None


def _arguments(class_path: str) -> Iterator[str]:
    """The names of the arguments of a class or function; none where it cannot be imported."""
    try:
        made = _imported(class_path)
        bases = inspect.getmro(made) if inspect.isclass(made) else [made]
        for base in bases:
            yield from inspect.signature(base).parameters
    except (ImportError, AttributeError, ValueError, TypeError):
        return
