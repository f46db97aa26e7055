"""What the files of a folder belong to: said once, checked whenever a run wants to go on with them."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from lightning_adv2.files import write_json
from lightning_adv2.runtime.describe import differences

FILE = "experiment.json"


class DifferentExperimentError(RuntimeError):
    """The folder belongs to another experiment."""


def claim(folder: Path, experiment: Mapping[str, Any], about: Mapping[str, Any] | None = None) -> None:
    """Say that the files in ``folder`` are this experiment's, or check that they are.

    Args:
        folder: of checkpoints or records; ``experiment.json`` is written there by the first run. Where nothing else
            lies in it, that run came to nothing, and any other may have the folder.
        experiment: all that the results depend on, as plain data; see :func:`describe`.
        about: what reports want to know besides, not compared.

    Raises:
        DifferentExperimentError: the folder is another experiment's; names what differs.
    """
    path = folder / FILE
    if path.exists() and any(one.is_file() and one != path for one in folder.rglob("*")):
        check_same(folder, differences(read_experiment(folder)["experiment"], json.loads(json.dumps(experiment))))
    content = {"experiment": experiment, "about": about or {}}
    write_json(path, content)


def check_same(folder: Path, found: Sequence[str]) -> None:
    """Refuse to go on in ``folder`` if anything differs.

    Raises:
        DifferentExperimentError: ``found`` is not empty; names the first ten.
    """
    if found:
        listed = "\n  ".join([*found[:10], *([f"and {len(found) - 10} more"] if len(found) > 10 else [])])
        raise DifferentExperimentError(
            f"{folder} belongs to another experiment, which differs in\n  {listed}\n"
            "Take another folder (--trainer.default_root_dir), go back to the former settings, or delete this folder"
        )


def read_experiment(folder: Path) -> dict[str, Any]:
    """What :func:`claim` wrote: ``experiment`` and ``about``.

    Raises:
        FileNotFoundError: nothing was written.
        ValueError: the file is damaged.
    """
    path = folder / FILE
    try:
        content: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        if not isinstance(content, dict) or not {"experiment", "about"} <= content.keys():
            raise ValueError("'experiment' or 'about' is missing")
    except ValueError as error:
        raise ValueError(f"{path} is damaged ({error}); delete {folder} and run again") from error
    return content
