"""The experiment to which the files of a folder belong: stated once, and checked by each run that goes on with them."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from lightning_adv2.files.experiment import COPY, FILE, experiment_hash, find_experiment, write_experiment
from lightning_adv2.files.run import find_records, read_header
from lightning_adv2.runtime.describe import differences

_SHOWN = 10


class DifferentExperimentError(RuntimeError):
    """The folder belongs to another experiment."""


def claim(
    folder: Path,
    experiment: Mapping[str, Any],
    about: Mapping[str, Any] | None = None,
    made_in: Mapping[Path, str] | None = None,
) -> str:
    """Claim the files in a folder for an experiment, or check that they are this experiment's, and return its hash.

    ``experiment.json`` and its copy are written anew, so that a damaged one is whole again. Where both are damaged or
    gone, the files themselves say to which experiment they belong, if they carry a hash.

    Args:
        folder: of checkpoints or records. Where nothing else lies in it, the run that wrote ``experiment.json`` made
            nothing, and any experiment may have the folder.
        experiment: all that the results depend on, in JSON's terms; see
            :func:`~lightning_adv2.runtime.describe.describe`.
        about: facts for reports, which are not compared.
        made_in: the hash of its experiment for each file in the folder; None where the files carry none.

    Returns:
        The experiment's SHA-256, 64 hexadecimal digits.

    Raises:
        DifferentExperimentError: the folder is another experiment's; the error names the differences or the files.
        ValueError: nothing says to which experiment the files belong; the error says what to do.
        OSError: see :func:`~lightning_adv2.files.whole.written_whole`.
    """
    now = json.loads(json.dumps(experiment))
    own = experiment_hash(now)
    if any(one.is_file() and one.name not in (FILE, COPY) for one in folder.rglob("*")):
        known, wrong = _former(folder, made_in)
        if known is not None:
            check_same(folder, differences(known["experiment"], now))
        foreign = [path for path, made in (made_in or {}).items() if made != own]
        if foreign:
            raise DifferentExperimentError(
                f"{folder}: {len(foreign)} of {len(made_in or {})} files are of another experiment:\n"
                f"  {_listed([str(path) for path in foreign])}\n"
                "Take these files away, and what is missing is made anew; or go back to the settings that they were "
                "made with, or take another folder (--trainer.default_root_dir)"
            )
        for line in wrong:
            print(f"{line}; it is written anew", flush=True)
    write_experiment(folder, now, about or {})
    return own


def _former(folder: Path, made_in: Mapping[Path, str] | None) -> tuple[dict[str, Any] | None, list[str]]:
    """The content that a former run wrote, None where it is lost; and the faults of the files, a line each."""
    try:
        return find_experiment(folder)
    except FileNotFoundError:
        rest = " and nothing in the folder says whose it is" if made_in is None else ""
        return None, [f"{folder / FILE} and {COPY} are missing{rest}"]
    except ValueError as error:
        if made_in is None:
            raise ValueError(
                f"{error}. Nothing else in {folder} is touched: if it was made with the settings of this command, "
                f"delete {FILE} and {COPY} there and run the same command again, which goes on with it"
            ) from error
        return None, [str(error)]


def forget(folder: Path) -> None:
    """Remove ``experiment.json`` and its copy, so that any experiment may have the folder."""
    for name in (FILE, COPY):
        (folder / name).unlink(missing_ok=True)


def check_same(folder: Path, found: Sequence[str]) -> None:
    """Check that nothing differs between a folder's experiment and the present one.

    Args:
        folder: of the run, for the error.
        found: the differences, one line each.

    Raises:
        DifferentExperimentError: ``found`` is not empty; the error names the first ten.
    """
    if found:
        raise DifferentExperimentError(
            f"{folder} belongs to another experiment, which differs in\n  {_listed(found)}\n"
            "Take another folder (--trainer.default_root_dir), go back to the former settings, or delete this folder"
        )


def _listed(lines: Sequence[str]) -> str:
    return "\n  ".join([*lines[:_SHOWN], *([f"and {len(lines) - _SHOWN} more"] if len(lines) > _SHOWN else [])])


def read_experiment(folder: Path) -> dict[str, Any]:
    """Return the content that :func:`claim` wrote: a mapping with the keys ``experiment`` and ``about``.

    Where ``experiment.json`` is damaged, the copy is read, and a printed line says so.

    Raises:
        FileNotFoundError: both files are missing.
        ValueError: neither file is whole.
    """
    try:
        content, wrong = find_experiment(folder)
    except ValueError as error:
        raise ValueError(f"{error}; run the same command again, and {FILE} is made anew") from error
    for line in wrong:
        print(f"{line}; the next run mends it", flush=True)
    return content


def former_part(folder: Path, name: str) -> Any:
    """Return a setting of the experiment whose records lie in a folder; None where the experiment is not known.

    Args:
        folder: of records or checkpoints.
        name: the setting's key in ``experiment.json``.
    """
    try:
        return find_experiment(folder)[0]["experiment"].get(name)
    except (FileNotFoundError, ValueError):
        return None


def former_batch_size(folder: Path) -> int | None:
    """Return the images per batch of the records in a folder; None where there are no records."""
    known = former_part(folder, "batch_size")
    if known is None:  # the file may be lost: then the first batch tells, which is no smaller than others
        for path in find_records(folder).records:
            with suppress(OSError, ValueError, KeyError, TypeError):
                header = read_header(path)
                known = max(known or 0, sum(len(header[name]) for name in ("image_id", "already_wrong", "invalid")))
    return known if known is None else int(known)
