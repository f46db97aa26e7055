"""A run's record files, and their content as NumPy arrays. Needs no torch."""

from __future__ import annotations

import re
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple

from lightning_adv2.files.experiment import COPY, FILE, find_experiment
from lightning_adv2.files.names import check_name
from lightning_adv2.files.sealed import SEAL, Array, read_metadata, read_sealed
from lightning_adv2.files.strict import parse_json

FORMAT = "lightning_adv2 record 8"
AGAIN = "run the same command again, and it is made anew"


def record_key(attack: str, schedule: str) -> str:
    """Return an attack's key, unique within a run: ``adv2-fast``; a control's key is its name alone.

    Args:
        attack: the attack's name.
        schedule: ``fast``, ``paper``, or ``control``.
    """
    return attack if schedule == "control" else f"{attack}-{schedule}"


def record_path(folder: Path, interpreter: str, batch_index: int) -> Path:
    """Return the file of one batch under one interpreter.

    Args:
        folder: a run's ``records``.
        interpreter: the interpreter's name.
        batch_index: the batch's number in the manifest, from 0.
    """
    return folder / interpreter / f"batch_{batch_index:05d}.safetensors"


class Found(NamedTuple):
    """The content of a run's ``records``.

    Attributes:
        records: the run's record files: by interpreter in the module's order, then by batch.
        stray: all other files and folders, such as a copy, a backup folder, another interpreter's folder; of a folder
            its path alone, not its content.
    """

    records: list[Path]
    stray: list[Path]


def find_records(folder: Path) -> Found:
    """Return a run's record files, and the other content of its ``records``.

    Its records are ``<interpreter>/batch_00000.safetensors`` of the experiment's interpreters; where no experiment is
    known, of all interpreters.

    Args:
        folder: a run's ``records``; it may be missing.
    """
    names = _interpreters(folder)
    if names is None:
        folders = [one for one in _inside(folder) if not one.name.startswith(".") and _own(one)]
        names = [one.name for one in sorted(folders, key=lambda one: (_place(one), one.name))]
    own = [path for name in names for path in _own(folder / name)]
    known = {*own, folder / FILE, folder / COPY, *(folder / name for name in names)}
    return Found(
        own, [path for one in (folder, *(folder / n for n in names)) for path in _inside(one) if path not in known]
    )


def record_paths(folder: Path) -> list[Path]:
    """Return the record files below a folder, by interpreter in the module's order, then by batch.

    Args:
        folder: a run's ``records``, or one interpreter's folder in it.
    """
    return (_own(folder) if _interpreters(folder) is None else []) or find_records(folder).records


def stray_lines(folder: Path) -> list[str]:
    """Return a sentence for each file or folder in a run's ``records`` that is none of the run's records."""
    return [f"{path}: it is none of this run's records, and is left out" for path in find_records(folder).stray]


def foreign_records(folder: Path, experiment: str) -> list[Path]:
    """Return the records of other experiments; records that cannot be read are left out.

    Args:
        folder: a run's ``records``.
        experiment: the hash of the run's own experiment.
    """
    return [path for path, own in experiments_of(folder).items() if own != experiment]


def experiments_of(folder: Path) -> dict[Path, str]:
    """Return for each readable record in a run's ``records`` the hash of its experiment, from the header alone.

    Args:
        folder: a run's ``records``.
    """
    found: dict[Path, str] = {}
    for path in find_records(folder).records:
        with suppress(OSError, ValueError, KeyError, AttributeError):
            metadata = read_metadata(path)
            _check(metadata)  # another version's is refused as such where it is read
            found[path] = str(parse_json(metadata["header"]).get("experiment", ""))
    return found


def _interpreters(folder: Path) -> list[str] | None:
    """The names of the experiment's interpreters; None where the experiment is not known."""
    try:
        names = find_experiment(folder)[0]["experiment"].get("interpreters")
    except (FileNotFoundError, ValueError):
        return None
    return list(names) if isinstance(names, dict) else None


def _inside(folder: Path) -> list[Path]:
    """The content of a folder, without the parts of files that killed processes left."""
    return sorted(one for one in folder.glob("*") if not (one.name.startswith(".") and one.suffix == ".tmp"))


def _own(folder: Path) -> list[Path]:
    # By number: a name has five digits or more.
    return sorted(filter(_is_record, _inside(folder)), key=lambda one: (len(one.name), one.name))


def _is_record(path: Path) -> bool:
    return re.fullmatch(r"batch_(\d{5}|[1-9]\d{5,})\.safetensors", path.name) is not None


def _place(folder: Path) -> int:
    """The interpreter's place in the module; of a folder whose first record cannot be read, none."""
    try:
        return int(read_header(_own(folder)[0])["place"])
    except (OSError, ValueError, KeyError, TypeError):
        return 0


def _check(metadata: dict[str, str]) -> None:
    if metadata.get("format") != FORMAT:
        reads = f"; lightning_adv2 {metadata['version']} reads it" if "version" in metadata else ""
        raise ValueError(f"no record of this version (format {metadata.get('format')!r}, not {FORMAT!r}{reads})")
    if SEAL not in metadata:
        raise ValueError("the file is damaged: its seal is gone")


def read_header(path: Path) -> dict[str, Any]:
    """Return the header of a record, unchecked.

    Raises:
        OSError: the file cannot be read; see :func:`~lightning_adv2.files.sealed.read_metadata`.
        ValueError: the file is no safetensors file, or its header is no JSON; the error names the file.
    """
    try:
        header: dict[str, Any] = parse_json(read_metadata(path).get("header", "{}"))
    except ValueError as error:
        raise ValueError(f"{path}: {error}; {AGAIN}") from error
    return header


def read_arrays(path: Path) -> tuple[dict[str, Any], dict[str, Array]]:
    """Return the header and the tensors of a record, after a check of its seal.

    Returns:
        The header, and each tensor by its name; ``results.records`` lists names, shapes and types.

    Raises:
        ValueError: the file is missing, damaged, no record of this version, or in another record's place; the error
            says what to do.
    """
    try:
        return _read(path)
    except (OSError, ValueError) as error:
        raise ValueError(f"{path}: {error}; {AGAIN}") from error


def _read(path: Path) -> tuple[dict[str, Any], dict[str, Array]]:
    _check(read_metadata(path))  # before the rest: another version may have sealed it otherwise
    metadata, arrays = read_sealed(path)
    try:
        header: dict[str, Any] = parse_json(metadata["header"])
        # Somebody else may have written it: its names become paths and log keys, and must not lead anywhere else.
        check_name("interpreter", header["interpreter"])
        for attack in header["attacks"]:
            check_name("attack", attack["attack"])
            check_name("schedule", attack["schedule"])
        own = record_path(path.parent.parent, header["interpreter"], header["batch_index"])
    except (KeyError, TypeError, RecursionError) as error:
        raise ValueError("it has no header of a record") from error
    if own != path:
        raise ValueError(f"it is the record of {own.parent.name}/{own.name}")
    if not isinstance(header.get("experiment"), str):
        raise ValueError("it does not say of which experiment it is")
    return header, arrays


def damaged(path: Path) -> str | None:
    """Return why a record file is not finished: missing, cut off, changed, of another version or batch; else None."""
    try:
        _read(path)
    except (OSError, ValueError) as error:
        return str(error)
    return None
