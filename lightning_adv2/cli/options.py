"""The options of the package's own subcommands; the parsers load nothing of what the subcommands need."""

from __future__ import annotations

from argparse import ArgumentParser, ArgumentTypeError
from pathlib import Path


def _parser(command: str, description: str, epilog: str | None = None) -> ArgumentParser:
    return ArgumentParser(f"lightning-adv2 {command}", description=description, epilog=epilog, allow_abbrev=False)


def demo() -> ArgumentParser:
    """The parser of ``lightning-adv2 demo``."""
    parser = _parser(
        "demo",
        "Train a shape classifier, RTS and RTS-A; attack them, GRAD and CAM with PGD and ADV2; write tables and "
        "figures. Needs no data and takes some minutes on two cores.",
    )
    parser.add_argument("--output", type=Path, default=Path("runs/demo"), help="folder of the run (%(default)s)")
    parser.add_argument("--num-images", type=int, default=32, help="number of images to attack (%(default)s)")
    parser.add_argument("--seed", type=int, default=0, help="seed of data, training and attacks (%(default)s)")
    return parser


def fetch() -> ArgumentParser:
    """The parser of ``lightning-adv2 fetch``."""
    parser = _parser(
        "fetch",
        "Download public data and published weights to where the configurations look for them: below data/ in the "
        "current folder, or below the folder that LIGHTNING_ADV2_DATA names.",
    )
    one = parser.add_mutually_exclusive_group(required=True)
    one.add_argument("name", nargs="?", choices=["cifar10"], help="what to download")
    one.add_argument("--list", action="store_true", help="list what can be downloaded, from where, and what is there")
    return parser


def report() -> ArgumentParser:
    """The parser of ``lightning-adv2 report``."""
    parser = _parser("report", "Write the report of one evaluation, or of several side by side, as one HTML file.")
    parser.add_argument("runs", nargs="+", type=Path, metavar="RUN", help="folder of an evaluation, with records/")
    parser.add_argument(
        "--output", type=Path, metavar="FILE",
        help="the page; by default report.html in the run's folder or, of several runs, in the current folder",
    )  # fmt: skip
    return parser


def sync() -> ArgumentParser:
    """The parser of ``lightning-adv2 sync``."""
    parser = _parser(
        "sync",
        "Log evaluations to W&B, once, however often it is called.",
        "The file wandb.json in a run's folder names its W&B run. Without a key or a connection, the evaluation "
        "goes to an offline run.",
    )
    parser.add_argument("runs", nargs="+", type=Path, metavar="RUN", help="folder of an evaluation, with records/")
    return parser


def verify() -> ArgumentParser:
    """The parser of ``lightning-adv2 verify``."""
    parser = _parser(
        "verify", "Check a run's records, manifest, tables and exported images against each other; change nothing."
    )
    parser.add_argument("run", type=Path, help="the run's folder")
    parser.add_argument(
        "--images", type=Path, help="folder of the exported images; by default 'images' in the run's folder, if any"
    )
    return parser


def export() -> ArgumentParser:
    """The parser of ``lightning-adv2 export``."""
    parser = _parser("export", "Write the images of a run as PNG, in class folders.")
    parser.add_argument("run", type=Path, help="the run's folder")
    parser.add_argument("--output", type=Path, help="folder of the images; by default 'images' in the run's folder")
    return parser


def reproduce() -> ArgumentParser:
    """The parser of ``lightning-adv2 reproduce``."""
    parser = _parser(
        "reproduce",
        "Run the evaluations and trainings that a reproduction lacks, reuse the finished ones, and report every table "
        "and figure of the paper, each value beside the published one.",
        "docs/reproduction.md lists the tables; --dry-run lists them with the runs.",
    )
    parser.add_argument("--config", required=True, type=Path, help="a file of configs/reproduce/")
    parser.add_argument("--tables", type=_keys, help="only these, such as 3,5,9, and only the runs that they need")
    parser.add_argument("--output", type=Path, help="folder of the runs and the report; by default the file's")
    parser.add_argument("--num-images", type=_positive, help="images per cell; by default the file's")
    parser.add_argument("--seeds", type=_numbers, help="such as 0,1,2: every evaluation under each of these seeds")
    parser.add_argument(
        "--paper-scale", action="store_true",
        help="1,000 images and the published schedules (about 1,000 steps), as in the paper",
    )  # fmt: skip
    parser.add_argument(
        "--jobs", type=_positive, default=1, help="number of runs at a time; they share the cores (%(default)s)"
    )
    parser.add_argument("--dry-run", action="store_true", help="list the runs without starting any")
    return parser


def _keys(text: str) -> list[str]:
    return [part.strip() for part in text.split(",") if part.strip()]


def _numbers(text: str) -> list[int]:
    numbers = [int(part) for part in _keys(text)]
    if not numbers or len(set(numbers)) < len(numbers):
        raise ArgumentTypeError(f"{text!r}: give different numbers, such as 0,1,2")
    return numbers


def _positive(text: str) -> int:
    if int(text) < 1:
        raise ArgumentTypeError(f"{text}: give at least 1")
    return int(text)
