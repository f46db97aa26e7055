"""``experiment.json``: the experiment to which the files of a folder belong. Needs no torch."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from lightning_adv2.files.names import check_name
from lightning_adv2.files.twice import content_hash, copy_of, read_twice, write_twice

FILE = "experiment.json"
COPY = copy_of(Path(FILE)).name


def experiment_hash(experiment: Mapping[str, Any]) -> str:
    """Return the SHA-256 of an experiment, 64 hexadecimal digits, which each of its records carries.

    Args:
        experiment: all that the results depend on, in JSON's terms; the order of keys does not matter.
    """
    return content_hash(experiment)


def write_experiment(folder: Path, experiment: Mapping[str, Any], about: Mapping[str, Any]) -> None:
    """Write ``experiment.json`` and its copy into a folder.

    Args:
        folder: of records or checkpoints.
        experiment: all that the results depend on, in JSON's terms.
        about: facts for reports, which no later run is compared with.

    Raises:
        OSError: see :func:`~lightning_adv2.files.whole.written_whole`.
    """
    write_twice(folder / FILE, {"experiment": experiment, "about": about})


def find_experiment(folder: Path) -> tuple[dict[str, Any], list[str]]:
    """Return the content of ``experiment.json`` or of its copy, and the faults of both files.

    Args:
        folder: of records or checkpoints.

    Returns:
        A mapping with the keys ``experiment`` and ``about``, and one sentence for each of the two files that is damaged
        or missing.

    Raises:
        FileNotFoundError: both files are missing.
        ValueError: neither file is whole.
    """
    return read_twice(folder / FILE, _parsed)


def _parsed(content: dict[str, Any]) -> dict[str, Any]:
    if content.keys() != {"experiment", "about"} or not all(isinstance(one, dict) for one in content.values()):
        raise ValueError("'experiment' or 'about' is missing, or is not what it should be")
    interpreters = content["experiment"].get("interpreters")
    for name in interpreters if isinstance(interpreters, dict) else ():
        check_name("interpreters", name)  # each has a folder of this name
    return content
