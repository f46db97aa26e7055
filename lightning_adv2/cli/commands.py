"""The table of subcommands: what each is for, what it loads, and the function that runs it; loads none of them."""

from __future__ import annotations

from argparse import ArgumentParser
from collections.abc import Callable, Mapping
from typing import NamedTuple

from lightning_adv2.cli import options

RUN = "lightning_adv2.cli.lightning_cli:main"
"""Runs the subcommands that have Lightning's options."""


class Command(NamedTuple):
    """A subcommand.

    Attributes:
        group: heading in the overview.
        about: one line for the overview.
        function: ``module:name``. It takes the parsed options, or the words where ``parser`` is None, and returns
            the exit code, or None for 0.
        loads: the large libraries that its module imports; empty where it imports none.
        parser: makes the parser of its options; None where Lightning and jsonargparse have it.
    """

    group: str
    about: str
    function: str
    loads: str = ""
    parser: Callable[[], ArgumentParser] | None = None


_TRAIN, _START, _RESULTS = "Train, attack and measure", "First steps", "Results of an evaluation"
_PAPER, _LIGHTNING = "The paper", "PyTorch and Lightning"
COMMANDS: Mapping[str, Command] = {
    "fit": Command(_TRAIN, "train a classifier, an interpreter, or an interpreter under attack (AID)", RUN, _LIGHTNING),
    "validate": Command(_TRAIN, "evaluate on the validation images", RUN, _LIGHTNING),
    "test": Command(_TRAIN, "attack the test images, measure, and write tables, figures and a page", RUN, _LIGHTNING),
    "predict": Command(_TRAIN, "write attribution maps", RUN, _LIGHTNING),
    "demo": Command(
        _START, "train, attack and measure on drawn shapes, in minutes and without any data",
        "lightning_adv2.demo:main", _LIGHTNING, options.demo,
    ),
    "fetch": Command(
        _START, "download CIFAR-10 and two published networks",
        "lightning_adv2.fetch:main", "", options.fetch,
    ),
    "report": Command(
        _RESULTS, "write the page of one evaluation, or of several side by side",
        "lightning_adv2.cli.results:report", _LIGHTNING, options.report,
    ),
    "sync": Command(
        _RESULTS, "log an evaluation to W&B afterwards",
        "lightning_adv2.cli.results:sync", _LIGHTNING, options.sync,
    ),
    "verify": Command(
        _RESULTS, "check the files of a run against each other",
        "lightning_adv2.audit.verify:main", "", options.verify,
    ),
    "export": Command(
        _RESULTS, "write the images of a run as PNG",
        "lightning_adv2.audit.export:main", "", options.export,
    ),
    "reproduce": Command(
        _PAPER, "run what the paper's tables and figures need, and report all of them",
        "lightning_adv2.reproduction.command:main", _LIGHTNING, options.reproduce,
    ),
}  # fmt: skip
"""By name, in the order of the overview."""
RUNS = tuple(name for name, command in COMMANDS.items() if command.parser is None)
"""The subcommands that train or evaluate under a Lightning trainer."""


def no_command(word: str) -> str:
    """What is wrong with a word in the place of a subcommand; an empty one where there is none."""
    names = ", ".join(COMMANDS)
    return f"{word!r} is not a command; the commands are: {names}" if word else f"give a command: {names}"
