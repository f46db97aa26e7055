"""A run's record files: what they are called, and what is in them as NumPy arrays. Needs no torch."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

from lightning_adv2.files.sealed import Array, read_metadata, read_sealed

FORMAT = "lightning_adv2 record 6"
AGAIN = "run the same command again, and it is made anew"


def check_name(argument: str, name: object) -> None:
    """Raise a ValueError for a name that cannot stand in a file's path or a log key."""
    if not isinstance(name, str) or not re.fullmatch(r"(?!\.)[a-z0-9._-]+", name):
        raise ValueError(
            f"{argument}: the name {name!r} becomes part of files and log keys; "
            "take lower-case letters, digits, '.', '_' and '-' only, such as 'adv2-smooth'"
        )


def record_key(attack: str, schedule: str) -> str:
    """Unique within a run, for log keys and records: ``adv2-fast``, or ``noise`` for a control."""
    return attack if schedule == "control" else f"{attack}-{schedule}"


def record_path(folder: Path, interpreter: str, batch_index: int) -> Path:
    """The file of one batch under one interpreter; ``folder`` is a run's ``records``."""
    return folder / interpreter / f"batch_{batch_index:05d}.safetensors"


def record_paths(folder: Path) -> list[Path]:
    """All record files below ``folder``: by interpreter in the module's order, then by batch.

    ``folder`` is a run's ``records``, or one interpreter's folder in it.

    Raises:
        ValueError: a file is no record of this version.
    """
    folders = {path.parent for path in folder.rglob("batch_*.safetensors")}
    ordered = sorted(folders, key=lambda one: (_place(min(one.glob("batch_*.safetensors"))), one.name))
    # By number: a name has five digits or more.
    return [p for one in ordered for p in sorted(one.glob("batch_*.safetensors"), key=lambda p: (len(p.name), p.name))]


def _place(path: Path) -> int:
    try:
        metadata = read_metadata(path)
        _check(metadata)
        return int(json.loads(metadata["header"])["place"])
    except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
        raise ValueError(f"{path}: {error}; {AGAIN}") from error


def _check(metadata: dict[str, str]) -> None:
    if metadata.get("format") != FORMAT:
        raise ValueError(f"no record of this version (format {metadata.get('format')!r}, not {FORMAT!r})")
    if "sha256" not in metadata:
        raise ValueError("the file is damaged: its seal is gone")


def read_header(path: Path) -> dict[str, Any]:
    """The header of a record, unchecked.

    Raises:
        OSError, ValueError: the file is missing or no sealed file.
    """
    header: dict[str, Any] = json.loads(read_metadata(path).get("header", "{}"))
    return header


def read_arrays(path: Path) -> tuple[dict[str, Any], dict[str, Array]]:
    """The header and the tensors of a record, once its seal is checked.

    Raises:
        ValueError: the file is missing, damaged, or no record of this version; says what to do.
    """
    try:
        return _read(path)
    except (OSError, ValueError) as error:
        raise ValueError(f"{path}: {error}; {AGAIN}") from error


def _read(path: Path) -> tuple[dict[str, Any], dict[str, Array]]:
    metadata, arrays = read_sealed(path)
    _check(metadata)
    try:
        header: dict[str, Any] = json.loads(metadata["header"])
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
    return header, arrays


def damaged(path: Path) -> str | None:
    """Why a record file is no finished one: missing, cut off, changed, of another version or batch; else None."""
    try:
        _read(path)
    except (OSError, ValueError) as error:
        return str(error)
    return None
