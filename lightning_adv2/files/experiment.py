"""``experiment.json``: what the files of a folder belong to. Needs no torch."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from lightning_adv2.files.names import check_name
from lightning_adv2.files.twice import content_hash, copy_of, read_twice, write_twice

FILE = "experiment.json"
COPY = copy_of(Path(FILE)).name


def experiment_hash(experiment: Mapping[str, Any]) -> str:
    """SHA-256 of an experiment, which each of its records carries."""
    return content_hash(experiment)


def write_experiment(folder: Path, experiment: Mapping[str, Any], about: Mapping[str, Any]) -> None:
    """Write ``experiment.json`` and its copy."""
    write_twice(folder / FILE, {"experiment": experiment, "about": about})


def find_experiment(folder: Path) -> tuple[dict[str, Any], list[str]]:
    """``experiment`` and ``about`` of a folder, and what is wrong with the file or with its copy.

    Raises:
        FileNotFoundError: there is neither.
        ValueError: neither is whole.
    """
    return read_twice(folder / FILE, _parsed)


def _parsed(content: dict[str, Any]) -> dict[str, Any]:
    if content.keys() != {"experiment", "about"} or not all(isinstance(one, dict) for one in content.values()):
        raise ValueError("'experiment' or 'about' is missing, or is not what it should be")
    interpreters = content["experiment"].get("interpreters")
    for name in interpreters if isinstance(interpreters, dict) else ():
        check_name("interpreters", name)  # each has a folder of this name
    return content
