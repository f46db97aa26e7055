"""Small JSON files that hours of work hang on: sealed, and there twice. Needs no torch.

The seal is the key ``sha256``: the hash of all the rest, whatever its order and spacing. The copy lies beside the file,
``experiment.copy.json`` beside ``experiment.json``; one of the two is whole at any moment.
"""

from __future__ import annotations

import errno
import hashlib
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeVar

from lightning_adv2.files.regular import read_text
from lightning_adv2.files.strict import parse_json
from lightning_adv2.files.whole import write_json

T = TypeVar("T")
SEAL = "sha256"


def copy_of(path: Path) -> Path:
    """Where a file's copy lies."""
    return path.with_name(f"{path.stem}.copy{path.suffix}")


def content_hash(content: Any) -> str:
    """SHA-256 of what JSON can hold, equal for equal content: whatever the order of keys, tuples or lists."""
    plain = json.loads(json.dumps(content))
    return hashlib.sha256(json.dumps(plain, sort_keys=True, separators=(",", ":")).encode()).hexdigest()


def write_twice(path: Path, content: Mapping[str, Any]) -> None:
    """Write a JSON object with its seal, and its copy first.

    Raises:
        OSError: see :func:`~lightning_adv2.files.whole.written_whole`.
    """
    sealed = {**content, SEAL: content_hash(content)}
    for one in (copy_of(path), path):
        write_json(one, sealed)


def read_one(path: Path, parse: Callable[[dict[str, Any]], T]) -> T:
    """What ``parse`` makes of a file's content without the seal, which it must match if it has one.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it is damaged, or ``parse`` refuses it.
    """
    content = parse_json(read_text(path))
    if not isinstance(content, dict):
        raise ValueError("it holds no JSON object")
    seal = content.pop(SEAL, None)
    if seal is not None and seal != content_hash(content):
        raise ValueError("its SHA-256 is not the one that it carries")
    return parse(content)


def read_twice(path: Path, parse: Callable[[dict[str, Any]], T]) -> tuple[T, list[str]]:
    """What ``parse`` makes of the content of a file or, where that is damaged or missing, of its copy.

    Returns:
        That, and what is wrong with either file, in a line.

    Raises:
        FileNotFoundError: both are missing.
        ValueError: neither is whole.
    """
    found: list[T] = []
    wrong: dict[Path, str] = {}
    for one in (path, copy_of(path)):
        try:
            found.append(read_one(one, parse))
        except FileNotFoundError:
            wrong[one] = "it is missing"
        except (OSError, ValueError) as error:
            wrong[one] = f"it is damaged ({error})"
    if not found and set(wrong.values()) == {"it is missing"}:
        raise FileNotFoundError(errno.ENOENT, "there is no such file, nor a copy", str(path))
    if not found:
        raise ValueError("; ".join(f"{one}: {what}" for one, what in wrong.items()))
    return found[0], [f"{one}: {what}, but its twin beside it is whole" for one, what in wrong.items()]
