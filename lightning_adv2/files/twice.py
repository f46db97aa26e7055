"""Small JSON files on which hours of work depend: sealed, and stored twice. Needs no torch.

The seal is the key ``sha256``: the hash of all other keys, whatever their order and spacing. The copy lies beside the
file, ``experiment.copy.json`` beside ``experiment.json``; one of the two is whole at any moment.
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
    """Return the path of a file's copy: ``experiment.copy.json`` for ``experiment.json``."""
    return path.with_name(f"{path.stem}.copy{path.suffix}")


def content_hash(content: Any) -> str:
    """Return the SHA-256 of a content in JSON's terms, 64 hexadecimal digits.

    Equal content has the same hash, whatever the order of keys; tuples count as lists.

    Raises:
        TypeError: JSON cannot hold the content.
    """
    plain = json.loads(json.dumps(content))
    return hashlib.sha256(json.dumps(plain, sort_keys=True, separators=(",", ":")).encode()).hexdigest()


def write_twice(path: Path, content: Mapping[str, Any]) -> None:
    """Write a JSON object with its seal, the copy first.

    Args:
        path: the file.
        content: without the key ``sha256``.

    Raises:
        OSError: see :func:`~lightning_adv2.files.whole.written_whole`.
    """
    sealed = {**content, SEAL: content_hash(content)}
    for one in (copy_of(path), path):
        write_json(one, sealed)


def read_one(path: Path, parse: Callable[[dict[str, Any]], T]) -> T:
    """Return the result of ``parse`` for a file's content without its seal, which must match where there is one.

    Args:
        path: the file.
        parse: takes the JSON object; raises a ValueError for a content that it refuses.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: the file is damaged, or ``parse`` refuses its content.
    """
    content = parse_json(read_text(path))
    if not isinstance(content, dict):
        raise ValueError("it holds no JSON object")
    seal = content.pop(SEAL, None)
    if seal is not None and seal != content_hash(content):
        raise ValueError("its SHA-256 is not the one that it carries")
    return parse(content)


def read_twice(path: Path, parse: Callable[[dict[str, Any]], T]) -> tuple[T, list[str]]:
    """Return the result of ``parse`` for a file, or for its copy where the file is bad, and the faults of both.

    Args:
        path: the file.
        parse: see :func:`read_one`.

    Returns:
        The result, and one sentence for each of the two files that is damaged or missing.

    Raises:
        FileNotFoundError: both files are missing.
        ValueError: neither file is whole.
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
