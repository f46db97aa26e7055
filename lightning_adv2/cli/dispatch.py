"""The only place where a subcommand is looked up and run."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from importlib import import_module
from typing import Any, NoReturn

from lightning_adv2.cli.commands import COMMANDS, RUNS, Command, no_command
from lightning_adv2.cli.help import ALL, overview, short_help
from lightning_adv2.files.likeness import alike
from lightning_adv2.runtime.rank import is_first

_LOADED_FIRST = "torch"


def main(args: Sequence[str] | None = None) -> int:
    """Run a subcommand, and return the exit code.

    Args:
        args: the words of the command line; None takes the process's.

    Raises:
        SystemExit: with code 0 after help, 2 after a mistake on the command line.
        Exception: of the subcommand.
    """
    words = list(sys.argv[1:] if args is None else args)
    first = words[0] if words else ""
    name = first if first in COMMANDS else _run_behind_options(words)
    command = COMMANDS.get(name)
    if command is not None and command.parser is not None:
        return _run(command, name, command.parser().parse_args(words[1:]))
    if {"-h", "--help"} & {*words}:
        _print_help(name)
    if command is None and not first.startswith("-"):
        _refuse(first)
    given = ["--help" if word == ALL else word for word in words]
    return _run(command or COMMANDS[RUNS[0]], name, given, silent=any(map(_prints_and_stops, given)))


def _run_behind_options(words: Sequence[str]) -> str:
    """The subcommand behind options of all subcommands, as in ``--config FILE test``; empty where there is none."""
    return next((word for word in words if word in RUNS), "") if words and words[0].startswith("-") else ""


def _prints_and_stops(word: str) -> bool:
    """Whether a word is an option that prints, for a pipe say: ``--print_config=skip_default``, ``--model.help``."""
    option = word.partition("=")[0]
    return option.startswith("--print_") or option == "--help" or (option[:2] == "--" and option[-5:] == ".help")


def _run(command: Command, name: str, given: Any, silent: bool = False) -> int:
    if command.loads and not silent and _LOADED_FIRST not in sys.modules and is_first():
        print(f"lightning-adv2 {name}".rstrip() + f": started, loading {command.loads}", file=sys.stderr, flush=True)
    module, _, function = command.function.partition(":")
    return getattr(import_module(module), function)(given) or 0


def _print_help(name: str) -> NoReturn:
    print(short_help(name) if name else overview(), end="")
    sys.exit(0)


def _refuse(word: str) -> NoReturn:
    print(f"error: {no_command(word)}", file=sys.stderr)
    if meant := alike(word, COMMANDS):
        print(f"did you mean {meant}?", file=sys.stderr)
    print("See lightning-adv2 --help, or docs/configuration.md", file=sys.stderr)
    sys.exit(2)
